// Package mount shows a directory of the host at another path, read-only, and knows what is mounted where.
//
// A [Mounter] makes bind mounts: the source is a directory that the product owns (a view, or a directory inside of
// one), the target is an empty directory that kubelet names. Every mount is read-only, nosuid and nodev, and noexec
// unless [Options] says otherwise. What is mounted is read from the kernel each time and never remembered, so it is true
// after a restart as well.
//
// A path is looked up once and held as a file descriptor while it is used. If looking it up met a symbolic link, the
// call is refused: whoever can swap a directory for a link gets an error, not a mount somewhere else.
//
// [New] returns the real thing. Package mounttest has a fake for tests and the conformance suite that both pass.
package mount

import (
	"path/filepath"
	"strings"
)

// Mounter makes, removes and inspects bind mounts. Implementations are safe for concurrent use; calls for the same
// target must not overlap.
type Mounter interface {
	// BindReadOnly shows the directory source at the existing directory target. Both are absolute and clean paths
	// without symbolic links (model.ErrInvalid otherwise). What is already mounted at the target stays, below the
	// new mount. When it fails, nothing is mounted.
	BindReadOnly(source, target string, o Options) error
	// Unmount removes every mount at the target, however many are stacked. It is no error when there is none, or
	// when the target does not exist. Open files of readers stay readable.
	Unmount(target string) error
	// State says what is mounted at the target, the topmost mount when several are stacked. A target that does not
	// exist is not mounted.
	State(target string) (State, error)
	// List returns every mount that this process sees, in the order in which they were attached.
	List() ([]Point, error)
}

// Options of a mount. The zero value is the strictest one.
type Options struct {
	// Exec allows programs to be executed from the mount.
	Exec bool
}

// State of one target.
type State struct {
	// Mounted says that the target is the root of a mount.
	Mounted bool
	// Source is the directory that is shown, as a path on its own filesystem: for a bind of /var/lib/x where /var is
	// a filesystem of its own, it is /lib/x.
	Source string
	// Device of the filesystem, "major:minor".
	Device string
	// ReadOnly and NoExec are the flags of the mount.
	ReadOnly, NoExec bool
	// Corrupted says that the mount is there and its filesystem is not: reading fails with ENOTCONN or ESTALE.
	// Unmounting is all that can be done with it.
	Corrupted bool
}

// Point is one mount of the host.
type Point struct {
	// Target is where it is mounted.
	Target string
	// Root is the directory of the filesystem that is shown there.
	Root string
	// Device of the filesystem, "major:minor".
	Device string
}

// Locate says where a path lies: on which device, and under which path of that device's filesystem. This is how the
// Root and Device of a mount made from the path look. points come from List; path is absolute and clean.
func Locate(points []Point, path string) (device, root string, ok bool) {
	best := -1
	for i, p := range points {
		// Of two mounts at one target the later hides the earlier, so an equal length wins as well.
		if within(p.Target, path) && (best < 0 || len(p.Target) >= len(points[best].Target)) {
			best = i
		}
	}
	if best < 0 {
		return "", "", false
	}
	p := points[best]
	return p.Device, filepath.Join(p.Root, strings.TrimPrefix(path, p.Target)), true
}

// within reports whether path is dir or lies below it.
func within(dir, path string) bool {
	return dir == path || dir == "/" || strings.HasPrefix(path, dir+"/")
}
