package registry

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

// alwaysDenied are the addresses no registry, token service or object storage has a reason to send a node to: what is
// local to the node or the link, and the services that hand out the credentials of a cloud machine.
var alwaysDenied = prefixes(
	"169.254.0.0/16", "fe80::/10", // link-local, with the metadata services of AWS, GCP, Azure and others
	"fd00:ec2::254/128", "fd00:ec2::23/128", // AWS metadata and EKS pod identity over IPv6
	"fd20:ce::254/128",   // GCP metadata over IPv6
	"100.100.100.200/32", // Alibaba Cloud metadata
	"168.63.129.16/32",   // Azure's wire server
	"224.0.0.0/4", "ff00::/8", "255.255.255.255/32",
)

// loopbackAddresses are denied too, unless the reference or hosts.toml names a loopback host itself. Connecting to the
// unspecified address reaches loopback.
var loopbackAddresses = prefixes("127.0.0.0/8", "::1/128", "0.0.0.0/8", "::/128")

// Prefixes under which IPv6 carries IPv4 addresses (RFC 6052, RFC 3056).
var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96")
	sixTo4 = netip.MustParsePrefix("2002::/16")
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, p := range list {
		out[i] = netip.MustParsePrefix(p)
	}
	return out
}

// deniedError says that policy keeps a connection from being made.
type deniedError struct{ address netip.Addr }

func (e *deniedError) Error() string {
	return fmt.Sprintf("address %s may not be connected to; an operator can allow it", e.address)
}
func (e *deniedError) Unwrap() error { return model.ErrDenied }

// guard decides which addresses may be connected to.
type guard struct{ deny, allow []netip.Prefix }

func newGuard(deny, allow []netip.Prefix) guard {
	return guard{deny: append(alwaysDenied[:len(alwaysDenied):len(alwaysDenied)], deny...), allow: allow}
}

// check returns a *deniedError for an address that may not be connected to. loopback permits loopback addresses.
func (g guard) check(addr netip.Addr, loopback bool) error {
	addr = addr.Unmap().WithZone("")
	inner := embedded(addr)
	switch {
	case contains(g.allow, addr):
		return nil
	case contains(g.deny, addr), contains(g.deny, inner):
		return &deniedError{addr}
	case !loopback && (contains(loopbackAddresses, addr) || contains(loopbackAddresses, inner)):
		return &deniedError{addr}
	}
	return nil
}

// checkURL applies check to a URL whose host is an address. Behind a proxy no other check sees it.
func (g guard) checkURL(u *url.URL, loopback bool) error {
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		if !loopback && isLoopbackHost(u.Hostname()) {
			return g.check(netip.AddrFrom4([4]byte{127, 0, 0, 1}), loopback)
		}
		return nil // names are checked once they are resolved
	}
	return g.check(addr, loopback)
}

// embedded returns the IPv4 address that an IPv6 address carries, or the address itself.
func embedded(addr netip.Addr) netip.Addr {
	if !addr.Is6() {
		return addr
	}
	b := addr.As16()
	switch {
	case nat64.Contains(addr):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case sixTo4.Contains(addr):
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return addr
}

func contains(list []netip.Prefix, addr netip.Addr) bool {
	for _, p := range list {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

// isLoopbackHost reports whether a host name without a port is loopback by its own text.
func isLoopbackHost(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && contains(loopbackAddresses, addr.Unmap())
}

// proxies remembers which addresses are proxies: the operator chose them, so dialling them is not checked.
type proxies struct {
	choose func(*http.Request) (*url.URL, error)
	known  sync.Map // host:port
}

func (p *proxies) proxy(req *http.Request) (*url.URL, error) {
	u, err := p.choose(req)
	if u != nil && err == nil {
		p.known.Store(dialAddress(u), true)
	}
	return u, err
}

func (p *proxies) isProxy(address string) bool {
	_, ok := p.known.Load(address)
	return ok
}

// dialAddress is the address that net/http dials for a proxy.
func dialAddress(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// dialer connects where the guard permits it. The check is made on the address that the kernel is about to connect to,
// so a name that resolves differently a moment later gains nothing.
type dialer struct {
	guard    guard
	proxies  *proxies
	loopback bool
	timeout  time.Duration
}

func (d dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	nd := net.Dialer{Timeout: d.timeout, KeepAlive: 30 * time.Second}
	if !d.proxies.isProxy(address) {
		nd.Control = func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("address %q cannot be checked: %w", address, model.ErrDenied)
			}
			return d.guard.check(ap.Addr(), d.loopback)
		}
	}
	return nd.DialContext(ctx, network, address)
}
