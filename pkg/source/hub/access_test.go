package hub_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/hub"
	"github.com/model-csi/model-csi/pkg/source/hub/hubtest"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

// wants checks the kind of an error and the words that it has.
func wants(t *testing.T, err, kind error, words ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("want %v, have %v", kind, err)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
}

func TestAccess(t *testing.T) {
	h := newHub(t)
	for name, access := range map[string]hubtest.Access{
		"org/private": {Private: true, Tokens: []string{"hf_in"}},
		"org/gated":   {Gated: true, Tokens: []string{"hf_in"}},
		"org/public":  {},
	} {
		h.Commit(name, tiny())
		h.SetAccess(name, access)
	}
	h.AddToken("hf_out")
	for _, test := range []struct {
		reference, token string
		kind             error
		words            []string
	}{
		{"hf://org/private", "hf_in", nil, nil},
		{"hf://org/private", "", model.ErrUnauthenticated, []string{"HTTP 401", "as anonymous", "nodePublishSecretRef", `key "token"`, "/org/private"}},
		{"hf://org/private", "hf_out", model.ErrNotFound, []string{"HTTP 404", "account of this token"}},
		{"hf://org/gated", "hf_in", nil, nil},
		{"hf://org/gated", "", model.ErrUnauthenticated, []string{"gated", "accept its terms at " + h.URL() + "/org/gated", "nodePublishSecretRef"}},
		{"hf://org/gated", "hf_out", model.ErrDenied, []string{"HTTP 403", "accept its terms at " + h.URL() + "/org/gated", "account of this token"}},
		{"hf://org/public", "", nil, nil},
		{"hf://org/public", "hf_revoked", model.ErrUnauthenticated, []string{"Invalid credentials", "has not been revoked"}},
		{"hf://org/none", "", model.ErrUnauthenticated, []string{"check the name"}},
		{"hf://org/none", "hf_in", model.ErrNotFound, []string{"check the name"}},
		{"hf://org/public@v9", "", model.ErrNotFound, []string{`"v9"`, "no branch, tag or commit"}},
	} {
		t.Run(test.reference+" "+test.token, func(t *testing.T) {
			// One that may has been there before, and what it has seen is in memory.
			s := newSource(t, hub.Options{Endpoint: h.URL()})
			known := parse(t, test.reference)
			known.Tag = ""
			warm, err := s.Repository(known, bearer("hf_in"))
			if err != nil {
				t.Fatal(err)
			}
			snapshot, warmErr := warm.Resolve(t.Context(), source.Selection{})

			r := open(t, s, test.reference, test.token)
			_, err = r.Resolve(t.Context(), source.Selection{})
			if test.kind == nil {
				if err != nil {
					t.Error(err)
				}
			} else {
				wants(t, err, test.kind, test.words...)
			}
			if warmErr != nil || strings.Contains(test.reference, "@") {
				return
			}
			r = open(t, s, test.reference, test.token)
			source.Recall(r, snapshot)
			err = r.Check(t.Context(), snapshot.Digest)
			if (err == nil) != (test.kind == nil) || !errors.Is(err, test.kind) {
				t.Errorf("Check: %v, want %v", err, test.kind)
			}
			// Neither of what is in memory nor of what is not does somebody get a byte who may not.
			for _, f := range tiny() {
				body, err := r.ReadRange(t.Context(), blob(f), 0, -1)
				if err == nil {
					_ = body.Close()
				}
				if test.kind != nil && err == nil && len(f.Content) > 0 {
					t.Errorf("%s was given out", f.Path)
				}
			}
		})
	}
	if leaked := h.Leaked(); len(leaked) > 0 {
		t.Errorf("the storage host has seen %q", leaked)
	}
}

func TestTokenOfPassword(t *testing.T) {
	h := newHub(t)
	h.Commit("org/private", tiny())
	h.SetAccess("org/private", hubtest.Access{Private: true, Tokens: []string{"hf_in"}})
	s := newSource(t, hub.Options{Endpoint: h.URL()})
	r, err := s.Repository(parse(t, "hf://org/private"), model.Credential{Username: "ann", Password: model.NewSecret("hf_in")})
	if err != nil {
		t.Fatal(err)
	}
	resolve(t, r)
}

// TestRevoked: a token that has lost its right ends the reading, with links that were given out before as well.
func TestRevoked(t *testing.T) {
	h := newHub(t)
	h.Commit("org/private", tiny())
	h.SetAccess("org/private", hubtest.Access{Private: true, Tokens: []string{"hf_in"}})
	r := open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/private", "hf_in")
	snapshot, _ := resolve(t, r)
	h.RevokeToken("hf_in")
	h.ExpireLinks()
	wants(t, r.Check(t.Context(), snapshot.Digest), model.ErrUnauthenticated)
	_, _, err := read(t, r, tiny()[6])
	wants(t, err, model.ErrUnauthenticated)
}

