package provider

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
)

// accounts are service accounts by namespace/name.
type accounts map[string]map[string]string

func (a accounts) ServiceAccount(_ context.Context, namespace, name string) (string, map[string]string, error) {
	annotations, ok := a[namespace+"/"+name]
	if !ok {
		return "", nil, fmt.Errorf("service account %s of namespace %s: %w", name, namespace, model.ErrNotFound)
	}
	return "uid-of-" + name, annotations, nil
}

// jwt is a token of a service account with the UID.
func jwt(uid, signature string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"none"}`)) + "." + encode([]byte(`{"kubernetes.io":{"serviceaccount":{"name":"sa","uid":"`+uid+`"}}}`)) + "." + signature
}

func pod(namespace, account, token string) credential.Caller {
	c := credential.Caller{Namespace: namespace, Pod: "p", UID: "u", ServiceAccount: account}
	if token != "" {
		c.Tokens = map[string]model.Secret{"aud": model.NewSecret(token), "other": model.NewSecret("not this one")}
	}
	return c
}

func attributes(cacheType, more string) string {
	return "  tokenAttributes:\n    serviceAccountTokenAudience: aud\n    cacheType: " + cacheType + "\n" + more
}

const required = "    requireServiceAccount: true\n"

func TestTokens(t *testing.T) {
	w := newWorld(t, "cloud")
	ps := w.load(t, Options{ServiceAccounts: accounts{"ns/sa": {"example.com/role": "r1", "example.com/region": "eu", "other": canary}, "ns/plain": {}}},
		w.provider("cloud", "answer", reply("Registry", "*.example.com", "u", "pw", ""), attributes("ServiceAccount", required+
			"    requiredServiceAccountAnnotationKeys: [example.com/role]\n    optionalServiceAccountAnnotationKeys: [example.com/region, example.com/none]\n")))
	if got := ps.Audiences(); len(got) != 1 || got[0] != "aud" || !ps.WantAnnotations() {
		t.Errorf("audiences %q", got)
	}
	const ref = "a.example.com/x"
	for name, c := range map[string]credential.Caller{"no service account": pod("ns", "", "t"), "without the annotation": pod("ns", "plain", "t")} {
		if got := logins(t, ps, c, ref); got != "" {
			t.Errorf("a pod %s gets %s", name, got)
		}
	}
	for name, test := range map[string]struct {
		caller credential.Caller
		says   string
	}{
		"no token":   {pod("ns", "sa", ""), "tokenRequests"},
		"no account": {pod("ns", "gone", "t"), "service account gone of namespace ns"},
	} {
		if _, err := ps.Keychain(test.caller).Credentials(t.Context(), reference(t, ref)); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(w.runs(t)); n != 0 {
		t.Fatalf("%d runs for those who get nothing", n)
	}
	if got := logins(t, ps, pod("ns", "sa", jwt("1", "sig")), ref); got != "credential provider cloud=u:pw" {
		t.Errorf("got %q", got)
	}
	r := w.runs(t)[0].Request
	if want := map[string]string{"example.com/role": "r1", "example.com/region": "eu"}; r.ServiceAccountToken != jwt("1", "sig") || !maps.Equal(r.ServiceAccountAnnotations, want) {
		t.Errorf("request %+v", r)
	}
}

// TestScopes: an answer is used again for those alone whom cacheType allows.
func TestScopes(t *testing.T) {
	for cacheType, want := range map[string]int{"ServiceAccount": 4, "Token": 6} {
		t.Run(cacheType, func(t *testing.T) {
			w := newWorld(t, "cloud")
			ps := w.load(t, Options{}, w.provider("cloud", "answer", reply("Global", "*.example.com", "u", "$TOKEN-of", ""), attributes(cacheType, required)))
			for _, c := range []credential.Caller{
				pod("ns", "sa", jwt("1", "a")), pod("ns", "sa", jwt("1", "a")), // the same
				pod("ns", "sa", jwt("1", "b")), pod("ns", "sa", jwt("1", "c")), // other pods of the account
				pod("ns", "sa", jwt("2", "a")), // another account of the same name
				pod("ns", "sb", jwt("1", "a")), pod("nt", "sa", jwt("1", "a")),
			} {
				if got := logins(t, ps, c, "a.example.com/x"); got == "" {
					t.Error("no credential")
				}
			}
			if n := len(w.runs(t)); n != want {
				t.Errorf("%d runs, want %d", n, want)
			}
			for key := range ps[0].cache.answers {
				if strings.Contains(key, ".") || len(key) != 64 {
					t.Errorf("the cache has the key %q", key)
				}
			}
		})
	}
}

// TestWithoutServiceAccount: a provider that does not require one is asked without a token.
func TestWithoutServiceAccount(t *testing.T) {
	w := newWorld(t, "cloud")
	ps := w.load(t, Options{}, w.provider("cloud", "answer", reply("Image", "*.example.com", "u", "pw", ""), attributes("Token", "    requireServiceAccount: false\n")))
	if logins(t, ps, pod("ns", "", ""), "a.example.com/x") == "" || w.runs(t)[0].Request.ServiceAccountToken != "" {
		t.Errorf("runs %+v", w.runs(t))
	}
}

func TestPassThrough(t *testing.T) {
	w := newWorld(t, "cloud")
	ps := w.load(t, Options{}, w.provider("cloud", "answer", reply("Image", "*.example.com", "u", "$TOKEN", `,"cacheDuration":"0s"`), attributes("Token", required)))
	for range 2 {
		if got := logins(t, ps, pod("ns", "sa", "tok"), "a.example.com/x"); got != "credential provider cloud=u:tok" {
			t.Errorf("got %q", got)
		}
	}
	if n := len(w.runs(t)); n != 2 {
		t.Errorf("%d runs", n)
	}
}

func TestAnnotationsNeedAnAPIServer(t *testing.T) {
	w := newWorld(t, "cloud")
	ps := w.load(t, Options{}, w.provider("cloud", "answer", "", attributes("Token", required+"    optionalServiceAccountAnnotationKeys: [a]\n")))
	if _, err := ps.Keychain(pod("ns", "sa", "t")).Credentials(t.Context(), reference(t, "a.example.com/x")); !errors.Is(err, model.ErrUnsupported) {
		t.Errorf("got %v", err)
	}
}
