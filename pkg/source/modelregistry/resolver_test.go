package modelregistry

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func direct(t *testing.T) func(string) (http.RoundTripper, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(transport.CloseIdleConnections)
	return func(string) (http.RoundTripper, error) { return transport, nil }
}

func newResolver(t *testing.T, url string) *Resolver {
	t.Helper()
	r, err := New(Options{URL: url, Transport: direct(t)})
	if err != nil {
		t.Fatal(err)
	}
	r.firstPause = time.Millisecond
	return r
}

func parseRef(t *testing.T, s string) model.Ref {
	t.Helper()
	ref, err := model.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func lookup(t *testing.T, r *Resolver, name string) (string, error) {
	t.Helper()
	ref, err := r.Lookup(t.Context(), parseRef(t, name), model.Credential{})
	if err != nil {
		return "", err
	}
	return ref.String(), nil
}

// TestService speaks to the in-process server, or to a real model registry: MODEL_CSI_LIVE_MODEL_REGISTRY has its URL
// then, and MODEL_CSI_LIVE_MODEL the name of a model in it whose newest version can be mounted.
func TestService(t *testing.T) {
	url, name := os.Getenv("MODEL_CSI_LIVE_MODEL_REGISTRY"), os.Getenv("MODEL_CSI_LIVE_MODEL")
	if url == "" {
		s := newServer(t)
		s.register("iris", "v1", "oci://r.example.com/iris:1")
		url, name = s.URL, "iris"
	}
	r := newResolver(t, url)
	ref, err := r.Lookup(t.Context(), model.Ref{Scheme: model.SchemeModelRegistry, Repository: name}, model.Credential{})
	if err != nil || ref.Repository == "" || ref.Scheme == model.SchemeModelRegistry {
		t.Errorf("%s: %+v, %v", name, ref, err)
	}
	if _, err := lookup(t, r, "model-registry://there-is-no-such-model"); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("no such model: %v", err)
	}
}

