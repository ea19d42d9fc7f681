package registry

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestProxies(t *testing.T) {
	const canary = "canary-of-the-proxy"
	secret := model.NewSecret
	for _, tt := range []struct {
		name    string
		proxies Proxies
		env     map[string]string
		want    map[string]string // URL to proxy
	}{
		{"none", Proxies{}, nil, map[string]string{"https://r.io/": "", "http://r.io/": ""}},
		{"settings", Proxies{HTTPS: secret("http://u:" + canary + "@p:1"), HTTP: secret("q:2"), NoProxy: "direct.io,10.0.0.0/8"}, nil, map[string]string{
			"https://r.io/": "http://u:" + canary + "@p:1", "http://r.io/": "http://q:2", "https://direct.io/": "", "https://x.direct.io/": "",
			"https://10.1.1.1/": "", "https://11.1.1.1/": "http://u:" + canary + "@p:1", "http://localhost:5000/": "", "http://127.0.0.1:5000/": "",
		}},
		{"environment", Proxies{}, map[string]string{"HTTPS_PROXY": "https://e:3", "NO_PROXY": "direct.io"}, map[string]string{
			"https://r.io/": "https://e:3", "http://r.io/": "", "https://direct.io/": "",
		}},
		{"both", Proxies{HTTPS: secret("p:1")}, map[string]string{"HTTPS_PROXY": "e:3", "HTTP_PROXY": "e:4", "NO_PROXY": "direct.io"}, map[string]string{
			"https://r.io/": "http://p:1", "http://r.io/": "http://e:4", "https://direct.io/": "",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, name := range []string{"HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy"} {
				t.Setenv(name, tt.env[name])
			}
			var log bytes.Buffer
			s, err := New(Options{Proxies: tt.proxies, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			if err != nil {
				t.Fatal(err)
			}
			for address, want := range tt.want {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
				if err != nil {
					t.Fatal(err)
				}
				u, err := s.proxies.proxy(req)
				got := ""
				if u != nil {
					got = u.String()
				}
				if err != nil || got != want {
					t.Errorf("%s goes through %q, %v, want %q", address, got, err, want)
				}
			}
			if text := log.String() + fmt.Sprintf("%v %+v %#v", s.options, s.options, s.options.Proxies); strings.Contains(text, canary) {
				t.Errorf("the password shows: %s", text)
			}
			if (tt.proxies != Proxies{}) && !strings.Contains(log.String(), "proxies.https=p:1") {
				t.Errorf("the proxy is not named: %s", log.String())
			}
		})
	}
	for name, o := range map[string]Proxies{"https-proxy": {HTTPS: secret("ftp://u:" + canary + "@p")}, "http-proxy": {HTTP: secret("http://u:" + canary + "@p:x")}} {
		if _, err := New(Options{Proxies: o}); !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Setenv("HTTPS_PROXY", "://"+canary)
	if _, err := New(Options{}); !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), "environment") || strings.Contains(err.Error(), canary) {
		t.Errorf("a broken environment: %v", err)
	}
}

// The host that a reference names may be the node; a host that this one leads to may not.
func TestNodeIsReachedByItsNameAlone(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	s, err := New(Options{BlockedAddresses: "node", Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.CloseIdleConnections)
	s.guard.own = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} } // in the place of an address in the network
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	own, other, err := s.connections(hostConfig{base: base}, false)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := own.RoundTrip(req)
	if err != nil {
		t.Fatalf("the host itself: %v", err)
	}
	_ = resp.Body.Close()
	if _, err := other.RoundTrip(req); !errors.Is(err, model.ErrDenied) {
		t.Errorf("where it leads: %v", err)
	}
	for named, ok := range map[string]bool{server.URL: true, "http://registry.example.com": false} {
		u, err := url.Parse(named)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.guard.checkURL(base, &endpoint{base: u}); (err == nil) != ok {
			t.Errorf("%s leads to %s: %v", named, base, err)
		}
	}
}
