package registry

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
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

func mustGuard(t *testing.T, blocked string) guard {
	t.Helper()
	g, err := newGuard(blocked)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// What is blocked by default can be taken away by groups, and the node's own addresses depend on who leads there.
func TestGuardGroups(t *testing.T) {
	loopback, local, metadata, multicast, node := "127.0.0.1", "169.254.1.1", "169.254.169.254", "224.0.0.1", "192.0.2.7"
	for _, tt := range []struct {
		blocked string
		reach   reach
		denied  []string
	}{
		{"", reach{}, []string{loopback, local, metadata, multicast, node}},
		{"default", reach{named: true}, []string{loopback, local, metadata, multicast}},
		{"default", reach{loopback: true}, []string{local, metadata, multicast}},
		{"none", reach{}, nil},
		{"loopback", reach{}, []string{loopback}},
		{"node", reach{}, []string{node}},
		{"node,!192.0.2.7", reach{}, nil},
		{"default,!192.0.2.0/24,!127.0.0.1", reach{}, []string{local, metadata, multicast}},
		{"metadata,multicast", reach{}, []string{metadata, multicast}},
		{"192.0.2.0/24", reach{loopback: true, named: true}, []string{node}},
	} {
		g := mustGuard(t, tt.blocked)
		g.own = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr(node)} }
		for _, address := range []string{loopback, local, metadata, multicast, node, "192.0.3.1"} {
			err := g.check(netip.MustParseAddr(address), tt.reach)
			if denied := slices.Contains(tt.denied, address); (err != nil) != denied || denied && !errors.Is(err, model.ErrDenied) {
				t.Errorf("%q, %+v: %s: %v, want denied: %t", tt.blocked, tt.reach, address, err, denied)
			}
		}
	}
	if _, err := newGuard("lopback"); !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), `"loopback"`) {
		t.Errorf("a misspelt group: %v", err)
	}
	own := (&interfaces{}).list()
	if len(own) > 0 && mustGuard(t, "node").check(own[0], reach{}) == nil {
		t.Errorf("%s of this machine may be connected to", own[0])
	}
}

func TestGuard(t *testing.T) {
	g := mustGuard(t, "default, 10.0.0.0/8, !10.9.0.0/16")
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
			err := g.check(addr, reach{loopback: loopback})
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
	d := dialer{guard: mustGuard(t, ""), proxies: &proxies{}, timeout: time.Minute}
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

func TestFailureText(t *testing.T) {
	ref := model.Ref{Registry: "registry.example.com", Repository: "acme/llm", Tag: "v1"}
	s := subject{what: "manifest v1", ref: ref}
	got := s.status(reply{host: "registry.example.com", status: 401, body: []byte(`{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)}).Err()
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