func TestLookup(t *testing.T) {
	s := newServer(t)
	s.register("iris", "v1", "oci://r.example.com/iris:1")
	s.register("iris", "v2", "hf://org/old", "hf://org/iris@main")
	s.register("granite 3.1/8b", "2024-12 (final)", "ollama://granite:8b")
	r := newResolver(t, s.URL)
	for _, old := range []bool{false, true} {
		s.old = old
		for in, want := range map[string]string{
			"model-registry://iris/v1":                                 "r.example.com/iris:1",
			"model-registry://iris/v2":                                 "hf://org/iris@main",
			"model-registry://iris":                                    "hf://org/iris@main",
			"model-registry://granite%203.1%2F8b":                      "ollama://registry.ollama.ai/library/granite:8b",
			"model-registry://granite%203.1%2F8b/2024-12%20(final)":    "ollama://registry.ollama.ai/library/granite:8b",
			"model-registry://" + s.Listener.Addr().String() + "/iris": "hf://org/iris@main",
		} {
			if got, err := lookup(t, r, in); err != nil || got != want {
				t.Errorf("%s: %s, %v", in, got, err)
			}
		}
	}
	for _, in := range []string{"model-registry://iris/v3", "model-registry://nobody/v1", "model-registry://Iris"} {
		if got, err := lookup(t, r, in); !errors.Is(err, model.ErrNotFound) || !strings.Contains(err.Error(), "check the names") {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
}

func TestPages(t *testing.T) {
	s := newServer(t)
	s.page, s.old = 3, true
	for i := range 10 {
		s.register("iris", fmt.Sprintf("v%d", i), fmt.Sprintf("oci://r.io/iris:%d", i))
	}
	_, last := s.register("iris", "v10")
	for i := range 8 {
		a := s.object(fmt.Sprint(i))
		a["artifactType"], a["uri"] = "model-artifact", fmt.Sprintf("oci://r.io/last:%d", i)
		s.artifacts[last["id"].(string)] = append(s.artifacts[last["id"].(string)], a)
	}
	if got, err := lookup(t, newResolver(t, s.URL), "model-registry://iris"); err != nil || got != "r.io/last:7" {
		t.Errorf("%s, %v", got, err)
	}
	if len(s.requests) != 1+4+3 {
		t.Errorf("%d requests: %q", len(s.requests), s.requests)
	}
}

func TestStates(t *testing.T) {
	s := newServer(t)
	s.register("iris", "v1", "oci://r.io/iris:1")
	_, archived := s.register("iris", "v2", "oci://r.io/iris:2")
	archived["state"] = "ARCHIVED"
	r := newResolver(t, s.URL)
	for in, want := range map[string]string{
		"model-registry://iris":    "r.io/iris:1", // the newest that is live
		"model-registry://iris/v2": "r.io/iris:2", // named, so it is meant
	} {
		if got, err := lookup(t, r, in); err != nil || got != want {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	_, gone := s.register("gone", "v1", "oci://r.io/gone:1")
	gone["state"] = "ARCHIVED"
	if _, err := lookup(t, r, "model-registry://gone"); !errors.Is(err, model.ErrNotFound) || !strings.Contains(err.Error(), "none of its 1 versions is live") {
		t.Errorf("archived: %v", err)
	}
	_, v := s.register("parts", "v1", "oci://r.io/parts:good", "oci://r.io/parts:bad")
	artifacts := s.artifacts[v["id"].(string)]
	doc := s.object("card")
	doc["artifactType"], doc["uri"] = "doc-artifact", "https://example.com/card"
	s.artifacts[v["id"].(string)] = append(artifacts, doc)
	s.old = true
	for _, state := range []string{"PENDING", "MARKED_FOR_DELETION", "DELETED", "ABANDONED", "something new"} {
		artifacts[1]["state"], artifacts[0]["state"] = state, "LIVE"
		if got, err := lookup(t, r, "model-registry://parts"); err != nil || got != "r.io/parts:good" {
			t.Errorf("%s beside a live one: %s, %v", state, got, err)
		}
		artifacts[0]["state"] = state
		if _, err := lookup(t, r, "model-registry://parts"); !errors.Is(err, model.ErrNotFound) || !strings.Contains(err.Error(), state) {
			t.Errorf("%s: %v", state, err)
		}
	}
}

func TestURIs(t *testing.T) {
	for uri, want := range map[string]string{
		"oci://quay.io/org/model:1": "quay.io/org/model:1",
		"\tquay.io/org/model:1\n":   "quay.io/org/model:1",
		"hf://org/name":             "hf://org/name",
		"hf://org/name:607a30d783dfa663caf39e06633721c8d4cfcd7e": "hf://org/name@607a30d783dfa663caf39e06633721c8d4cfcd7e",
		"hf://org/name@main":                                             "hf://org/name@main",
		"https://huggingface.co/org/name":                                "hf://org/name",
		"https://huggingface.co/org/name/":                               "hf://org/name",
		"https://huggingface.co/org/name/tree/v1.0":                      "hf://org/name@v1.0",
		"https://huggingface.co/org/name/resolve/refs%2Fpr%2F1/a/b.onnx": "hf://org/name@refs%2Fpr%2F1",
		"https://huggingface.co/datasets/org/name/blob/main/a?x=1":       "hf://datasets/org/name@main",
		"ollama://llama3.2:1b":                                           "ollama://registry.ollama.ai/library/llama3.2:1b",
	} {
		if ref, err := fromURI(uri); err != nil || ref.String() != want {
			t.Errorf("%s: %s, %v", uri, ref, err)
		}
	}
	for uri, kind := range map[string]error{
		"s3://bucket/model?secret=hunter2":                      model.ErrUnsupported,
		"https://user:hunter2@example.com/m.tgz?secret=hunter2": model.ErrUnsupported,
		"gs://bucket/model":                                     model.ErrUnsupported,
		"pvc://claim/model":                                     model.ErrUnsupported,
		"model-registry://iris/v1":                              model.ErrUnsupported,
		"file:///etc/shadow":                                    model.ErrUnsupported,
		"javascript://%0aalert(1)":                              model.ErrUnsupported,
		"/mnt/models":                                           model.ErrInvalid,
		"oci://r.io/../../v2/m":                                 model.ErrInvalid,
		"oci://r.io/m:1\x00":                                    model.ErrInvalid,
		"hf://org/name@../x":                                    model.ErrInvalid,
		"https://huggingface.co/org":                            nil, // an old model without an owner
		"https://huggingface.co/":                               model.ErrInvalid,
	} {
		ref, err := fromURI(uri)
		if kind == nil && err == nil {
			continue
		}
		if !errors.Is(err, kind) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "\x00") {
			t.Errorf("%q: %s, %v", uri, ref, err)
		}
	}
	for _, tt := range []struct {
		artifact artifact
		says     string
	}{
		{artifact{Type: modelArtifact}, "has no URI"},
		{artifact{Type: modelArtifact, StorageKey: "aws"}, `object store of "aws"`},
	} {
		if _, err := choose([]artifact{tt.artifact}); !errors.Is(err, model.ErrUnsupported) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%+v: %v", tt.artifact, err)
		}
	}
}

func TestCredentials(t *testing.T) {
	s := newServer(t)
	s.token = "the-token-of-alice"
	s.register("iris", "v1", "oci://r.io/iris:1")
	r := newResolver(t, s.URL)
	name := parseRef(t, "model-registry://iris/v1")
	for what, c := range map[string]model.Credential{
		"access token": {AccessToken: model.NewSecret(s.token)},
		"password":     {Username: "any", Password: model.NewSecret(s.token)},
	} {
		if _, err := r.Lookup(t.Context(), name, c); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := r.Lookup(t.Context(), name, model.Credential{}); !errors.Is(err, model.ErrUnauthenticated) || !strings.Contains(err.Error(), "nodePublishSecretRef") {
		t.Errorf("anonymous: %v", err)
	}
	s.answer = func(w http.ResponseWriter, r *http.Request) bool {
		refuse(w, http.StatusForbidden, "not you with "+r.Header.Get("Authorization"))
		return true
	}
	wrong := model.Credential{Name: "secret x", AccessToken: model.NewSecret("hunter2hunter2")}
	_, err := r.Lookup(t.Context(), name, wrong)
	if !errors.Is(err, model.ErrDenied) || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "secret x") {
		t.Errorf("denied: %v", err)
	}
}

func TestServerErrors(t *testing.T) {
	s := newServer(t)
	s.register("iris", "v1", "oci://r.io/iris:1")
	r := newResolver(t, s.URL)
	failures := 0
	s.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		if failures == 0 {
			return false
		}
		failures--
		refuse(w, http.StatusServiceUnavailable, "starting")
		return true
	}
	failures = 2
	if _, err := lookup(t, r, "model-registry://iris/v1"); err != nil {
		t.Errorf("after two failures: %v", err)
	}
	failures = 100
	if _, err := lookup(t, r, "model-registry://iris/v1"); !errors.Is(err, model.ErrUnavailable) || !strings.Contains(err.Error(), "starting") {
		t.Errorf("down: %v", err)
	}
	s.answer = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "7")
		refuse(w, http.StatusTooManyRequests, "slow down")
		return true
	}
	var later *model.RetryAfterError
	if _, err := lookup(t, r, "model-registry://iris/v1"); !errors.As(err, &later) || later.After != 7*time.Second {
		t.Errorf("too many requests: %v", err)
	}
	s.answer = nil
	s.Close()
	if _, err := lookup(t, r, "model-registry://iris/v1"); !errors.Is(err, model.ErrUnavailable) {
		t.Errorf("nobody listens: %v", err)
	}
}

