// Package peer builds other tools of the ecosystem from their Go modules, at pinned versions, so that tests can prove
// that they understand what the product writes, and benchmarks can measure them.
package peer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Peer is a tool.
type Peer struct {
	Name, Module, Package, Version string
	// Tags are build tags, separated by commas; may be empty.
	Tags string
}

// noLibraries leaves out snapshotters of containerd that need C libraries.
const noLibraries = "no_btrfs,no_zfs,no_devmapper"

// The tools that tests and benchmarks use.
var (
	ORAS       = Peer{Name: "oras", Module: "oras.land/oras", Package: "cmd/oras", Version: "v1.3.6"}
	Crane      = Peer{Name: "crane", Module: "github.com/google/go-containerregistry", Package: "cmd/crane", Version: "v0.22.1"}
	Containerd = Peer{Name: "containerd", Module: "github.com/containerd/containerd/v2", Package: "cmd/containerd", Version: "v2.4.2", Tags: noLibraries}
	CTR        = Peer{Name: "ctr", Module: Containerd.Module, Package: "cmd/ctr", Version: Containerd.Version, Tags: noLibraries}
)

// Build returns the path of the tool. It is built once and kept in the user's cache; what takes that long is told on
// standard error.
func (p Peer) Build(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "model-csi-bench", p.Version)
	path := filepath.Join(dir, p.Name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	fmt.Fprintf(os.Stderr, "building %s %s ...\n", p.Name, p.Version)
	cmd := exec.CommandContext(ctx, "go", "install", "-tags", p.Tags, p.Module+"/"+p.Package+"@"+p.Version)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=", "CGO_ENABLED=0")
	cmd.Dir = os.TempDir() // outside of any module
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s %s: %w: %s", p.Name, p.Version, err, out)
	}
	return path, nil
}
