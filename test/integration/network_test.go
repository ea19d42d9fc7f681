package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/test/node"
)

// network is a network namespace of a test's own, with names and addresses that exist nowhere else: metadata services and
// registries on the internet, all answered by the test.
type network struct {
	work chan func()
}

// newNetwork makes a network whose loopback device has the addresses, and gives the machine's programs the names, as
// "address name".
func newNetwork(t *testing.T, addresses, names []string) *network {
	t.Helper()
	n := &network{work: make(chan func())}
	ready := make(chan error)
	go func() {
		// The thread keeps the namespace, so it is never unlocked. Nor does it ever end: it may have started the daemon of
		// another test before, which would be killed with it (PR_SET_PDEATHSIG is about threads).
		runtime.LockOSThread()
		ready <- setUp(addresses)
		for f := range n.work {
			f()
		}
		select {}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(n.work) })
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	// Tests run in a mount namespace of their own, so nobody else sees this file.
	file := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(file, append(hosts, "\n"+strings.Join(names, "\n")+"\n"...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(file, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount("/etc/hosts", unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return n
}

func setUp(addresses []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("new network namespace: %w", err)
	}
	commands := [][]string{{"link", "set", "lo", "up"}}
	for _, a := range addresses {
		commands = append(commands, []string{"addr", "add", a, "dev", "lo"})
	}
	for _, c := range commands {
		if out, err := exec.Command("ip", c...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", c, err, out)
		}
	}
	return nil
}

// do runs f where sockets belong to the network, and so do programs that are started.
func (n *network) do(f func()) {
	done := make(chan struct{})
	n.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// start starts the node of a world in the network.
func (n *network) start(w *world) {
	w.t.Helper()
	var err error
	n.do(func() { w.node, err = node.Start(w.t.Context(), w.options) })
	if err != nil {
		w.t.Fatal(err)
	}
}