func TestTrouble(t *testing.T) {
	h := newHub(t)
	commit := h.Commit("org/name", tiny())
	answer := func(status int, header ...string) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			return true
		}
	}
	for name, test := range map[string]struct {
		before func(w http.ResponseWriter, r *http.Request) bool
		kind   error
		after  time.Duration
		words  []string
	}{
		"rate limit, seconds":  {answer(429, "Retry-After", "120"), model.ErrUnavailable, 2 * time.Minute, []string{"HTTP 429"}},
		"rate limit, header":   {answer(429, "RateLimit", `"api";r=0;t=55`), model.ErrUnavailable, 55 * time.Second, []string{"HTTP 429"}},
		"rate limit, forever":  {answer(429, "RateLimit", `"api";r=0;t=99999999`), model.ErrUnavailable, time.Hour, nil},
		"rate limit, no words": {answer(429), model.ErrUnavailable, 0, nil},
		"server error":         {answer(500), model.ErrUnavailable, 0, []string{"HTTP 500"}},
		"disabled":             {answer(403, "X-Error-Message", "Access to this resource is disabled."), model.ErrDenied, 0, []string{"disabled"}},
		"not a hub":            {answer(200, "Content-Type", "text/html"), model.ErrInvalid, 0, []string{"no description"}},
		"redirects for ever":   {answer(307, "Location", "/again"), model.ErrUnavailable, 0, []string{"redirects"}},
		"redirect to a file":   {answer(307, "Location", "file:///etc/passwd"), model.ErrDenied, 0, []string{"redirects"}},
		"redirect with a user": {answer(307, "Location", "http://u:p@127.0.0.1/"), model.ErrDenied, 0, []string{"user"}},
	} {
		t.Run(name, func(t *testing.T) {
			h.Before(test.before)
			defer h.Before(nil)
			_, err := open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/name", "hf_secret").Resolve(t.Context(), source.Selection{})
			wants(t, err, test.kind, test.words...)
			var told *model.RetryAfterError
			if errors.As(err, &told) != (test.after > 0) || (told != nil && told.After != test.after) {
				t.Errorf("Retry-After: %+v, want %s", told, test.after)
			}
			if strings.Contains(fmt.Sprint(err), "hf_secret") {
				t.Errorf("the token shows: %v", err)
			}
		})
	}
	t.Run("passes", func(t *testing.T) {
		var requests atomic.Int32
		h.Before(func(w http.ResponseWriter, _ *http.Request) bool {
			fail := requests.Add(1) <= 2
			if fail {
				w.WriteHeader(http.StatusBadGateway)
			}
			return fail
		})
		defer h.Before(nil)
		resolve(t, open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/name@"+commit, ""))
	})
	t.Run("gone", func(t *testing.T) {
		down := hubtest.New()
		down.Close()
		r := open(t, newSource(t, hub.Options{Endpoint: down.URL()}), "hf://org/name", "")
		_, err := r.Resolve(t.Context(), source.Selection{})
		wants(t, err, model.ErrUnavailable, "refused")
	})
}

// TestRedirectsDropTheToken: whoever the Hub sends us to does not see who we are, and what comes back from there neither.
func TestRedirectsDropTheToken(t *testing.T) {
	h, other := newHub(t), newHub(t)
	h.Commit("org/name", tiny())
	other.Commit("org/name", tiny())
	var seen atomic.Int32
	other.Before(func(_ http.ResponseWriter, r *http.Request) bool {
		seen.Add(1)
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s was sent %q", r.URL.Path, r.Header.Get("Authorization"))
		}
		return false
	})
	h.Before(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Location", other.URL()+r.URL.RequestURI())
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	})
	h.AddToken("hf_in")
	resolve(t, open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/name", "hf_in"))
	if seen.Load() == 0 {
		t.Error("the other hub was not asked")
	}
}

