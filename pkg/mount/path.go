package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/model"
)

// deleted is what the kernel appends to the path of a directory that is gone.
const deleted = "//deleted"

// CheckPath refuses with model.ErrInvalid what cannot be the source or target of a mount, without looking at the disk.
func CheckPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" || strings.ContainsRune(path, 0) {
		return fmt.Errorf("path %q must be absolute, clean and below /: %w", path, model.ErrInvalid)
	}
	return nil
}

// handle is a directory that was looked up once. Whatever happens to its path later, it stays the same directory.
type handle struct {
	fd   int
	path string
}

// open looks the directory up and checks that no symbolic link was met on the way: the path under which the kernel
// knows the directory has to be the one asked for. This needs no openat2 and works on every kernel.
func open(path string) (handle, error) {
	if err := CheckPath(path); err != nil {
		return handle{}, err
	}
	fd, err := openPath(path, unix.O_DIRECTORY)
	if err != nil {
		return handle{}, err
	}
	h := handle{fd, path}
	if err := h.unmoved(); err != nil {
		h.close()
		return handle{}, err
	}
	return h, nil
}

// openPath returns a descriptor that only names the path; nothing is opened for reading. The last component is not
// followed when it is a symbolic link.
func openPath(path string, flags int) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW|flags, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP):
			return -1, fmt.Errorf("%s is not a directory, or a symbolic link leads there: %w", path, model.ErrInvalid)
		case err != nil:
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return fd, nil
	}
}

// unmoved checks that the directory is still found under its path.
func (h handle) unmoved() error {
	real, err := os.Readlink(h.proc())
	if err != nil {
		return err
	}
	if real != h.path {
		return fmt.Errorf("%s is really %s; name it without symbolic links: %w", h.path, real, model.ErrInvalid)
	}
	return nil
}

// proc is a path that leads to the directory and nowhere else.
func (h handle) proc() string { return fmt.Sprintf("/proc/self/fd/%d", h.fd) }

func (h handle) close() { _ = unix.Close(h.fd) }
