package registry_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

const canary = "canary-s3cr3t-value"

// tokenService issues bearer tokens and counts them.
type tokenService struct {
	*httptest.Server
	issued atomic.Int64

	mu     sync.Mutex
	scopes []string
	auths  []string
	forms  []string
}

func newTokenService(t *testing.T) *tokenService {
	t.Helper()
	ts := &tokenService{}
	ts.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		ts.mu.Lock()
		ts.scopes = append(ts.scopes, r.Form["scope"]...)
		ts.auths = append(ts.auths, r.Header.Get("Authorization"))
		ts.forms = append(ts.forms, r.PostForm.Encode())
		ts.mu.Unlock()
		user, pass, _ := r.BasicAuth()
		switch {
		case pass == "wrong":
			w.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(w).Encode(map[string]string{"details": "incorrect username or password " + pass + user})
		default:
			_ = json.NewEncoder(w).Encode(map[string]string{"token": fmt.Sprintf("token-%d", ts.issued.Add(1))})
		}
	}))
	t.Cleanup(ts.Close)
	return ts
}

// demand makes the server accept only tokens that valid accepts.
func (ts *tokenService) demand(s *server, valid func(token string) bool) {
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if ok && valid(token) {
			return false
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test",scope="repository:%s:pull"`, ts.URL, repoName))
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return true
	})
}

func TestToken(t *testing.T) {
	s, ts := newServer(t, false), newTokenService(t)
	d, layer, _ := s.model()
	ts.demand(s, func(token string) bool { return strings.HasPrefix(token, "token-") })
	repo := open(t, registry.Options{}, s.ref("v1"), password("ann", canary))
	snap, err := repo.Resolve(t.Context(), model.Selection{Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	if snap.Digest != d {
		t.Errorf("resolved to %s, want %s", snap.Digest, d)
	}
	for range 3 {
		if _, _, err := readAll(t, repo, layer, 0, 10); err != nil {
			t.Fatal(err)
		}
	}
	if n := ts.issued.Load(); n != 1 {
		t.Errorf("%d tokens were issued for one repository and identity", n)
	}
	if !slices.Equal(ts.scopes, []string{"repository:acme/llm:pull"}) {
		t.Errorf("asked for the scopes %q", ts.scopes)
	}
	if want := "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:"+canary)); ts.auths[0] != want {
		t.Errorf("the token service was sent %q", ts.auths[0])
	}
	for _, h := range s.header("Authorization") {
		if !strings.HasPrefix(h, "Bearer token-") {
			t.Errorf("the registry was sent %q", h)
		}
	}
}

// A token that expires in the middle of a pull is renewed without the caller noticing, once for all ranges.
func TestTokenRenewal(t *testing.T) {
	s, ts := newServer(t, false), newTokenService(t)
	_, layer, _ := s.model()
	var valid atomic.Value
	valid.Store("token-1")
	ts.demand(s, func(token string) bool { return token == valid.Load() })
	repo := open(t, registry.Options{}, s.ref("v1"), password("ann", canary))
	if _, _, err := readAll(t, repo, layer, 0, 10); err != nil {
		t.Fatal(err)
	}
	valid.Store("token-2")
	if _, _, err := readAll(t, repo, layer, 10, 10); err != nil {
		t.Fatal(err)
	}
	if n := ts.issued.Load(); n != 2 {
		t.Errorf("%d tokens were issued, want 2", n)
	}
	valid.Store("none")
	_, _, err := readAll(t, repo, layer, 20, 10)
	if !errors.Is(err, model.ErrUnauthenticated) {
		t.Errorf("a token that is never accepted: %v", err)
	}
}

func TestIdentityToken(t *testing.T) {
	s, ts := newServer(t, false), newTokenService(t)
	s.model()
	ts.demand(s, func(token string) bool { return strings.HasPrefix(token, "token-") })
	ts.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		if r.Method != http.MethodPost || r.PostForm.Get("grant_type") != "refresh_token" || r.PostForm.Get("refresh_token") != canary {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"access_token": "token-1"})
	})
	cred := model.Credential{Name: "test", RefreshToken: model.NewSecret(canary)}
	if _, err := open(t, registry.Options{}, s.ref("v1"), cred).Resolve(t.Context(), model.Selection{}); err != nil {
		t.Fatal(err)
	}
}

func TestAccessToken(t *testing.T) {
	s, ts := newServer(t, false), newTokenService(t)
	s.model()
	ts.demand(s, func(token string) bool { return token == canary })
	cred := model.Credential{Name: "test", AccessToken: model.NewSecret(canary)}
	if _, err := open(t, registry.Options{}, s.ref("v1"), cred).Resolve(t.Context(), model.Selection{}); err != nil {
		t.Fatal(err)
	}
	if n := ts.issued.Load(); n != 0 {
		t.Errorf("the token service was asked %d times for a token that is there", n)
	}
}

