package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchy is one mounted cgroup tree of the host: version 1 with its controllers, or version 2.
type hierarchy struct {
	path    string
	options string // version 1: the mount options that name the hierarchy
	v2      bool
}

// cgroupHierarchies lists what is mounted under /sys/fs/cgroup.
func cgroupHierarchies() ([]hierarchy, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var hs []hierarchy
	for line := range strings.Lines(string(data)) {
		left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if !ok || len(f) < 5 || len(g) < 3 || !strings.HasPrefix(f[4], "/sys/fs/cgroup") {
			continue
		}
		switch g[0] {
		case "cgroup2":
			hs = append(hs, hierarchy{path: f[4], v2: true})
		case "cgroup":
			options := slices.DeleteFunc(strings.Split(g[2], ","), func(o string) bool {
				return o == "rw" || o == "ro" || o == "xattr" || strings.HasPrefix(o, "release_agent")
			})
			hs = append(hs, hierarchy{path: f[4], options: strings.Join(options, ",")})
		}
	}
	if len(hs) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted under /sys/fs/cgroup")
	}
	return hs, nil
}

func makeCgroup(h hierarchy, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the node's cgroup: %w", err)
	}
	// A version 1 cpuset is empty until it is told otherwise, and takes no process while it is.
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		all, err := os.ReadFile(filepath.Join(h.path, file))
		if h.v2 || err != nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, file), all, 0o644); err != nil {
			return fmt.Errorf("fill the cpuset of %s: %w", dir, err)
		}
	}
	return nil
}

// mountCgroups replaces the host's cgroup mounts, in the node's mount namespace, by those its cgroup namespace shows.
func mountCgroups(hs []hierarchy) error {
	const root = "/sys/fs/cgroup"
	if len(hs) == 1 && hs[0].v2 {
		if err := unix.Mount("cgroup2", root, "cgroup2", 0, ""); err != nil {
			return fmt.Errorf("mount the node's cgroup2: %w", err)
		}
		// A cgroup with processes of its own cannot have controllers for its children.
		leaf := filepath.Join(root, "init")
		if err := os.MkdirAll(leaf, 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0o644)
	}
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount the node's %s: %w", root, err)
	}
	for _, h := range hs {
		if err := os.MkdirAll(h.path, 0o755); err != nil {
			return err
		}
		kind := "cgroup"
		if h.v2 {
			kind = "cgroup2"
		}
		if err := unix.Mount(kind, h.path, kind, 0, h.options); err != nil {
			return fmt.Errorf("mount the node's cgroup hierarchy %s (%s): %w", h.path, h.options, err)
		}
	}
	return nil
}

// removeCgroups removes the cgroups of a run from every hierarchy, deepest first. Cgroups of ended processes empty a
// moment after their end, hence the patience.
func removeCgroups(name string) error {
	hs, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	var last error
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		last = nil
		for _, h := range hs {
			var dirs []string
			err := filepath.WalkDir(filepath.Join(h.path, name), func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			last = errors.Join(last, err)
			for _, dir := range slices.Backward(dirs) {
				if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
					last = errors.Join(last, fmt.Errorf("remove the cgroup %s: %w", dir, err))
				}
			}
		}
		if last == nil || time.Now().After(deadline) {
			return last
		}
	}
}
