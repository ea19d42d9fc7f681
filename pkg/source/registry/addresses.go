package registry

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/model-csi/model-csi/pkg/internal/addresses"
	"github.com/model-csi/model-csi/pkg/model"
)

// groups are the addresses that no registry, token service or object storage has a reason to send a node to. The group
// of the node's own addresses is not among them: those are asked of the system.
var groups = map[string][]netip.Prefix{
	// With the metadata services of AWS, GCP, Azure and others.
	addresses.LinkLocal: prefixes("169.254.0.0/16", "fe80::/10"),
	addresses.Metadata: prefixes(
		"169.254.169.254/32", "169.254.170.2/32", // most clouds, and AWS' for containers
		"fd00:ec2::254/128", "fd00:ec2::23/128", // AWS and EKS pod identity over IPv6
		"fd20:ce::254/128",   // GCP over IPv6
		"100.100.100.200/32", // Alibaba Cloud
		"168.63.129.16/32",   // Azure's wire server
	),
	addresses.Multicast: prefixes("224.0.0.0/4", "ff00::/8", "255.255.255.255/32"),
}

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
	return fmt.Sprintf("address %s may not be connected to; an operator can allow it (blocked-addresses)", e.address)
}
func (e *deniedError) Unwrap() error { return model.ErrDenied }

// guard decides which addresses may be connected to.
type guard struct {
	deny, allow    []netip.Prefix
	loopback, node bool
	// own lists the node's addresses.
	own func() []netip.Addr
}

// newGuard reads what is blocked; see Options.BlockedAddresses.
func newGuard(blocked string) (guard, error) {
	l, err := addresses.Parse(blocked)
	if err != nil {
		return guard{}, fmt.Errorf("blocked addresses: %w: %w", err, model.ErrInvalid)
	}
	g := guard{deny: l.Blocked, allow: l.Except, loopback: l.Has(addresses.Loopback), node: l.Has(addresses.Node), own: (&interfaces{}).list}
	for name, group := range groups {
		if l.Has(name) {
			g.deny = append(g.deny, group...)
		}
	}
	return g, nil
}

// reach says on whose behalf a connection is made.
type reach struct {
	// loopback: the reference or hosts.toml names the machine itself.
	loopback bool
	// named: the connection is to the host that they name, and not to one that this host refers to.
	named bool
}

// check returns a *deniedError for an address that may not be connected to.
func (g guard) check(addr netip.Addr, r reach) error {
	addr = addr.Unmap().WithZone("")
	inner := embedded(addr)
	switch {
	case contains(g.allow, addr):
		return nil
	case contains(g.deny, addr), contains(g.deny, inner):
		return &deniedError{addr}
	case r.loopback:
		return nil
	case g.loopback && (contains(loopbackAddresses, addr) || contains(loopbackAddresses, inner)):
		return &deniedError{addr}
	case g.node && !r.named && g.isNode(addr, inner):
		return &deniedError{addr}
	}
	return nil
}

func (g guard) isNode(forms ...netip.Addr) bool {
	for _, own := range g.own() {
		for _, addr := range forms {
			if own == addr {
				return true
			}
		}
	}
	return false
}

// checkURL applies check to a URL whose host is an address. Behind a proxy no other check sees it.
func (g guard) checkURL(u *url.URL, e *endpoint) error {
	r := reach{loopback: e.loopback, named: e.names(u)}
	addr, err := netip.ParseAddr(u.Hostname())
	if err != nil {
		if !r.loopback && isLoopbackHost(u.Hostname()) {
			return g.check(netip.AddrFrom4([4]byte{127, 0, 0, 1}), r)
		}
		return nil // names are checked once they are resolved
	}
	return g.check(addr, r)
}

// names reports whether the URL is on the endpoint's own host, whatever the port.
func (e *endpoint) names(u *url.URL) bool { return strings.EqualFold(u.Hostname(), e.base.Hostname()) }

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

// interfacesLife is how long the node's addresses are remembered. Asking takes a system call for each of the many
// interfaces of a node with pods.
const interfacesLife = 30 * time.Second

// interfaces knows the addresses of the network that the process is in: those of the node, or those of the pod where it
// has a network of its own.
type interfaces struct {
	mu    sync.Mutex // guards what follows
	addrs []netip.Addr
	until time.Time
}

func (i *interfaces) list() []netip.Addr {
	i.mu.Lock()
	defer i.mu.Unlock()
	if time.Now().Before(i.until) {
		return i.addrs
	}
	found, err := net.InterfaceAddrs()
	if err != nil {
		return i.addrs // what was known is the best there is
	}
	i.addrs, i.until = nil, time.Now().Add(interfacesLife)
	for _, a := range found {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() {
			i.addrs = append(i.addrs, p.Addr().Unmap().WithZone(""))
		}
	}
	return i.addrs
}

// dialer connects where the guard permits it. The check is made on the address that the kernel is about to connect to,
// so a name that resolves differently a moment later gains nothing.
type dialer struct {
	guard   guard
	proxies *proxies
	reach   reach
	timeout time.Duration
}

func (d dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	nd := net.Dialer{Timeout: d.timeout, KeepAlive: 30 * time.Second}
	if !d.proxies.isProxy(address) {
		nd.Control = func(_, address string, _ syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("address %q cannot be checked: %w", address, model.ErrDenied)
			}
			return d.guard.check(ap.Addr(), d.reach)
		}
	}
	return nd.DialContext(ctx, network, address)
}