func TestOptions(t *testing.T) {
	transport := func(string) (http.RoundTripper, error) { return http.DefaultTransport, nil }
	for _, o := range []hub.Options{
		{}, {Transport: transport, Endpoint: "ftp://hub"}, {Transport: transport, Endpoint: "https://u:p@hub"},
		{Transport: transport, Endpoint: "https://hub?x=1"}, {Transport: transport, Endpoint: "https://"}, {Transport: transport, Endpoint: "https://hub#x"},
		{Transport: transport, Endpoint: "ht tp://x"},
	} {
		if _, err := hub.New(o); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("%+v: %v", o.Endpoint, err)
		}
	}
	for in, want := range map[string]string{
		"": "https://huggingface.co", "hub.example.com": "https://hub.example.com", "HTTP://Hub.example.com:80/api/hf/": "http://hub.example.com:80/api/hf",
	} {
		if u, err := hub.ParseEndpoint(in); err != nil || u.String() != want {
			t.Errorf("%q: %v, %v", in, u, err)
		}
	}
	for endpoint, warned := range map[string]bool{"http://hub.example.com": true, "http://127.0.0.1:80": false, "https://hub.example.com": false} {
		var log bytes.Buffer
		if _, err := hub.New(hub.Options{Transport: transport, Endpoint: endpoint, Logger: slog.New(slog.NewTextHandler(&log, nil))}); err != nil {
			t.Error(err)
		}
		if strings.Contains(log.String(), "hub.example.com") != warned {
			t.Errorf("%s: the log says %q", endpoint, log.String())
		}
	}
	s, err := hub.New(hub.Options{Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []model.Ref{
		{Registry: model.HubHost, Repository: ""}, {Registry: model.HubHost, Repository: "a/b/c"}, {Registry: model.HubHost, Repository: "../x"},
		{Registry: model.HubHost, Repository: "a/..b"}, {Registry: model.HubHost, Repository: "a/b?x"}, {Registry: "hub.example.com", Repository: "a/b"},
		{Registry: model.HubHost, Repository: "a/b", Tag: "x?y"}, {Registry: model.HubHost, Repository: "a/b", Tag: "../../x"},
		{Registry: model.HubHost, Repository: "a/b", Digest: "sha256:0"}, {Registry: model.HubHost, Repository: "datasets/a/b/c"},
	} {
		if _, err := s.Repository(ref, model.Credential{}); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("%+v: %v", ref, err)
		}
	}
}

// TestEndpointBelowAPath: repository managers serve hubs below a path.
func TestEndpointBelowAPath(t *testing.T) {
	h := newHub(t)
	h.Commit("org/name", tiny())
	front := newHub(t)
	front.Before(func(w http.ResponseWriter, r *http.Request) bool {
		rest, ok := strings.CutPrefix(r.URL.RequestURI(), "/api/huggingfaceml/remote")
		if !ok {
			t.Errorf("asked for %s", r.URL)
		}
		req, err := http.NewRequestWithContext(r.Context(), r.Method, h.URL()+rest, nil)
		if err != nil {
			t.Error(err)
			return true
		}
		req.Header = r.Header
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			return true
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			w.Header()[k] = v // the Link header names the original, as real ones do
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
		return true
	})
	defer http.DefaultClient.CloseIdleConnections()
	h.SetPageSize(2)
	r := open(t, newSource(t, hub.Options{Endpoint: front.URL() + "/api/huggingfaceml/remote/"}), "hf://org/name", "")
	_, m := resolve(t, r)
	if len(m.Files) != len(tiny()) {
		t.Errorf("files %q", m.paths())
	}
}

// TestGuard: a hub cannot send the node to addresses that it must not reach, and the error names the address alone.
func TestGuard(t *testing.T) {
	h := newHub(t)
	h.Commit("org/name", tiny())
	registries, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registries.CloseIdleConnections)
	s, err := hub.New(hub.Options{Endpoint: h.URL(), Transport: registries.Transport})
	if err != nil {
		t.Fatal(err)
	}
	resolve(t, open(t, s, "hf://org/name", ""))
	h.Before(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/resolve/") {
			return false
		}
		w.Header().Set("Location", "http://169.254.169.254/latest/meta-data?signature=secret-query")
		w.WriteHeader(http.StatusFound)
		return true
	})
	_, err = open(t, s, "hf://org/name", "").Resolve(t.Context(), source.Selection{})
	wants(t, err, model.ErrDenied, "address 169.254.169.254 may not be connected to")
	if strings.Contains(fmt.Sprint(err), "secret-query") {
		t.Errorf("the query of a link shows: %v", err)
	}
}

// TestStalled: a hub that takes requests and says nothing is not waited for, whatever it was asked for.
func TestStalled(t *testing.T) {
	h := newHub(t)
	h.Commit("org/name", tiny())
	for _, part := range []string{"/revision/", "/tree/", "config.json", "model.safetensors"} {
		t.Run(strings.Trim(part, "/"), func(t *testing.T) {
			h.Before(func(_ http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, part) {
					return false
				}
				<-r.Context().Done()
				return true
			})
			defer h.Before(nil)
			s := newSource(t, hub.Options{Endpoint: h.URL()})
			hub.SetReadTimeout(s, 200*time.Millisecond)
			_, err := open(t, s, "hf://org/name", "").Resolve(t.Context(), source.Selection{})
			wants(t, err, model.ErrUnavailable, "no complete answer in time")
			if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
				t.Errorf("our own impatience looks like the caller's: %v", err)
			}
		})
	}
}
