package credential_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
)

func TestPatterns(t *testing.T) {
	for _, test := range []struct {
		pattern, ref   string
		whole, partial bool // by Matches, and by MatchesPrefix
	}{
		{"registry.example.com", "registry.example.com/a/b", true, true},
		{"registry.example.com", "registry.example.com.evil.org/a", false, false},
		{"registry.example.com", "evil.org/registry.example.com", false, false},
		{"registry.example.com", "registry.example.com:5000/a", false, false},
		{"registry.example.com:5000", "registry.example.com:5000/a", true, true},
		{"*.example.com", "registry.example.com/a", true, true},
		{"*.example.com", "example.com/a", false, false},
		{"*.example.com", "a.b.example.com/a", false, false},
		{"registry-*.example.com", "registry-1.example.com/a", true, true},
		{"*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-west-1.amazonaws.com/a", true, true},
		{"registry.example.com/team", "registry.example.com/team", true, true},
		{"registry.example.com/team", "registry.example.com/team/a", true, true},
		{"registry.example.com/team", "registry.example.com/team-b/a", false, true},
		{"registry.example.com/team/", "registry.example.com/team/a", true, true},
		{"registry.example.com/team", "registry.example.com/a/team", false, false},
		{"docker.io", "docker.io/library/a", true, true},
		{"index.docker.io", "docker.io/library/a", true, true},
		{"[::1]:5000", "[::1]:5000/a", true, true},
	} {
		p, err := credential.ParsePattern(test.pattern)
		if err != nil {
			t.Fatal(err)
		}
		ref := mustRef(t, test.ref)
		if p.String() != test.pattern || p.Matches(ref) != test.whole || p.MatchesPrefix(ref) != test.partial {
			t.Errorf("%s for %s: %t and %t", p, ref, p.Matches(ref), p.MatchesPrefix(ref))
		}
	}
	for pattern, says := range map[string]string{
		"": "names no registry", "*": "names no registry", "**": "names no registry", "/team": "names no registry",
		"https://registry.example.com": "scheme", "a b.example.com": "spaces", "registry.example.com/*": "glob in its port or path",
		"registry.example.com:*": "glob in its port or path", "[a.example.com": "not complete", "a..example.com": "empty part",
	} {
		if _, err := credential.ParsePattern(pattern); !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", pattern, err, says)
		}
	}
	if _, err := credential.ParsePatterns([]string{"*", "a.example.com", "b c"}); err == nil || !strings.Contains(err.Error(), `"*"`) || !strings.Contains(err.Error(), `"b c"`) {
		t.Errorf("not every mistake is reported: %v", err)
	}
}

// never fails the test when it is asked.
type never struct{ t *testing.T }

func (n never) Credentials(_ context.Context, ref model.Ref) ([]model.Credential, error) {
	n.t.Errorf("asked for %s", ref)
	return nil, nil
}

func TestRestrict(t *testing.T) {
	patterns, err := credential.ParsePatterns([]string{"*.example.com", "registry.example.org/team"})
	if err != nil {
		t.Fatal(err)
	}
	all, err := credential.ForPod(map[string]string{"username": "node", "password": "pw"})
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"registry.example.com/a", "registry.example.org/team/a"} {
		if got := users(t, credential.Restrict(all, patterns), ref); len(got) != 1 {
			t.Errorf("%s: got %q", ref, got)
		}
	}
	for _, ref := range []string{"example.com/a", "registry.example.org/other/a", "evil.org/a"} {
		if got := users(t, credential.Restrict(never{t}, patterns), ref); len(got) != 0 {
			t.Errorf("%s: got %q", ref, got)
		}
	}
	if got := users(t, credential.Restrict(never{t}, nil), "registry.example.com/a"); len(got) != 0 {
		t.Errorf("without patterns: got %q", got)
	}
}

func TestFromSecret(t *testing.T) {
	const json, cfg = "kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg"
	entry := `{"registry.example.com":{"username":"ann","password":"` + canary + `"}}`
	for name, test := range map[string]struct {
		kind string
		data map[string]string
		err  string
	}{
		"dockerconfigjson": {json, map[string]string{".dockerconfigjson": `{"auths":` + entry + `}`}, ""},
		"dockercfg":        {cfg, map[string]string{".dockercfg": entry}, ""},
		"key of the other": {json, map[string]string{".dockercfg": entry}, `no key ".dockerconfigjson"`},
		"no key":           {cfg, nil, `no key ".dockercfg"`},
		"other type":       {"kubernetes.io/basic-auth", map[string]string{"username": "a", "password": canary}, "kubernetes.io/basic-auth"},
		"damaged":          {json, map[string]string{".dockerconfigjson": canary}, "not valid JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			data := map[string][]byte{}
			for key, value := range test.data {
				data[key] = []byte(value)
			}
			k, err := credential.FromSecret("secret x of namespace y", test.kind, data)
			if test.err != "" {
				if !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), "secret x of namespace y") || strings.Contains(err.Error(), canary) {
					t.Fatalf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			creds, err := k.Credentials(t.Context(), mustRef(t, "registry.example.com/a"))
			if err != nil || len(creds) != 1 || creds[0].String() != "secret x of namespace y" || creds[0].AnyRegistry {
				t.Errorf("got %v, %v", creds, err)
			}
		})
	}
}

func TestFromLogins(t *testing.T) {
	k := credential.FromLogins("credential provider x", map[string]credential.Login{
		"*.example.com": {Username: "wide"}, "registry.example.com": {Username: "host"}, "registry.example.com/team": {Username: "path"},
		"https://registry.example.com/v2/": {Username: "url"}, "other.example.org": {Username: "other"}, "registry.example.com/team-b": {},
	})
	if got := strings.Join(users(t, k, "registry.example.com/team-b/a"), " "); got != "path url host wide" {
		t.Errorf("got %q", got)
	}
}

func TestCallerShowsNoSecret(t *testing.T) {
	c := credential.Caller{
		Namespace: "ns", Pod: "p", UID: "u", Secrets: map[string]string{"password": canary},
		Tokens: map[string]model.Secret{"aud": model.NewSecret(canary)},
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "caller", c)
	for _, text := range []string{fmt.Sprintf("%v %+v %#v %s %d", c, c, c, c, c), log.String()} {
		if strings.Contains(text, canary) || !strings.Contains(text, "ns/p") {
			t.Errorf("a caller prints as %s", text)
		}
	}
}

func FuzzPattern(f *testing.F) {
	for _, seed := range []string{"registry.example.com", "*.example.com:5000/a/b", "[::1]:5000", "https://index.docker.io/v1/", "[a-", "*", "a//b"} {
		f.Add(seed, "registry.example.com:5000", "a/b")
	}
	f.Fuzz(func(t *testing.T, text, host, repository string) {
		ref := model.Ref{Registry: host, Repository: repository}
		p, err := credential.ParsePattern(text)
		if err != nil {
			if !errors.Is(err, model.ErrInvalid) || len(err.Error()) > 1000 {
				t.Fatalf("error of another kind, or a long one: %v", err)
			}
			return
		}
		if p.Matches(ref) && !p.MatchesPrefix(ref) {
			t.Fatalf("%q matches %s as a whole and not by its beginning", text, ref)
		}
		if loose, err := credential.ImagePattern(text); err != nil || loose.Matches(ref) != p.Matches(ref) {
			t.Fatalf("%q is another pattern for credential providers: %v", text, err)
		}
	})
}
