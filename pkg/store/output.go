package store

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// directAlignment of offset, length and memory suits every block device in use; O_DIRECT refuses less.
	directAlignment = 4096
	// allocateFrom is the size in bytes from which on space is taken in advance. Below, a full disk is found out soon
	// enough, and what was allocated in advance takes a second journal write when it is synced.
	allocateFrom = 1 << 20
	// writebackFrom is the size in bytes of a write that the disk is told about at once.
	writebackFrom = 1 << 20
)

// output is a file that large aligned writes reach past the page cache, where that is wanted and the filesystem can.
type output struct {
	file   *os.File
	direct *os.File // the same file opened to bypass the page cache; nil where that is not wanted or refused
	// copies decides which writes of a file with direct go through the page cache after all; nil means none.
	copies *copyBudget
	// length is how long the file was made in advance.
	length int64
}

// bypass opens the file for writes past the page cache where the policy wants some. A filesystem that refuses is no
// failure: the page cache serves as well, only slower.
func (o *output) bypass(s *Store, path string, p CachePolicy) {
	if p == CacheAll {
		return
	}
	if o.direct = openPastCache(path); p == CacheCheap {
		o.copies = s.copies
	}
}

// WriteAt implements io.WriterAt. Aligned memory, offsets and lengths bypass the page cache where that is wanted.
func (o *output) WriteAt(p []byte, off int64) (int, error) {
	if len(p) < writebackFrom {
		return o.write(p, off, o.direct)
	}
	if o.direct != nil && o.copies != nil && o.copies.allows() {
		var n int
		var err error
		o.copies.took(measured(func() { n, err = o.write(p, off, nil) }))
		startWriteback(o.file, off, int64(n))
		return n, err
	}
	n, err := o.write(p, off, o.direct)
	if o.direct == nil {
		// The disk begins at once, so that the sync at the end finds little to do.
		startWriteback(o.file, off, int64(n))
	}
	return n, err
}

// write writes what it can to direct, if there is one, and the rest to the file.
func (o *output) write(p []byte, off int64, direct *os.File) (int, error) {
	n := 0
	if direct != nil && off%directAlignment == 0 && len(p) >= directAlignment && aligned(p) {
		whole := len(p) &^ (directAlignment - 1)
		done, err := direct.WriteAt(p[:whole], off)
		n = done
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return n, fmt.Errorf("write: %w", spaceError(err))
		}
	}
	if n < len(p) {
		done, err := o.file.WriteAt(p[n:], off+int64(n))
		n += done
		if err != nil {
			return n, fmt.Errorf("write: %w", spaceError(err))
		}
	}
	return n, nil
}

func aligned(p []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))%directAlignment == 0 //nolint:gosec // looks at the address only
}

// allocate takes the space of size bytes from the filesystem now, where it can.
func (o *output) allocate(size int64) error {
	if size < allocateFrom {
		return nil
	}
	o.length = size
	return preallocate(o.file, size)
}

// finish gives the file its final size and mode. One that nobody made longer in advance has its size already.
func (o *output) finish(size int64) error {
	if o.length != 0 && o.length != size {
		if err := o.file.Truncate(size); err != nil {
			return err
		}
	}
	return o.file.Chmod(blobMode)
}

func (o *output) close() error {
	var err error
	if o.direct != nil {
		err = o.direct.Close()
	}
	if o.file != nil {
		err = errors.Join(err, o.file.Close())
	}
	return err
}

// openFile is os.OpenFile for regular files, without the five system calls that find out that they cannot be polled.
func openFile(path string, flags int, mode uint32) (*os.File, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}
