package view

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/model"
)

// place makes the file base in dir from the blob at source.
func place(source string, dir *os.File, base string, f model.File) error {
	err := link(source, dir, base)
	if cannotLink(err) {
		err = duplicate(source, dir, base, f)
	}
	if err != nil {
		return err
	}
	// The link leads to whatever was at that path. A file that was truncated by hand, or a link put in its place,
	// shows here and costs one call.
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return os.NewSyscallError("fstatat", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != f.Blob.Size {
		return fmt.Errorf("blob %s in the cache is not a file of %d bytes: %w", f.Blob.Digest, f.Blob.Size, model.ErrCorrupt)
	}
	return nil
}

// link is a variable so that tests reach what the disk at hand does not do.
var link = func(source string, dir *os.File, base string) error {
	err := unix.Linkat(unix.AT_FDCWD, source, int(dir.Fd()), base, 0)
	if err != nil {
		return &os.LinkError{Op: "link", Old: source, New: base, Err: err}
	}
	return nil
}

// cannotLink tells the failures that another way of placing the file may not share.
func cannotLink(err error) bool {
	return errors.Is(err, unix.EXDEV) || // another filesystem, or another mount or project quota of the same
		errors.Is(err, unix.EMLINK) || // ext4 ends at 65,000 links
		errors.Is(err, unix.EPERM) || errors.Is(err, unix.EOPNOTSUPP) // no hard links here
}

// duplicate makes a file of its own that shares the blob's extents, or holds a copy of them.
func duplicate(source string, dir *os.File, base string, f model.File) (err error) {
	in, err := os.OpenFile(source, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	fd, err := unix.Openat(int(dir.Fd()), base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "create", Path: f.Path, Err: err}
	}
	out := os.NewFile(uintptr(fd), f.Path)
	defer func() { err = errors.Join(err, out.Close()) }()
	if clone(fd, int(in.Fd())) != nil {
		// One byte more than there should be is enough to notice a blob that grew. Copying takes copy_file_range
		// where the kernel has it.
		if _, err := io.CopyN(out, in, f.Blob.Size+1); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	if err := out.Chmod(f.Mode.Perm()); err != nil {
		return err
	}
	return out.Sync()
}

// classify gives the errors of a full disk their kind.
func classify(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w (%w)", err, model.ErrNoSpace)
	}
	return err
}
