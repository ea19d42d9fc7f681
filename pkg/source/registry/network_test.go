package registry_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

// proxy tunnels to servers of the test under names of the world.
type proxy struct {
	*httptest.Server
	names map[string]string

	mu    sync.Mutex
	asked []string
}

func newProxy(t *testing.T, names map[string]string) *proxy {
	t.Helper()
	p := &proxy{names: names}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	return p
}

func (p *proxy) choose(*http.Request) (*url.URL, error) { return url.Parse(p.URL) }

func (p *proxy) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.Host)
	p.mu.Unlock()
	backend, ok := p.names[r.Host]
	if !ok || r.Method != http.MethodConnect {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	out, err := net.Dial("tcp", backend)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	w.WriteHeader(http.StatusOK)
	in, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = out.Close()
		return
	}
	var wg sync.WaitGroup
	pipe := func(to net.Conn, from io.Reader) {
		_, _ = io.Copy(to, from)
		_ = to.Close()
	}
	wg.Go(func() { pipe(in, out) })
	wg.Go(func() { pipe(out, buffered) })
	wg.Wait()
}

// public makes a TLS registry that clients reach as example.com, and the options for it.
func public(t *testing.T) (*server, model.Ref, registry.Options, *proxy) {
	t.Helper()
	s := newServer(t, true)
	p := newProxy(t, map[string]string{"example.com:443": s.host()})
	dir := configDir(t, "example.com", "ca = %q\n", authority(t, s))
	return s, model.Ref{Registry: "example.com", Repository: repoName, Tag: "v1"}, registry.Options{ConfigDir: dir, Proxy: p.choose}, p
}

func TestProxy(t *testing.T) {
	s, ref, o, p := public(t)
	d, layer, _ := s.model()
	repo := open(t, o, ref, model.Credential{})
	snap, err := repo.Resolve(t.Context(), model.Selection{})
	if err != nil || snap.Digest != d {
		t.Fatalf("got %s, %v", snap.Digest, err)
	}
	if _, _, err := readAll(t, repo, layer, 0, 10); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(p.asked, "CONNECT example.com:443") {
		t.Errorf("the proxy was asked %q", p.asked)
	}
	if s.requests[0].ProtoMajor != 1 || s.requests[0].TLS == nil {
		t.Errorf("spoke %s", s.requests[0].Proto)
	}
}

// A registry on the network must not lead the node to itself, to its neighbours or out of TLS.
func TestPublicRegistryCannotLeadAstray(t *testing.T) {
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a service of the node was asked") }))
	t.Cleanup(inside.Close)
	port := inside.Listener.Addr().(*net.TCPAddr).Port
	for _, host := range []string{
		"http://example.com", "http://127.0.0.1:%d", "https://127.0.0.1:%d", "https://localhost:%d", "https://x.localhost:%d",
		"https://[::1]:%d", "https://[::ffff:127.0.0.1]:%d", "https://0.0.0.0:%d", "https://[::]:%d", "https://169.254.169.254",
		"https://[fe80::1]", "https://[64:ff9b::a9fe:a9fe]", "https://[2002:7f00:1::]", "https://[fd00:ec2::254]", "https://100.100.100.200",
		"https://168.63.129.16", "https://224.0.0.1", "https://10.1.2.3",
	} {
		target := host
		if strings.Contains(host, "%d") {
			target = fmt.Sprintf(host, port)
		}
		s, ref, o, p := public(t)
		_, layer, _ := s.model()
		o.BlockedAddresses = "default,10.0.0.0/8"
		s.on(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/blobs/") {
				http.Redirect(w, r, target+"/x", http.StatusTemporaryRedirect)
			} else {
				w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token"`, target))
				w.WriteHeader(http.StatusUnauthorized)
			}
			return true
		})
		repo := open(t, o, ref, password("ann", canary))
		if _, _, err := readAll(t, repo, layer, 0, 10); !errors.Is(err, model.ErrDenied) {
			t.Errorf("redirect to %s: %v", target, err)
		}
		if _, err := repo.Resolve(t.Context(), model.Selection{}); !errors.Is(err, model.ErrDenied) && !errors.Is(err, model.ErrUnauthenticated) {
			t.Errorf("realm %s: %v", target, err)
		}
		for _, asked := range p.asked {
			if asked != "CONNECT example.com:443" {
				t.Errorf("the proxy was asked for %q on the way to %s", asked, target)
			}
		}
	}
}

