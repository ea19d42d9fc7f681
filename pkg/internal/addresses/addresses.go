// Package addresses reads lists of network addresses that must not be connected to, as operators write them.
//
// A list has items with commas between them: the name of a group, an address, or a prefix such as 10.0.0.0/8. "default"
// stands for all groups, "none" for an empty list. An address or prefix with "!" before it is an exception, which wins
// over everything else. A list without "default" replaces the default; one with it adds to it.
package addresses

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/internal/nearest"
)

// The groups. What they contain is for those to say who know networks.
const (
	// LinkLocal is what is reached without a router.
	LinkLocal = "link-local"
	// Metadata are the services that hand out the credentials of a cloud machine.
	Metadata = "metadata"
	// Multicast includes broadcast.
	Multicast = "multicast"
	// Loopback is the machine itself, by the addresses that mean just that.
	Loopback = "loopback"
	// Node is the machine itself, by its addresses in the network.
	Node = "node"
)

const (
	all  = "default"
	none = "none"
)

var groups = []string{LinkLocal, Metadata, Multicast, Loopback, Node}

// List says what is blocked.
type List struct {
	Groups []string
	// Blocked are further addresses, and Except those that are not blocked whatever else is said.
	Blocked, Except []netip.Prefix
}

// Has reports whether the group is blocked.
func (l List) Has(group string) bool { return slices.Contains(l.Groups, group) }

// Parse reads a list; the empty text is the default. Errors show the item and say what is allowed.
func Parse(text string) (List, error) {
	if text == "" {
		text = all
	}
	var l List
	items := strings.Split(text, ",")
	for _, item := range items {
		item = strings.TrimSpace(item)
		address, except := strings.CutPrefix(item, "!")
		prefix, err := parsePrefix(address)
		switch {
		case item == none && len(items) > 1:
			return List{}, errors.New("none stands alone")
		case item == none:
			return l, nil
		case item == all:
			l.Groups = slices.Clone(groups)
		case slices.Contains(groups, item):
			l.Groups = append(l.Groups, item)
		case err != nil:
			return List{}, fmt.Errorf("%.60q is neither an address, nor a prefix such as 10.0.0.0/8, nor a group; did you mean %q?", item, nearest.Of(item, append(groups, all, none)))
		case except:
			l.Except = append(l.Except, prefix)
		default:
			l.Blocked = append(l.Blocked, prefix)
		}
	}
	if len(l.Groups) == 0 && len(l.Blocked) == 0 {
		return List{}, fmt.Errorf("exceptions alone block nothing; write %s,%.60s", all, text)
	}
	return l, nil
}

// parsePrefix reads a prefix or an address. IPv4 in the form of IPv6 is IPv4.
func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	if p.Addr().Is4In6() {
		const mapped = 96
		if p.Bits() < mapped {
			return netip.Prefix{}, errors.New("the prefix of an IPv4 address in IPv6 form is too short")
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-mapped)
	}
	return p.Masked(), nil
}
