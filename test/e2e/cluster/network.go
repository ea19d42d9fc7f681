package cluster

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/vishvananda/netlink"
)

// The sandbox's network namespace has one bridge. Its address is the node's, the API server's and the registries'; the
// same addresses can serve any number of clusters, because no namespace sees another's.
const (
	// NodeIP is the address of the node, and of everything that listens outside of pods.
	NodeIP = "10.88.0.1"

	bridgeName   = "e2e0"
	podCIDR      = "10.88.0.0/16"
	serviceCIDR  = "10.96.0.0/16"
	serviceIP    = "10.96.0.1" // of kubernetes.default
	apiPort      = "6443"
	NodeName     = "e2e"
	clusterName  = "model-csi-e2e"
	apiServerURL = "https://" + NodeIP + ":" + apiPort
)

func setUpNetwork() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	address, err := netlink.ParseAddr(NodeIP + "/16")
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkSetUp(lo), netlink.LinkAdd(bridge)); err != nil {
		return fmt.Errorf("make the bridge of the sandbox: %w", err)
	}
	if err := errors.Join(netlink.AddrAdd(bridge, address), netlink.LinkSetUp(bridge)); err != nil {
		return fmt.Errorf("address the bridge of the sandbox: %w", err)
	}
	// A default route lets components find "their" address. Nothing beyond the bridge answers.
	err = netlink.RouteAdd(&netlink.Route{LinkIndex: bridge.Attrs().Index, Gw: net.ParseIP("10.88.255.254")})
	if err != nil {
		return fmt.Errorf("add the default route of the sandbox: %w", err)
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644)
}

// forward connects every client of l with the API server, until l is closed.
func forward(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer client.Close()
			server, err := net.Dial("tcp", NodeIP+":"+apiPort)
			if err != nil {
				return
			}
			defer server.Close()
			go func() {
				_, _ = io.Copy(server, client)
				server.Close()
			}()
			_, _ = io.Copy(client, server)
		}()
	}
}
