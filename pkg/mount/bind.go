package mount

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// System makes mounts in the mount namespace of this process. Create it with [New]. It needs CAP_SYS_ADMIN.
type System struct {
	// classic leaves out the calls that handle mounts by file descriptor, as on a kernel without them.
	classic bool
	// bindMu is held while a bind is made, because the classic way mounts something onto the source for a moment.
	// The kernel makes one mount at a time anyway.
	bindMu sync.Mutex
}

// New returns the Mounter of the kernel.
func New() *System { return &System{} }

var _ Mounter = (*System)(nil)

// BindReadOnly implements Mounter.
//
// The mount is cloned, made read-only while it is attached nowhere, and then attached: there is no moment at which the
// target is writable.
func (s *System) BindReadOnly(source, target string, o Options) error {
	err := s.bind(source, target, o)
	if err != nil {
		return fmt.Errorf("mount %s at %s: %w", source, target, err)
	}
	return nil
}

func (s *System) bind(source, target string, o Options) error {
	s.bindMu.Lock()
	defer s.bindMu.Unlock()
	from, err := open(source)
	if err != nil {
		return err
	}
	defer from.close()
	to, err := open(target)
	if err != nil {
		return err
	}
	defer to.close()
	err = unix.ENOSYS
	if !s.classic {
		err = bindDetached(from, to, o)
	}
	// EPERM comes from container runtimes whose seccomp profile does not know the calls. When the privilege is really
	// missing, the classic call says so as well.
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return bindClassic(from, to, o)
	}
	return err
}

func bindDetached(from, to handle, o Options) error {
	fd, err := unix.OpenTree(from.fd, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	tree := handle{fd, to.path}
	defer tree.close()
	attr := unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV,
		// A clone is a peer of the mount that it was cloned from, and would receive what is mounted there later.
		Propagation: unix.MS_PRIVATE,
	}
	if o.Exec {
		// The clone inherits the flags of the filesystem that holds the cache, which may well be noexec.
		attr.Attr_clr = unix.MOUNT_ATTR_NOEXEC
	} else {
		attr.Attr_set |= unix.MOUNT_ATTR_NOEXEC
	}
	if err := unix.MountSetattr(tree.fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	err = unix.MoveMount(tree.fd, "", to.fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	// The target may have been moved elsewhere between looking it up and now. The mount is then harmless, but it is
	// not where it was asked for.
	if err := tree.unmoved(); err != nil {
		return errors.Join(err, os.NewSyscallError("umount2", unix.Unmount(tree.proc(), unix.MNT_DETACH)))
	}
	return nil
}

// bindClassic is for kernels before 5.12. A bind mount takes over the flags of the mount that its source lies on, so the
// source is first mounted onto itself and made read-only there. Making the target read-only after it was mounted would
// not do: the flags of a mount do not propagate, and the host would keep a writable one.
func bindClassic(from, to handle, o Options) (err error) {
	if err := unix.Mount(from.proc(), from.proc(), "", unix.MS_BIND, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	defer func() {
		stuck := detach(from.path)
		if stuck != nil && err == nil {
			err = detach(to.path)
		}
		err = errors.Join(err, stuck)
	}()
	staged, err := open(from.path) // the same path now leads to the mount
	if err != nil {
		return err
	}
	defer staged.close()
	flags := uintptr(unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV)
	if !o.Exec {
		flags |= unix.MS_NOEXEC
	}
	for _, change := range []uintptr{unix.MS_PRIVATE, flags} {
		if err := unix.Mount("", staged.proc(), "", change, ""); err != nil {
			return os.NewSyscallError("mount", err)
		}
	}
	return os.NewSyscallError("mount", unix.Mount(staged.proc(), to.proc(), "", unix.MS_BIND, ""))
}