// The name of the registry itself may resolve to anything.
func TestDialedAddress(t *testing.T) {
	s := newServer(t, true)
	s.model()
	_, port, _ := net.SplitHostPort(s.host())
	direct := func(*http.Request) (*url.URL, error) { return nil, nil }
	ref := model.Ref{Registry: "169.254.169.254:" + port, Repository: repoName, Tag: "v1"}
	_, err := open(t, registry.Options{Proxy: direct}, ref, model.Credential{}).Resolve(t.Context(), model.Selection{})
	if !errors.Is(err, model.ErrDenied) || !strings.Contains(err.Error(), "169.254.169.254") {
		t.Errorf("link-local: %v", err)
	}
	// Loopback is allowed where it is named, and can be denied like everything else.
	o := registry.Options{Proxy: direct, BlockedAddresses: "default,127.0.0.0/8"}
	dir := configDir(t, dirName(s.host()), "server = \"https://%s\"\nca = %q\n", s.host(), authority(t, s))
	o.ConfigDir = dir
	if _, err := open(t, o, s.ref("v1"), model.Credential{}).Resolve(t.Context(), model.Selection{}); !errors.Is(err, model.ErrDenied) {
		t.Errorf("denied by the operator: %v", err)
	}
	o.BlockedAddresses += ",!127.0.0.1"
	if _, err := open(t, o, s.ref("v1"), model.Credential{}).Resolve(t.Context(), model.Selection{}); err != nil {
		t.Errorf("allowed by the operator: %v", err)
	}
}

// A token service on another host is normal; it is given the credential over TLS.
func TestTokenServiceElsewhere(t *testing.T) {
	s, ref, o, p := public(t)
	s.model()
	p.names["auth.example.com:443"] = s.host() // the certificate is for *.example.com as well
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		switch _, pass, _ := r.BasicAuth(); {
		case r.URL.Path == "/moved":
			_, _ = w.Write([]byte(`{"token":"good"}`))
			if r.Header.Get("Authorization") == "" {
				t.Error("the redirect of the token service on its own origin lost the credential")
			}
		case r.URL.Path == "/token" && pass == canary && r.Host == "auth.example.com":
			http.Redirect(w, r, "/moved", http.StatusTemporaryRedirect)
		case r.Header.Get("Authorization") == "Bearer good" && r.Host == "example.com":
			return false
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="https://auth.example.com/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
		return true
	})
	if _, err := open(t, o, ref, password("ann", canary)).Resolve(t.Context(), model.Selection{}); err != nil {
		t.Fatal(err)
	}
}

func TestHugeHeader(t *testing.T) {
	s := newServer(t, false)
	_, layer, _ := s.model()
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("X-Huge", strings.Repeat("x", 1<<20))
		return false
	})
	repo := open(t, registry.Options{}, s.ref("v1"), model.Credential{})
	if _, err := repo.Resolve(t.Context(), model.Selection{}); !errors.Is(err, model.ErrUnavailable) {
		t.Errorf("Resolve: %v", err)
	}
	if _, _, err := readAll(t, repo, layer, 0, 10); !errors.Is(err, model.ErrUnavailable) {
		t.Errorf("ReadRange: %v", err)
	}
}

func TestPlainRegistryNeedsHosts(t *testing.T) {
	s := newServer(t, false)
	p := newProxy(t, map[string]string{"example.com:443": s.host()})
	ref := model.Ref{Registry: "example.com", Repository: repoName, Tag: "v1"}
	_, err := open(t, registry.Options{Proxy: p.choose}, ref, model.Credential{}).Resolve(t.Context(), model.Selection{})
	if !errors.Is(err, model.ErrUnavailable) || !strings.Contains(err.Error(), "hosts.toml") {
		t.Errorf("got %v", err)
	}
}