func TestHostileAnswers(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("the other host is asked: %s with %q", r.URL, r.Header.Get("Authorization"))
	}))
	defer elsewhere.Close()
	write := func(text string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool { _, _ = io.WriteString(w, text); return true }
	}
	onPath := func(part, text string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			return strings.Contains(r.URL.Path, part) && write(text)(w, r)
		}
	}
	pages := 0
	for what, tt := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request) bool
		kind   error
		says   string
	}{
		"login page":        {write("<!doctype html><html>"), model.ErrUnauthenticated, "login"},
		"no JSON":           {write("hello"), model.ErrUnavailable, "not what the API has"},
		"wrong types":       {write(`{"id": {"a": 1}, "name": 7}`), model.ErrUnavailable, "not what the API has"},
		"empty":             {write(""), model.ErrUnavailable, "not what the API has"},
		"another model":     {write(`{"id": "1", "name": "other"}`), model.ErrUnavailable, `answers with "other"`},
		"id leaves path":    {write(`{"id": "1/../../x", "name": "iris"}`), model.ErrUnavailable, "no proper id"},
		"no id":             {write(`{"name": "iris"}`), model.ErrUnavailable, "no proper id"},
		"version id":        {onPath("/versions", `{"items": [{"id": "..", "name": "x"}]}`), model.ErrUnavailable, "no proper id"},
		"no versions":       {onPath("/versions", `{"items": null}`), model.ErrNotFound, "none of its 0 versions"},
		"no artifacts":      {onPath("/artifacts", `{"items": []}`), model.ErrNotFound, "no model artifact"},
		"URI with controls": {onPath("/artifacts", `{"items": [{"artifactType": "model-artifact", "uri": "oci://r.io/m\u001b[31m:1"}]}`), model.ErrInvalid, "repository"},
		"huge":              {write(`{"name": "` + strings.Repeat("x", maxAnswer)), model.ErrUnavailable, "more than"},
		"items no list":     {onPath("/versions", `{"items": {"id": "1"}}`), model.ErrUnavailable, "not what the API has"},
		"too many":          {onPath("/versions", `{"items": [{}`+strings.Repeat(",{}", maxAnswer/4)+`]}`), model.ErrUnavailable, "entities"},
		"login redirect": {func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, elsewhere.URL+"/login", http.StatusFound)
			return true
		}, model.ErrUnauthenticated, "login"},
		"redirects in a circle": {func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, r.URL.String(), http.StatusFound)
			return true
		}, model.ErrUnavailable, "redirects"},
		"pages without end": {func(w http.ResponseWriter, r *http.Request) bool {
			pages++
			return strings.HasSuffix(r.URL.Path, "/versions") && write(fmt.Sprintf(`{"items": [], "nextPageToken": "%d"}`, pages))(w, r)
		}, model.ErrUnavailable, "pages"},
	} {
		s := newServer(t)
		s.register("iris", "v1", "oci://r.io/iris:1")
		s.answer = tt.answer
		_, err := newResolver(t, s.URL).Lookup(t.Context(), parseRef(t, "model-registry://iris"), model.Credential{AccessToken: model.NewSecret("t0ken-of-a-pod")})
		if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.says) || strings.ContainsAny(err.Error(), "\x00\x1b") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestComplete(t *testing.T) {
	r := newResolver(t, "http://localhost:8080/gateway")
	none := newResolver(t, "")
	for _, tt := range []struct {
		r        *Resolver
		in, want string
		kind     error
	}{
		{r, "model-registry://iris/v1", "model-registry://localhost:8080/iris/v1", nil},
		{r, "model-registry://localhost:8080/iris/v1", "model-registry://localhost:8080/iris/v1", nil},
		{r, "model-registry://localhost:8081/iris/v1", "", model.ErrDenied},
		{r, "model-registry://127.0.0.1/iris/v1", "", model.ErrDenied},
		{r, "model-registry://r.io/iris/v1", "model-registry://r.io/iris/v1", nil},
		{none, "model-registry://r.io/iris/v1", "model-registry://r.io/iris/v1", nil},
		{none, "model-registry://iris/v1", "", model.ErrInvalid},
		{none, "model-registry://localhost/iris/v1", "", model.ErrDenied},
		{none, "r.io/iris", "", model.ErrInvalid},
	} {
		got, err := tt.r.Complete(parseRef(t, tt.in))
		if !errors.Is(err, tt.kind) || tt.kind == nil && got.String() != tt.want {
			t.Errorf("%s: %s, %v", tt.in, got, err)
		}
	}
}

