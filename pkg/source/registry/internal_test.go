package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestParseHostsOrder(t *testing.T) {
	for name, text := range map[string]string{
		"tables":         "server = \"https://s\"\n[host.\"https://c\"]\n[host.\"https://a\".header]\nx = \"1\"\n[host.\"https://b\"]\nca = \"x\"\n",
		"tables, server": "[host.\"https://c\"]\n[host.'https://a']\n[host.b]\nskip_verify = true\n",
		"dotted keys":    "host.\"https://c\".skip_verify = true\nhost.\"https://a\".ca = \"x\"\nhost.\"b\".ca = \"y\"\n",
		"one table":      "[host]\n\"https://c\" = {}\n\"https://a\" = {}\n\"b\" = {}\n",
	} {
		mirrors, _, err := parseHosts([]byte(text), "/d")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, m := range mirrors {
			got = append(got, m.base.Host)
		}
		if !reflect.DeepEqual(got, []string{"c", "a", "b"}) {
			t.Errorf("%s: the order is %q", name, got)
		}
	}
}

func TestParseHosts(t *testing.T) {
	text := `
server = "registry.example.com"
capabilities = ["pull"]
ca = "ca.pem"
unknown = 1

[host."http://Mirror.example.com:5000/prefix"]
  capabilities = ["resolve", "referrers"]
  ca = ["one.pem", "/abs/two.pem"]
  client = [["c.pem", "k.pem"], "both.pem"]
  skip_verify = true
  dial_timeout = "3s"
  [host."http://Mirror.example.com:5000/prefix".header]
    authorization = "Bearer x"
    x-list = ["a", "b"]

[host."https://cache/v2/hub"]
  override_path = true
`
	mirrors, server, err := parseHosts([]byte(text), "/d")
	if err != nil {
		t.Fatal(err)
	}
	want := []hostConfig{{
		base:        &url.URL{Scheme: "http", Host: "mirror.example.com:5000", Path: "/prefix/v2"},
		resolve:     true,
		caFiles:     []string{"/d/one.pem", "/abs/two.pem"},
		clientFiles: [][2]string{{"/d/c.pem", "/d/k.pem"}, {"/d/both.pem", ""}},
		skipVerify:  true,
		dialTimeout: 3 * time.Second,
		header:      http.Header{"Authorization": {"Bearer x"}, "X-List": {"a", "b"}},
	}, {
		base: &url.URL{Scheme: "https", Host: "cache", Path: "/v2/hub"},
		pull: true, resolve: true, header: http.Header{},
	}}
	if !reflect.DeepEqual(mirrors, want) {
		t.Errorf("mirrors\n got %+v\nwant %+v", mirrors, want)
	}
	wantServer := hostConfig{
		base: &url.URL{Scheme: "https", Host: "registry.example.com", Path: "/v2"},
		pull: true, caFiles: []string{"/d/ca.pem"}, header: http.Header{},
	}
	if !reflect.DeepEqual(server, wantServer) {
		t.Errorf("server\n got %+v\nwant %+v", server, wantServer)
	}
}

func TestDefaultServer(t *testing.T) {
	for registry, want := range map[string]string{
		"docker.io": "https://registry-1.docker.io/v2", "index.docker.io": "https://registry-1.docker.io/v2",
		"ghcr.io": "https://ghcr.io/v2", "example.com:5000": "https://example.com:5000/v2",
		"localhost:5000": "http://localhost:5000/v2", "127.0.0.1": "http://127.0.0.1/v2", "[::1]:5000": "http://[::1]:5000/v2",
		"10.0.0.1:80": "https://10.0.0.1:80/v2", "localhost.example.com": "https://localhost.example.com/v2",
	} {
		if got := defaultServer(registry).String(); got != want {
			t.Errorf("%s is at %s, want %s", registry, got, want)
		}
	}
}