func TestBadReferences(t *testing.T) {
	src, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []model.Ref{
		{}, {Registry: "example.com"}, {Repository: "x"},
		{Registry: "example.com/x", Repository: "x"}, {Registry: "u@example.com", Repository: "x"}, {Registry: "..", Repository: "x"},
		{Registry: "_default", Repository: "x"}, {Registry: "example.com", Repository: "../x"}, {Registry: "example.com", Repository: "a//b"},
		{Registry: "example.com", Repository: "a?b"}, {Registry: "example.com", Repository: "a%2fb"},
		{Registry: "example.com", Repository: "x", Digest: "md5:d41d8cd98f00b204e9800998ecf8427e"},
	} {
		if _, err := src.Repository(ref, model.Credential{}); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("%+v: %v", ref, err)
		}
	}
	for _, o := range []registry.Options{{UserAgent: "a\r\nb"}, {BlockedAddresses: "everything"}} {
		if _, err := registry.New(o); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// Servers that never finish: a manifest that trickles, a token that does not come, a blob whose header does not.
func TestStalled(t *testing.T) {
	s := newServer(t, false)
	d, layer, _ := s.model()
	stall := func(w http.ResponseWriter, r *http.Request) {
		for r.Method != http.MethodHead && r.Context().Err() == nil {
			_, _ = w.Write([]byte(" "))
			_ = http.NewResponseController(w).Flush()
			time.Sleep(time.Millisecond)
		}
	}
	service := httptest.NewServer(http.HandlerFunc(stall))
	t.Cleanup(service.Close)
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"body": stall,
		"error": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			stall(w, r)
		},
		"header": func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"token": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", service.URL))
			w.WriteHeader(http.StatusUnauthorized)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.on(func(w http.ResponseWriter, r *http.Request) bool { answer(w, r); return true })
			src, err := registry.New(registry.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(src.CloseIdleConnections)
			registry.SetFirstPause(src, time.Millisecond)
			registry.SetReadTimeout(src, 30*time.Millisecond)
			repo, err := src.Repository(s.ref("v1"), model.Credential{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := repo.Resolve(t.Context(), model.Selection{}); !errors.Is(err, model.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Resolve: %v", err)
			}
			if name == "body" {
				return // the bodies of blobs are for their reader to time, and HEAD has none
			}
			if err := repo.Check(t.Context(), d); !errors.Is(err, model.ErrUnavailable) {
				t.Errorf("Check: %v", err)
			}
			if _, err := repo.ReadRange(t.Context(), layer, 0, 10); !errors.Is(err, model.ErrUnavailable) || errors.Is(err, context.Canceled) {
				t.Errorf("ReadRange: %v", err)
			}
		})
	}
}

// The time limit on the beginning of a blob is not one on its body.
func TestSlowBodyGoesOn(t *testing.T) {
	s := newServer(t, false)
	_, layer, content := s.model()
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-9/%d", len(content)))
		w.WriteHeader(http.StatusPartialContent)
		for i := range 10 {
			_, _ = w.Write(content[i : i+1])
			_ = http.NewResponseController(w).Flush()
			time.Sleep(120 * time.Millisecond)
		}
		return true
	})
	src, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(src.CloseIdleConnections)
	registry.SetReadTimeout(src, time.Second)
	repo, err := src.Repository(s.ref("v1"), model.Credential{})
	if err != nil {
		t.Fatal(err)
	}
	if _, got, err := readAll(t, repo, layer, 0, 10); err != nil || !bytes.Equal(got, content[:10]) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestPlainHostIsWarnedAbout(t *testing.T) {
	p := newProxy(t, nil)
	var log logBuffer
	dir := configDir(t, "registry.example.com", "server = \"http://registry.example.com\"\n")
	src, err := registry.New(registry.Options{ConfigDir: dir, Logger: log.logger(), Proxy: p.choose})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(src.CloseIdleConnections)
	registry.SetFirstPause(src, time.Millisecond)
	for range 2 {
		repo, err := src.Repository(model.Ref{Registry: "registry.example.com", Repository: repoName}, model.Credential{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := repo.Resolve(t.Context(), model.Selection{}); !errors.Is(err, model.ErrUnavailable) {
			t.Errorf("got %v", err)
		}
	}
	if n := strings.Count(log.String(), "plain HTTP"); n != 1 {
		t.Errorf("warned %d times: %s", n, log.String())
	}
}

// A proxy gets its password, and nobody else sees it.
func TestProxyPassword(t *testing.T) {
	var got []string
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Method+" "+r.Host+" "+r.Header.Get("Proxy-Authorization"))
		http.Error(w, "who are you? "+r.Header.Get("Proxy-Authorization"), http.StatusProxyAuthRequired)
	}))
	t.Cleanup(p.Close)
	address := "http://user:" + canary + "@" + p.Listener.Addr().String()
	dir := configDir(t, "plain.example.com", "server = \"http://plain.example.com\"\n")
	for host, method := range map[string]string{"example.com": http.MethodConnect, "plain.example.com": http.MethodGet} {
		got = nil
		var log logBuffer
		o := registry.Options{ConfigDir: dir, Logger: log.logger(), Proxies: registry.Proxies{HTTPS: model.NewSecret(address), HTTP: model.NewSecret(address)}}
		_, err := open(t, o, model.Ref{Registry: host, Repository: repoName, Tag: "v1"}, model.Credential{}).Resolve(t.Context(), model.Selection{})
		if !errors.Is(err, model.ErrUnavailable) {
			t.Errorf("%s: %v", host, err)
		}
		encoded := base64.StdEncoding.EncodeToString([]byte("user:" + canary))
		if len(got) == 0 || !strings.HasPrefix(got[0], method) || !strings.HasSuffix(got[0], "Basic "+encoded) {
			t.Errorf("%s: the proxy was asked %q", host, got)
		}
		for _, secret := range []string{canary, encoded} {
			if text := err.Error() + log.String(); strings.Contains(text, secret) {
				t.Errorf("%s: the password shows: %s", host, text)
			}
		}
	}
}
