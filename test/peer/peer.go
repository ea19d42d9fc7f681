// Package peer builds other tools of the ecosystem from their Go modules, at pinned versions, so that tests can prove
// that they understand what the product writes.
package peer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Peer is a tool.
type Peer struct{ Name, Module, Package, Version string }

// The tools that tests use.
var (
	ORAS  = Peer{"oras", "oras.land/oras", "cmd/oras", "v1.3.6"}
	Crane = Peer{"crane", "github.com/google/go-containerregistry", "cmd/crane", "v0.22.1"}
)

// Build returns the path of the tool. It is built once and kept in the user's cache, where benchmarks look for it too.
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
	cmd := exec.CommandContext(ctx, "go", "install", p.Module+"/"+p.Package+"@"+p.Version)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=", "CGO_ENABLED=0")
	cmd.Dir = os.TempDir() // outside of any module
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s %s: %w: %s", p.Name, p.Version, err, out)
	}
	return path, nil
}
