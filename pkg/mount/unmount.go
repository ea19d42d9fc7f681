package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxStacked bounds the loop that takes stacked mounts away. More than a few are never seen.
	maxStacked = 100
	// busyTries and busyPause give short-lived users of a mount (a scan of the host's filesystems, an inspection by
	// this package) a second to leave before the mount is detached.
	busyTries = 20
	busyPause = 50 * time.Millisecond
)

// Unmount implements Mounter.
//
// A mount that is still in use after a second is detached lazily: it disappears from the target at once and ends with
// its last user. That is right for the mounts of this product and would not be for others. Kubelet asks when it has
// ended the pod's containers, so whoever still reads is a leftover; nothing can be lost, because the mount is read-only;
// and the alternative is a pod that stays in Terminating for as long as the leftover lives. A corrupted mount is
// detached likewise.
func (s *System) Unmount(target string) error {
	if err := CheckPath(target); err != nil {
		return err
	}
	for range maxStacked {
		state, err := s.State(target)
		if err != nil {
			return err
		}
		if !state.Mounted {
			return nil
		}
		if err := unmountOne(target, state.Corrupted); err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	return fmt.Errorf("unmount %s: still mounted after %d mounts were removed", target, maxStacked)
}

func unmountOne(target string, corrupted bool) error {
	for try := range busyTries {
		err := umount(target, 0)
		switch {
		case err == nil, errors.Is(err, unix.EINVAL): // EINVAL: no mount point any more
			return nil
		case !errors.Is(err, unix.EBUSY) && !corrupted:
			return err
		case corrupted:
			return detach(target)
		}
		if try < busyTries-1 {
			time.Sleep(busyPause)
		}
	}
	return detach(target)
}

func detach(target string) error { return umount(target, unix.MNT_DETACH) }

// umount names the mount through its parent directory, because a descriptor of the mount itself would keep it busy.
// Neither the parent nor the last component can be swapped for a symbolic link.
func umount(target string, flags int) error {
	parent, err := openParent(target)
	if err != nil {
		return err
	}
	defer parent.close()
	err = unix.Unmount(filepath.Join(parent.proc(), filepath.Base(target)), flags|unix.UMOUNT_NOFOLLOW)
	return os.NewSyscallError("umount2", err)
}