// TestPlainHTTP: only what the operator wrote is spoken to without TLS.
func TestPlainHTTP(t *testing.T) {
	for _, tt := range []struct{ url, ref, scheme, path string }{
		{"http://mr.svc:8080/gw/", "model-registry://iris", "http", "/gw/" + apiPath},
		{"http://mr.svc:8080", "model-registry://mr.svc:8080/iris", "http", "/" + apiPath},
		{"http://mr.svc:8080", "model-registry://other.svc:8080/iris", "https", "/" + apiPath},
		{"mr.svc", "model-registry://iris", "https", "/" + apiPath},
		{"", "model-registry://mr.svc/iris/v1", "https", "/" + apiPath},
	} {
		r := newResolver(t, tt.url)
		ref, err := r.Complete(parseRef(t, tt.ref))
		if err != nil {
			t.Fatal(err)
		}
		c, err := r.client(ref, model.Credential{})
		if err != nil || c.base.String() != tt.scheme+"://"+ref.Registry+tt.path {
			t.Errorf("%s with %s: %s, %v", tt.ref, tt.url, c.base, err)
		}
	}
}

func TestBadOptions(t *testing.T) {
	for _, url := range []string{"ftp://x", "http://", "https://user:pw@x", "https://x?a=b", "https://x#f", "::"} {
		if _, err := New(Options{URL: url, Transport: direct(t)}); !errors.Is(err, model.ErrInvalid) || strings.Contains(err.Error(), "pw") {
			t.Errorf("%s: %v", url, err)
		}
	}
	if _, err := New(Options{}); !errors.Is(err, model.ErrInvalid) {
		t.Errorf("no transport: %v", err)
	}
}

func FuzzURI(f *testing.F) {
	for _, s := range []string{"oci://r.io/m:1", "hf://org/name:rev", "https://huggingface.co/org/name/resolve/main/x", "s3://b/k", "ollama://m", "https://u:p@h/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := fromURI(s)
		if err != nil {
			if !errors.Is(err, model.ErrInvalid) && !errors.Is(err, model.ErrUnsupported) {
				t.Fatalf("%q: %v is of no kind", s, err)
			}
			return
		}
		if again, err := model.ParseRef(ref.String()); err != nil || again != ref || ref.Scheme == model.SchemeModelRegistry {
			t.Fatalf("%q: %+v, %v", s, ref, err)
		}
	})
}
