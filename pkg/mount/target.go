package mount

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/model"
)

// targetMode is what kubelet gives the directories around a target.
const targetMode = 0o750

// MakeTarget makes sure that the target is a directory, and says whether it had to create it. The directory above it
// has to exist. Neither may be, or lie behind, a symbolic link (model.ErrInvalid).
func MakeTarget(target string) (created bool, err error) {
	parent, err := openParent(target)
	if err != nil {
		return false, fmt.Errorf("target directory: %w", err)
	}
	defer parent.close()
	err = unix.Mkdirat(parent.fd, filepath.Base(target), targetMode)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, unix.EEXIST) {
		return false, &os.PathError{Op: "create target directory", Path: target, Err: err}
	}
	existing, err := open(target)
	if err != nil {
		return false, fmt.Errorf("target directory: %w", err)
	}
	existing.close()
	return false, nil
}

// RemoveTarget removes the directory, which must be empty; what is in it is never removed. It is no error when there is
// none. It fails with model.ErrConflict when something is in it, or mounted on it.
func RemoveTarget(target string) error {
	parent, err := openParent(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("target directory: %w", err)
	}
	defer parent.close()
	err = unix.Unlinkat(parent.fd, filepath.Base(target), unix.AT_REMOVEDIR)
	switch {
	case err == nil || errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST):
		return fmt.Errorf("target directory %s holds files that the volume did not bring; move them away: %w", target, model.ErrConflict)
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("target directory %s is still in use as a mount point: %w", target, model.ErrConflict)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("target %s is not a directory: %w", target, model.ErrInvalid)
	}
	return &os.PathError{Op: "remove target directory", Path: target, Err: err}
}

func openParent(target string) (handle, error) {
	if err := CheckPath(target); err != nil {
		return handle{}, err
	}
	dir := filepath.Dir(target)
	if dir == "/" {
		fd, err := openPath(dir, unix.O_DIRECTORY)
		return handle{fd, dir}, err
	}
	return open(dir)
}
