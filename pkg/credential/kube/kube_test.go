package kube

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
)

const (
	canary = "c4n4ry-s3cr3t-of-kube"
	ref    = "registry.example.com/team/model:v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// apiServer answers GETs of single objects as the API server does.
type apiServer struct {
	*httptest.Server

	mu      sync.Mutex // guards what follows
	objects map[string]any
	asked   []string
	// answer replaces the answers to paths that contain its key.
	answer map[string]http.HandlerFunc
}

func newAPIServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{objects: map[string]any{}, answer: map[string]http.HandlerFunc{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r.Method+" "+r.URL.Path)
	object, ok := s.objects[r.URL.Path]
	var instead http.HandlerFunc
	for part, answer := range s.answer {
		if strings.Contains(r.URL.Path, part) {
			instead = answer
		}
	}
	s.mu.Unlock()
	switch {
	case instead != nil:
		instead(w, r)
	case !ok:
		status(w, http.StatusNotFound, metav1.StatusReasonNotFound, "not found")
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(object)
	}
}

func status(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	})
}

func (s *apiServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

func (s *apiServer) put(path string, object any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects["/api/v1/namespaces/"+path] = object
}

func (s *apiServer) answers(part string, h http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer[part] = h
}

func (s *apiServer) pod(namespace, name, uid, account string, secrets ...string) {
	s.put(namespace+"/pods/"+name, corev1.Pod{
		TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, UID: types.UID(uid)},
		Spec:       corev1.PodSpec{NodeName: "node-1", ServiceAccountName: account, ImagePullSecrets: references(secrets)},
	})
}

func (s *apiServer) account(namespace, name string, secrets ...string) {
	s.put(namespace+"/serviceaccounts/"+name, corev1.ServiceAccount{
		TypeMeta:         metav1.TypeMeta{Kind: "ServiceAccount", APIVersion: "v1"},
		ObjectMeta:       metav1.ObjectMeta{Name: name, Namespace: namespace, UID: "uid-of-account", Annotations: map[string]string{"a": "b"}},
		ImagePullSecrets: references(secrets),
	})
}

func references(names []string) (out []corev1.LocalObjectReference) {
	for _, n := range names {
		out = append(out, corev1.LocalObjectReference{Name: n})
	}
	return out
}