func TestBasic(t *testing.T) {
	for _, challenges := range [][]string{
		{`Basic realm="registry"`},
		{"Negotiate", `basic realm="registry"`},
		{`Digest realm="x", nonce="y"`, ` Basic realm="registry"`},
	} {
		t.Run(challenges[0], func(t *testing.T) {
			s := newServer(t, false)
			d, layer, _ := s.model()
			s.on(func(w http.ResponseWriter, r *http.Request) bool {
				if user, pass, ok := r.BasicAuth(); ok && user == "ann" && pass == canary {
					return false
				}
				w.Header()["Www-Authenticate"] = challenges
				refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
				return true
			})
			repo := open(t, registry.Options{}, s.ref("v1"), password("ann", canary))
			if _, err := repo.Resolve(t.Context(), model.Selection{}); err != nil {
				t.Fatal(err)
			}
			if err := repo.Check(t.Context(), d); err != nil {
				t.Errorf("Check: %v", err)
			}
			if _, _, err := readAll(t, repo, layer, 0, 10); err != nil {
				t.Errorf("ReadRange: %v", err)
			}
			for _, cred := range []model.Credential{{}, password("ann", "other")} {
				denied := open(t, registry.Options{}, s.ref("v1"), cred)
				err := denied.Check(t.Context(), d)
				if !errors.Is(err, model.ErrUnauthenticated) || !strings.Contains(err.Error(), cred.String()) {
					t.Errorf("Check as %s: %v", cred, err)
				}
				if _, err := denied.Resolve(t.Context(), model.Selection{}); !errors.Is(err, model.ErrUnauthenticated) {
					t.Errorf("Resolve as %s: %v", cred, err)
				}
			}
		})
	}
}

// The error of a refused pull names everything that helps and nothing that must stay hidden.
func TestRefusedMessage(t *testing.T) {
	s, ts := newServer(t, false), newTokenService(t)
	s.model()
	ts.demand(s, func(string) bool { return false })
	_, err := open(t, registry.Options{}, s.ref("v1"), model.Credential{}).Resolve(t.Context(), model.Selection{})
	for _, want := range []string{s.host(), repoName, "v1", "anonymous", "401", "UNAUTHORIZED: authentication required", "nodePublishSecretRef"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q: %v", want, err)
		}
	}
	_, err = open(t, registry.Options{}, s.ref("v1"), password("ann", "wrong")).Resolve(t.Context(), model.Selection{})
	if !errors.Is(err, model.ErrUnauthenticated) || !strings.Contains(err.Error(), "token service") || !strings.Contains(err.Error(), "incorrect username") {
		t.Errorf("refusal of a token service: %v", err)
	}
	if strings.Contains(err.Error(), "password wrong") {
		t.Errorf("the password that the token service repeats is in the error: %v", err)
	}
}

// Registries and storage that send back what they were sent, wherever they can.
func TestSecretsStayHidden(t *testing.T) {
	cred := password("ann", canary)
	encoded := base64.StdEncoding.EncodeToString([]byte("ann:" + canary))
	echo := "you said " + canary + " " + encoded + " " + url.QueryEscape(canary)
	answers := map[string]func(w http.ResponseWriter, r *http.Request){
		"message": func(w http.ResponseWriter, r *http.Request) { refuse(w, http.StatusForbidden, canary, echo) },
		"realm": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="ftp://x/`+canary+`?p=`+canary+`"`)
			w.WriteHeader(http.StatusUnauthorized)
		},
		"realm that does not answer": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://127.0.0.1:1/`+canary+`?p=`+canary+`"`)
			w.WriteHeader(http.StatusUnauthorized)
		},
		"location that does not answer": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/?signature="+canary, http.StatusTemporaryRedirect)
		},
		"location with a user": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://ann:"+canary+"@127.0.0.1:1/")
			w.WriteHeader(http.StatusFound)
		},
		"location that is no URL": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://%zz"+canary)
			w.WriteHeader(http.StatusFound)
		},
		"content type": func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte(`{"mediaType":"` + canary + `","manifests":[]}`))
		},
		"content range": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes "+canary)
			w.WriteHeader(http.StatusPartialContent)
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, false)
			d, layer, _ := s.model()
			s.on(func(w http.ResponseWriter, r *http.Request) bool {
				if _, _, ok := r.BasicAuth(); !ok {
					w.Header().Set("WWW-Authenticate", "Basic")
					w.WriteHeader(http.StatusUnauthorized)
					return true
				}
				answer(w, r)
				return true
			})
			var log logBuffer
			repo := open(t, registry.Options{Logger: log.logger()}, s.ref("v1"), cred)
			_, resolveErr := repo.Resolve(t.Context(), model.Selection{})
			_, _, readErr := readAll(t, repo, layer, 0, 10)
			checkErr := repo.Check(t.Context(), d)
			if resolveErr == nil || readErr == nil {
				t.Fatalf("the answer was accepted: %v, %v", resolveErr, readErr)
			}
			for _, text := range []string{fmt.Sprintf("%+v %#v", resolveErr, resolveErr), readErr.Error(), fmt.Sprint(checkErr), log.String()} {
				if strings.Contains(text, canary) || strings.Contains(text, encoded) {
					t.Errorf("a secret shows in %s", text)
				}
			}
		})
	}
}

// A realm in plain HTTP on another host would be sent the password in the clear.
func TestRealm(t *testing.T) {
	for name, test := range map[string]struct {
		realm string
		want  error
	}{
		"plain http elsewhere": {"http://auth.example.com/token", model.ErrDenied},
		"link-local":           {"https://169.254.169.254/token", model.ErrDenied},
		"with a user":          {"https://ann:pw@127.0.0.1:1/token", model.ErrDenied},
		"other scheme":         {"file:///etc/passwd", model.ErrUnauthenticated},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, false)
			s.model()
			s.on(func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+test.realm+`"`)
				w.WriteHeader(http.StatusUnauthorized)
				return true
			})
			_, err := open(t, registry.Options{}, s.ref("v1"), password("ann", canary)).Resolve(t.Context(), model.Selection{})
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}
