package store

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// What only Linux has is in this file; os_other.go has what serves elsewhere, where the store is a cache of a
// developer's machine and not of a node.

// openPastCache opens a file for writes that bypass the page cache; nil where the filesystem refuses.
func openPastCache(path string) *os.File {
	f, err := openFile(path, unix.O_WRONLY|unix.O_DIRECT|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil
	}
	return f
}

// openPastCacheForReading is openPastCache for reads: they see the disk, and leave what others have cached as it is.
func openPastCacheForReading(path string) (*os.File, error) {
	f, err := openFile(path, unix.O_RDONLY|unix.O_DIRECT|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.EINVAL) {
		return openFile(path, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	}
	return f, err
}

// throughCache lets further reads of the file take the page cache; false where they do already.
func throughCache(f *os.File) bool {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_DIRECT == 0 {
		return false
	}
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETFL, flags&^unix.O_DIRECT)
	return err == nil
}

// preallocate takes the space of size bytes from the filesystem now, where it can, and makes the file as long.
func preallocate(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

// startWriteback lets the disk begin with bytes that are in the page cache; length 0 means up to the end. It is a hint:
// a sync is what counts.
func startWriteback(f *os.File, off, length int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, length, unix.SYNC_FILE_RANGE_WRITE)
}

// datasync makes the bytes of a file durable.
func datasync(f *os.File) error { return unix.Fdatasync(int(f.Fd())) }

// renameNoReplace fails with EEXIST where there is something, and with EINVAL or ENOSYS where the filesystem cannot.
func renameNoReplace(from, to string) error {
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
}

// cloneFile makes dst share the extents of src, where the filesystem can.
func cloneFile(dst, src *os.File) error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) }

// measured runs do and returns the processor time that it took.
func measured(do func()) time.Duration {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	began := threadTime()
	do()
	return threadTime() - began
}

func threadTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t)
	return time.Duration(t.Nano())
}

// The I/O priority of a thread, from linux/ioprio.h: only when nobody else wants the disk.
const (
	ioprioWhoProcess = 1
	ioprioIdle       = 3 << 13
	ioprioNone       = 0
)

// withIdlePriority runs do on a thread whose reads wait for everybody else's, where the disk's scheduler knows
// priorities.
func withIdlePriority(do func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioIdle)
	defer func() { _, _, _ = unix.Syscall(unix.SYS_IOPRIO_SET, ioprioWhoProcess, 0, ioprioNone) }()
	return do()
}

// spaceOf asks the filesystem that holds path. One that does not count inodes has as many as anybody wants.
func spaceOf(path string) (free, total Room, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return free, total, fmt.Errorf("filesystem of %s: %w", path, err)
	}
	free = Room{Bytes: int64(st.Bavail) * st.Bsize, Inodes: int64(st.Ffree)}
	total = Room{Bytes: int64(st.Blocks) * st.Bsize, Inodes: int64(st.Files)}
	if st.Files == 0 {
		free.Inodes, total.Inodes = math.MaxInt64/2, math.MaxInt64/2
	}
	return free, total, nil
}

// processorTicks reads the first line of proc_stat(5). Waiting for a disk is nothing to do.
func processorTicks() (all, idle int64) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(data), "\n")
	for i, field := range strings.Fields(line) {
		n, _ := strconv.ParseInt(field, 10, 64) // the first one is the word cpu
		if i > 8 {
			break // what guests did is in the others already
		}
		all += n
		if i == 4 || i == 5 {
			idle += n
		}
	}
	return all, idle
}