func (s *apiServer) secret(namespace, name string, kind corev1.SecretType, key, value string) {
	s.put(namespace+"/secrets/"+name, corev1.Secret{
		TypeMeta:   metav1.TypeMeta{Kind: "Secret", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Type:       kind, Data: map[string][]byte{key: []byte(value)},
	})
}

// login makes a pull secret for a user at the registry.
func (s *apiServer) login(namespace, name, user string) {
	s.secret(namespace, name, corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey,
		fmt.Sprintf(`{"auths":{"registry.example.com":{"auth":%q}}}`, base64.StdEncoding.EncodeToString([]byte(user+":"+canary))))
}

func (s *apiServer) client(t *testing.T, o Options) *Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := New(&rest.Config{Host: s.URL, Transport: transport}, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func caller(namespace, pod, uid string) credential.Caller {
	return credential.Caller{Namespace: namespace, Pod: pod, UID: uid}
}

// users are those that a caller may be, with the names of their credentials, and what is wrong.
func users(t *testing.T, c *Client, who credential.Caller, namespaces ...string) (string, error) {
	t.Helper()
	r, err := model.ParseRef(ref)
	if err != nil {
		t.Fatal(err)
	}
	creds, broken := c.PullSecrets(namespaces)(who).Credentials(t.Context(), r)
	var out []string
	for _, c := range creds {
		out = append(out, fmt.Sprintf("%s (%s)", c.Username, c))
	}
	if broken != nil && (strings.Contains(broken.Error(), canary) || len(broken.Error()) > 2000) {
		t.Errorf("the error shows too much: %v", broken)
	}
	return strings.Join(out, ", "), broken
}

func TestPullSecrets(t *testing.T) {
	s := newAPIServer(t)
	s.pod("ns", "p", "uid", "sa", "one", "two", "old", "one", "missing", "opaque", "damaged")
	s.account("ns", "sa", "two", "three")
	for _, name := range []string{"one", "two", "three"} {
		s.login("ns", name, "user-"+name)
	}
	s.secret("ns", "old", corev1.SecretTypeDockercfg, corev1.DockerConfigKey, `{"registry.example.com":{"username":"user-old","password":"pw"}}`)
	s.secret("ns", "opaque", corev1.SecretTypeOpaque, "password", canary)
	s.secret("ns", "damaged", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, `{"auths":`+canary)
	s.login("other", "one", "somebody-else")

	got, err := users(t, s.client(t, Options{Node: "node-1"}), caller("ns", "p", "uid"), "other", "ns")
	want := "user-one (secret one of namespace ns), user-two (secret two of namespace ns), user-old (secret old of namespace ns), user-three (secret three of namespace ns)"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, text := range []string{"secret missing of namespace ns: the API server has none", `secret opaque of namespace ns: it has the type "Opaque"`, "secret damaged of namespace ns"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %q", err, text)
		}
	}
	for _, r := range s.requests() {
		if !strings.HasPrefix(r, "GET /api/v1/namespaces/ns/") {
			t.Errorf("request %s", r)
		}
	}
}

func TestWhoMay(t *testing.T) {
	s := newAPIServer(t)
	s.pod("ns", "p", "uid", "", "one")
	s.login("ns", "one", "ann")
	for name, test := range map[string]struct {
		who        credential.Caller
		node       string
		namespaces []string
		want       bool
		kind       error
		requests   int
	}{
		"allowed":              {caller("ns", "p", "uid"), "node-1", []string{"ns"}, true, nil, 2},
		"all namespaces":       {caller("ns", "p", "uid"), "", []string{"*"}, true, nil, 2},
		"no namespace":         {caller("ns", "p", "uid"), "", nil, false, nil, 0},
		"another namespace":    {caller("ns", "p", "uid"), "", []string{"n", "nsx", "*ns"}, false, nil, 0},
		"stale name":           {caller("ns", "p", "earlier"), "", []string{"ns"}, false, model.ErrNotFound, 1},
		"pod of another node":  {caller("ns", "p", "uid"), "node-2", []string{"ns"}, false, model.ErrNotFound, 1},
		"gone":                 {caller("ns", "q", "uid"), "", []string{"ns"}, false, model.ErrNotFound, 1},
		"unknown pod":          {caller("", "", ""), "", []string{"*"}, false, model.ErrUnsupported, 0},
		"no UID":               {caller("ns", "p", ""), "", []string{"*"}, false, model.ErrUnsupported, 0},
		"a name with a slash":  {caller("ns", "../../secrets/one", "uid"), "", []string{"ns"}, false, model.ErrUnavailable, 0},
		"a namespace of parts": {caller("ns/pods/p/x", "p", "uid"), "", []string{"*"}, false, model.ErrUnavailable, 0},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(s.requests())
			got, err := users(t, s.client(t, Options{Node: test.node}), test.who, test.namespaces...)
			if (got != "") != test.want || !errors.Is(err, test.kind) {
				t.Errorf("got %q and %v", got, err)
			}
			if n := len(s.requests()) - before; n != test.requests {
				t.Errorf("%d requests, want %d: %q", n, test.requests, s.requests()[before:])
			}
		})
	}
}

func TestOtherSchemes(t *testing.T) {
	s := newAPIServer(t)
	r, err := model.ParseRef("hf://org/name")
	if err != nil {
		t.Fatal(err)
	}
	if creds, err := s.client(t, Options{}).PullSecrets([]string{"*"})(caller("ns", "p", "uid")).Credentials(t.Context(), r); len(creds) > 0 || err != nil || len(s.requests()) > 0 {
		t.Errorf("got %v, %v after %q", creds, err, s.requests())
	}
}