func TestGuard(t *testing.T) {
	g := newGuard([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}, []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")})
	for address, want := range map[string]struct{ remote, loopback bool }{
		"192.168.1.1":        {true, true}, // registries of a private network are normal
		"8.8.8.8":            {true, true},
		"2001:db8::1":        {true, true},
		"127.0.0.1":          {false, true},
		"127.8.9.10":         {false, true},
		"::1":                {false, true},
		"0.0.0.0":            {false, true},
		"::":                 {false, true},
		"::ffff:127.0.0.1":   {false, true},
		"64:ff9b::7f00:1":    {false, true},
		"169.254.169.254":    {false, false},
		"::ffff:a9fe:a9fe":   {false, false},
		"fe80::1%eth0":       {false, false},
		"fd00:ec2::254":      {false, false},
		"2002:a9fe:a9fe::":   {false, false},
		"64:ff9b::a9fe:a9fe": {false, false},
		"224.0.0.1":          {false, false},
		"255.255.255.255":    {false, false},
		"10.1.1.1":           {false, false},
		"::ffff:10.1.1.1":    {false, false},
		"10.9.1.1":           {true, true},
	} {
		addr := netip.MustParseAddr(address)
		for loopback, ok := range map[bool]bool{false: want.remote, true: want.loopback} {
			err := g.check(addr, loopback)
			if (err == nil) != ok || (err != nil && !errors.Is(err, model.ErrDenied)) {
				t.Errorf("%s, loopback %t: %v, want allowed: %t", address, loopback, err, ok)
			}
		}
	}
}

// A name that resolves to the node itself is found out when it is dialled.
func TestDialResolvedName(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	address := net.JoinHostPort("localhost", port)
	d := dialer{guard: newGuard(nil, nil), proxies: &proxies{}, timeout: time.Second}
	if conn, err := d.dial(t.Context(), "tcp", address); !errors.Is(err, model.ErrDenied) {
		t.Errorf("got %v, %v", conn, err)
	}
	d.proxies.known.Store(address, true)
	conn, err := d.dial(t.Context(), "tcp", address)
	if err != nil {
		t.Fatalf("a proxy on loopback: %v", err)
	}
	_ = conn.Close()
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, " 7 ": 7 * time.Second, "-7": 0, "soon": 0, "99999": maxRetryAfter, "99999999999999999999": 0,
		"Thu, 01 Jan 2026 00:00:30 GMT": 30 * time.Second, "Wed, 31 Dec 2025 00:00:00 GMT": 0,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

func TestPause(t *testing.T) {
	for _, test := range []struct {
		attempt int
		after   time.Duration
		jitter  float64
		want    time.Duration
	}{
		{1, 0, 0, time.Second}, {3, 0, 0, 4 * time.Second}, {1, 0, 1, 1500 * time.Millisecond}, {1, 3 * time.Second, 0, 3 * time.Second},
	} {
		if got := pause(time.Second, test.attempt, test.after, test.jitter); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

func TestRetryGivesUp(t *testing.T) {
	for name, test := range map[string]struct {
		failure failure
		want    int
	}{
		"may pass":            {failure{again: true}, attempts},
		"for good":            {failure{}, 1},
		"asks for much later": {failure{again: true, after: longestPause + 1}, 1},
	} {
		calls := 0
		if f := retry(t.Context(), time.Nanosecond, func() *failure { calls++; return &test.failure }); f == nil || calls != test.want {
			t.Errorf("%s: %d attempts, %v", name, calls, f)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	if f := retry(ctx, time.Hour, func() *failure { calls++; cancel(); return &failure{again: true} }); f == nil || calls != 1 {
		t.Errorf("%d attempts after the context ended, %v", calls, f)
	}
}

func TestServerWords(t *testing.T) {
	for body, want := range map[string]string{
		`{"errors":[{"code":"DENIED","message":"no"},{"code":"X"}]}`:    "DENIED: no",
		`{"errors":[{"code":"DENIED"}]}`:                                "DENIED",
		`{"details":"incorrect username or password"}`:                  "incorrect username or password",
		`{"error":"invalid_grant","error_description":"expired token"}`: "invalid_grant: expired token",
		`{"code":403,"message":"no"}`:                                   "no",
		`<html>`:                                                        "",
		``:                                                              "",
	} {
		if got := serverWords([]byte(body)); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func TestRedactor(t *testing.T) {
	cred := model.Credential{Username: "ann", Password: model.NewSecret("p w/d+"), AccessToken: model.NewSecret("tok"), RefreshToken: model.NewSecret("refresh-me")}
	header := http.Header{"Authorization": {"Bearer header-token"}, "X-Short": {"true"}, "X-Key": {"a-long-api-key"}}
	r := newRedactor(cred, header)
	text := "p w/d+ p+w%2Fd%2B YW5uOnAgdy9kKw== refresh-me header-token a-long-api-key true https://h/p?X-Sig=abc&y=z \x1b[31m"
	got := r.clean(text, 500)
	for _, secret := range []string{"p w/d+", "p+w%2Fd%2B", "YW5uOnAgdy9kKw", "refresh-me", "header-token", "a-long-api-key", "X-Sig", "\x1b"} {
		if strings.Contains(got, secret) {
			t.Errorf("%q shows in %q", secret, got)
		}
	}
	if !strings.Contains(got, "true") || !strings.Contains(got, "https://h/p") {
		t.Errorf("too much is hidden: %q", got)
	}
	if got := r.clean(strings.Repeat("é", 400), 101); len(got) != 100+len("...") {
		t.Errorf("cut to %d bytes", len(got))
	}
}

func TestFailureText(t *testing.T) {
	ref := model.Ref{Registry: "registry.example.com", Repository: "acme/llm", Tag: "v1"}
	s := subject{what: "manifest v1", ref: ref}
	got := s.status(reply{host: "registry.example.com", status: 401, body: []byte(`{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)}).err()
	want := "registry.example.com/acme/llm:v1: manifest v1: HTTP 401 from registry.example.com as anonymous: UNAUTHORIZED: authentication required; " +
		"check the name, or give the pod's volume a nodePublishSecretRef with a credential for registry registry.example.com: unauthenticated"
	if got.Error() != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if text := fmt.Sprintf("%+v", got); text != want {
		t.Errorf("%%+v shows %s", text)
	}
}

func TestScopeName(t *testing.T) {
	for path, want := range map[string]string{"/v2": "a/b", "/v2/hub": "hub/a/b", "/artifactory/v2": "a/b"} {
		if got := scopeName(&url.URL{Path: path}, "a/b"); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}
