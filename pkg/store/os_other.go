//go:build !linux

package store

import (
	"fmt"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// See os_linux.go for what each of these is for.

func openPastCache(string) *os.File { return nil }

func openPastCacheForReading(path string) (*os.File, error) {
	return openFile(path, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
}

// throughCache has nothing to change.
func throughCache(*os.File) bool { return false }

func preallocate(*os.File, int64) error { return nil }

func startWriteback(*os.File, int64, int64) {}

func datasync(f *os.File) error { return f.Sync() }

func renameNoReplace(string, string) error { return unix.ENOSYS }

func cloneFile(_, _ *os.File) error { return unix.ENOTSUP }

func measured(do func()) time.Duration {
	do()
	return 0
}

func withIdlePriority(do func() error) error { return do() }

func spaceOf(path string) (free, total Room, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return free, total, fmt.Errorf("filesystem of %s: %w", path, err)
	}
	block := int64(st.Bsize)
	free = Room{Bytes: int64(st.Bavail) * block, Inodes: int64(st.Ffree)}
	total = Room{Bytes: int64(st.Blocks) * block, Inodes: int64(st.Files)}
	if st.Files == 0 {
		free.Inodes, total.Inodes = math.MaxInt64/2, math.MaxInt64/2
	}
	return free, total, nil
}

func processorTicks() (all, idle int64) { return 0, 0 }