// TestShared: what a hundred pods need is asked for once, and again after some seconds.
func TestShared(t *testing.T) {
	s := newAPIServer(t)
	s.account("ns", "sa", "one")
	s.login("ns", "one", "ann")
	const pods = 50
	for i := range pods {
		s.pod("ns", fmt.Sprintf("p%d", i), "uid", "sa", "one")
	}
	c := s.client(t, Options{TTL: time.Hour})
	var all sync.WaitGroup
	for i := range pods {
		all.Go(func() {
			if got, err := users(t, c, caller("ns", fmt.Sprintf("p%d", i), "uid"), "ns"); got == "" || err != nil {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	all.Wait()
	if n := len(s.requests()); n != pods+2 {
		t.Errorf("%d requests for %d pods", n, pods)
	}
	// A changed secret is seen as soon as the answer has expired.
	s.login("ns", "one", "bob")
	c.mu.Lock()
	for key, a := range c.answers {
		a.expires = time.Now()
		c.answers[key] = a
	}
	c.mu.Unlock()
	if got, _ := users(t, c, caller("ns", "p0", "uid"), "ns"); !strings.HasPrefix(got, "bob") {
		t.Errorf("got %q after a change", got)
	}
}

// TestFailures: an API server that is away, slow, hostile or refuses does not hold anybody up, and nothing it says about
// a secret is repeated.
func TestFailures(t *testing.T) {
	for name, test := range map[string]struct {
		part   string
		answer http.HandlerFunc
		kind   error
		says   string
	}{
		"may not": {"/secrets/", func(w http.ResponseWriter, _ *http.Request) {
			status(w, http.StatusForbidden, metav1.StatusReasonForbidden, "secrets is forbidden")
		}, model.ErrDenied, "may not read"},
		"unknown": {"/pods/", func(w http.ResponseWriter, _ *http.Request) {
			status(w, http.StatusUnauthorized, metav1.StatusReasonUnauthorized, "Unauthorized")
		}, model.ErrDenied, "may not read"},
		"broken": {"/pods/", func(w http.ResponseWriter, _ *http.Request) {
			status(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, "etcd is away")
		}, model.ErrUnavailable, "etcd is away"},
		"closes": {"/pods/", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, model.ErrUnavailable, "cannot be reached"},
		"hangs":  {"/secrets/", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, model.ErrUnavailable, "secret one of namespace ns"},
		"endless": {"/secrets/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			text := []byte(strings.Repeat(canary, 1000))
			for {
				if _, err := w.Write(text); err != nil {
					return
				}
			}
		}, model.ErrUnavailable, "secret one of namespace ns"},
		"not JSON": {"/secrets/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"kind":"Secret","apiVersion":"v1","data":{"a":%s}}`, canary)
		}, model.ErrUnavailable, "cannot be understood"},
		"not base64": {"/secrets/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"kind":"Secret","apiVersion":"v1","data":{"a":"%s!"}}`, canary)
		}, model.ErrUnavailable, "cannot be understood"},
		"other object": {"/secrets/", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = fmt.Fprintf(w, `{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"%s"}}`, canary)
		}, model.ErrUnavailable, "cannot be understood"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newAPIServer(t)
			s.pod("ns", "p", "uid", "", "one", "two")
			s.answers(test.part, test.answer)
			o := Options{Timeout: time.Minute, TTL: time.Hour}
			if name == "hangs" {
				o.Timeout = 3 * time.Second
			}
			c := s.client(t, o)
			got, err := users(t, c, caller("ns", "p", "uid"), "ns")
			if got != "" || !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %q and %v, want %q", got, err, test.says)
			}
			if test.kind != model.ErrUnavailable {
				return
			}
			// Nobody else waits for it until some time has passed.
			before := len(s.requests())
			if _, err := users(t, c, caller("ns", "q", "uid"), "ns"); !errors.Is(err, model.ErrUnavailable) || len(s.requests()) != before {
				t.Errorf("asked again: %v, %q", err, s.requests()[before:])
			}
		})
	}
}

func TestCallerLeaves(t *testing.T) {
	s := newAPIServer(t)
	s.answers("/pods/", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("kubelet has gone"))
	_, err := s.client(t, Options{Timeout: time.Second}).pod(ctx, "ns", "p")
	if !errors.Is(err, model.ErrUnavailable) || !strings.Contains(err.Error(), "kubelet has gone") {
		t.Errorf("got %v", err)
	}
}

func TestServiceAccount(t *testing.T) {
	s := newAPIServer(t)
	s.account("ns", "sa")
	c := s.client(t, Options{})
	if uid, annotations, err := c.ServiceAccount(t.Context(), "ns", "sa"); uid != "uid-of-account" || annotations["a"] != "b" || err != nil {
		t.Errorf("got %s, %v, %v", uid, annotations, err)
	}
	if _, _, err := c.ServiceAccount(t.Context(), "ns", "none"); !errors.Is(err, model.ErrNotFound) || !strings.Contains(err.Error(), "service account none of namespace ns") {
		t.Errorf("got %v", err)
	}
}

func TestInCluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := InCluster(Options{}); err == nil || !strings.Contains(err.Error(), "automountServiceAccountToken") {
		t.Errorf("got %v", err)
	}
}
