package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// KubernetesVersion is what the node and the API server report. It is the version that the module in ../kubernetes pins.
const KubernetesVersion = "v1.37.2"

// tools are the other programs of the cluster: the version is pinned here, and what it resolves to is verified by the
// checksum database. Each is installed on its own, so that no two dependency graphs meet.
var tools = []struct{ module, version, packages string }{
	{"github.com/containerd/containerd/v2", "v2.4.2", "cmd/containerd cmd/ctr cmd/containerd-shim-runc-v2"},
	{"github.com/containernetworking/plugins", "v1.9.1", "plugins/main/bridge plugins/main/loopback plugins/ipam/host-local"},
	{"helm.sh/helm/v4", "v4.3.1", "cmd/helm"},
}

// hostPrograms are the programs that a machine needs besides Go, and the Debian packages that have them.
var hostPrograms = map[string]string{
	"runc":    "runc",
	"nft":     "nftables",
	"busybox": "busybox-static",
}

// checkHost says what is missing on this machine and how to get it.
func checkHost() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("the end-to-end cluster makes namespaces, mounts and cgroups: run it as root")
	}
	var missing []string
	for program, pkg := range hostPrograms {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("programs are missing: apt-get install -y --no-install-recommends %s", strings.Join(missing, " "))
	}
	return nil
}

// Build makes every binary of the cluster, or finds those of an earlier run, and returns their directory. It lies in
// the user's cache directory under a name derived from the versions, so a changed pin never meets an old binary.
func Build(ctx context.Context, source string, out io.Writer) (string, error) {
	hash := sha256.New()
	for _, name := range []string{"go.mod", "go.sum", "main.go"} {
		data, err := os.ReadFile(filepath.Join(source, "kubernetes", name))
		if err != nil {
			return "", fmt.Errorf("read the pins of kubernetes: %w", err)
		}
		hash.Write(data)
	}
	fmt.Fprint(hash, KubernetesVersion, tools)
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory for the cluster's binaries: %w", err)
	}
	base = filepath.Join(base, "model-csi-e2e")
	dir := filepath.Join(base, hex.EncodeToString(hash.Sum(nil))[:16])
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFile(filepath.Join(base, "lock"), unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	fmt.Fprintln(out, "building the cluster's binaries (ten minutes on two cores, once) into", dir)
	partial := dir + ".partial"
	if err := os.MkdirAll(partial, 0o755); err != nil {
		return "", err
	}
	major, minor := "1", strings.Split(KubernetesVersion, ".")[1]
	version := " -X k8s.io/component-base/version."
	flags := "-s -w" + version + "gitVersion=" + KubernetesVersion + version + "gitMajor=" + major + version + "gitMinor=" + minor
	steps := [][]string{{"go", "build", "-trimpath", "-ldflags", flags, "-o", filepath.Join(partial, "kubernetes"), "."}}
	for _, t := range tools {
		step := []string{"go", "install", "-trimpath", "-ldflags", "-s -w"}
		for p := range strings.FieldsSeq(t.packages) {
			step = append(step, t.module+"/"+p+"@"+t.version)
		}
		steps = append(steps, step)
	}
	for _, step := range steps {
		cmd := exec.CommandContext(ctx, step[0], step[1:]...)
		cmd.Dir = filepath.Join(source, "kubernetes")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOBIN="+partial)
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("%s: %w", strings.Join(step, " "), err)
		}
	}
	return dir, os.Rename(partial, dir)
}

// lockFile takes a flock on a directory, or on a file that it creates; the lock also ends with the process, however that
// ends.
func lockFile(path string, how int) (unlock func(), err error) {
	flags := os.O_RDWR | os.O_CREATE
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}
