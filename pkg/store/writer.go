package store

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/internal/atomicfile"
	"github.com/model-csi/model-csi/pkg/model"
)

const (
	partSuffix       = ".part"
	checkpointSuffix = ".json"
	// directAlignment of offset, length and memory suits every block device in use; O_DIRECT refuses less.
	directAlignment = 4096
	// allocateFrom is the size in bytes from which on space is taken in advance. Below, a full disk is found out soon
	// enough, and what was allocated in advance takes a second journal write when it is synced.
	allocateFrom = 1 << 20
	// statBlock is the unit of st_blocks, whatever the filesystem's block size is.
	statBlock = 512
)

// checkpoint says what of an unfinished blob is durable: its first Offset bytes, whose hash state is State.
type checkpoint struct {
	Blob   model.Blob `json:"blob"`
	Offset int64      `json:"offset"`
	State  []byte     `json:"state"`
}

// output is a file that large aligned writes reach past the page cache, where that is wanted and the filesystem can.
type output struct {
	file   *os.File
	direct *os.File // the same file opened with O_DIRECT; nil where that is not wanted or refused
}

func (o *output) openDirect(path string) {
	// A filesystem that refuses is no failure: the page cache serves as well, only slower.
	o.direct, _ = os.OpenFile(path, os.O_WRONLY|unix.O_DIRECT|unix.O_NOFOLLOW, 0)
}

// WriteAt implements io.WriterAt. Aligned memory, offsets and lengths bypass the page cache where that is wanted.
func (o *output) WriteAt(p []byte, off int64) (int, error) {
	n := 0
	if o.direct != nil && off%directAlignment == 0 && len(p) >= directAlignment && aligned(p) {
		whole := len(p) &^ (directAlignment - 1)
		done, err := o.direct.WriteAt(p[:whole], off)
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
	err := unix.Fallocate(int(o.file.Fd()), 0, 0, size)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(o.file.Fd()), 0, 0, size)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

// finish gives the file its final size and mode.
func (o *output) finish(size int64) error {
	return errors.Join(o.file.Truncate(size), o.file.Chmod(blobMode))
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

// Writer collects the bytes of one blob. WriteAt may be called concurrently for disjoint ranges, the other methods may
// not. Either Commit or Close ends it; Close after Commit does nothing.
type Writer struct {
	output
	store     *Store
	blob      model.Blob
	path      string
	from      checkpoint
	published bool
	saved     atomic.Bool // a checkpoint may be on disk
	done      bool
}

// WriterOptions of NewWriter. The zero value writes through the page cache.
type WriterOptions struct {
	// Origin says where the bytes come from. Writers of different origins never share an unfinished blob: until its
	// digest is verified it is only as good as its source.
	Origin string
	// Direct bypasses the page cache for aligned writes where the filesystem can.
	Direct bool
}

// NewWriter opens the unfinished blob, or begins it, and allocates its space, so that a full disk is found out before
// the first byte: model.ErrNoSpace. Only one writer of a blob from one origin is open at a time: model.ErrConflict.
func (s *Store) NewWriter(b model.Blob, o WriterOptions) (*Writer, error) {
	if _, err := model.ParseDigest(b.Digest.String()); err != nil {
		return nil, err
	}
	w := &Writer{store: s, blob: b, path: s.partPath(b, o.Origin)}
	s.mu.Lock()
	if s.writers[w.path] {
		s.mu.Unlock()
		return nil, fmt.Errorf("blob %s is being written: %w", b.Digest, model.ErrConflict)
	}
	s.writers[w.path] = true
	s.mu.Unlock()
	if err := w.open(o); err != nil {
		return nil, errors.Join(fmt.Errorf("blob %s: %w", b.Digest, spaceError(err)), w.Close())
	}
	return w, nil
}

func (w *Writer) open(o WriterOptions) (err error) {
	var found bool
	w.from, found = readCheckpoint(w.path)
	w.saved.Store(found)
	if w.from.Blob != w.blob || w.from.Offset > w.blob.Size {
		w.from = checkpoint{}
	}
	// A checkpoint that is not accepted must be gone before the first byte is written over what it describes.
	defer func() {
		if err == nil && found && w.from.Offset == 0 {
			err = w.dropCheckpoint()
		}
	}()
	if w.file, err = os.OpenFile(w.path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(w.file.Fd()), &st); err != nil {
		return err
	}
	if st.Size < w.from.Offset {
		w.from = checkpoint{}
	}
	if err := w.allocate(w.blob.Size); err != nil {
		return err
	}
	if o.Direct && w.blob.Size >= directAlignment {
		w.openDirect(w.path)
	}
	return nil
}

// Resume returns how many bytes from the start are durable, and the hash state after them; 0 and nil for a new blob.
func (w *Writer) Resume() (offset int64, state []byte) { return w.from.Offset, w.from.State }

// Checkpoint makes the first offset bytes durable and remembers the hash state after them. The caller has written all
// of them. It may run while WriteAt writes bytes behind offset.
func (w *Writer) Checkpoint(offset int64, state []byte) error {
	if err := fdatasync(w.file); err != nil {
		return fmt.Errorf("checkpoint of blob %s: %w", w.blob.Digest, spaceError(err))
	}
	data, err := json.Marshal(checkpoint{Blob: w.blob, Offset: offset, State: state})
	if err != nil {
		return err
	}
	w.saved.Store(true)
	return spaceError(atomicfile.Write(w.path+checkpointSuffix, data))
}

func (w *Writer) dropCheckpoint() error {
	if !w.saved.Swap(false) {
		return nil
	}
	return atomicfile.Remove(w.path + checkpointSuffix)
}

// Discard forgets every byte: they turned out to be wrong.
func (w *Writer) Discard() error {
	w.from = checkpoint{}
	return errors.Join(w.dropCheckpoint(), w.Close())
}

// Commit publishes the blob. The caller has written every byte and found the digest right. After Commit the blob is
// durable; before, nobody sees it.
func (w *Writer) Commit() error {
	err := w.finish(w.blob.Size)
	if err == nil {
		err = w.store.commits.publish(w.file, w.path, w.store.blobPath(w.blob.Digest))
	}
	if err != nil {
		return fmt.Errorf("commit blob %s: %w", w.blob.Digest, spaceError(err))
	}
	w.published = true
	return errors.Join(w.dropCheckpoint(), w.Close())
}

// Close ends the writer and keeps what a checkpoint covers for the next one. A file without a checkpoint is removed.
func (w *Writer) Close() error {
	if w.done {
		return nil
	}
	w.done = true
	err := w.close()
	if !w.published && !w.saved.Load() {
		if removeErr := os.Remove(w.path); !errors.Is(removeErr, os.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
	}
	w.store.mu.Lock()
	delete(w.store.writers, w.path)
	w.store.mu.Unlock()
	return err
}

// Unfinished returns the bytes that an unfinished blob has allocated on disk already.
func (s *Store) Unfinished(b model.Blob, origin string) int64 {
	var st unix.Stat_t
	if unix.Lstat(s.partPath(b, origin), &st) != nil {
		return 0
	}
	return st.Blocks * statBlock
}

// partPath names the unfinished blob. Its size and origin are part of the name, because the digest alone is only a
// claim so far: two manifests that disagree about the size, or two registries, must not write one file.
func (s *Store) partPath(b model.Blob, origin string) string {
	sum := sha256.Sum256([]byte(origin))
	return s.path("ingest", fmt.Sprintf("%s-%s-%d-%x%s", b.Digest.Algorithm(), b.Digest.Encoded(), b.Size, sum[:8], partSuffix))
}

// Scratch collects a file whose digest is known at its end. Either Commit or Close ends it.
type Scratch struct {
	output
	store *Store
	done  bool
}

// NewScratch begins a file and allocates space for the size that is expected in bytes; 0 allocates nothing.
func (s *Store) NewScratch(size int64, o WriterOptions) (*Scratch, error) {
	f, err := os.CreateTemp(s.path("ingest"), atomicfile.TempPattern)
	if err != nil {
		return nil, spaceError(err)
	}
	sc := &Scratch{output: output{file: f}, store: s}
	if err := sc.allocate(size); err != nil {
		return nil, errors.Join(spaceError(err), sc.Close())
	}
	if o.Direct {
		sc.openDirect(f.Name())
	}
	return sc, nil
}

// Commit publishes the file as the blob that the caller computed. A blob that is already there stays as it is.
func (sc *Scratch) Commit(b model.Blob) error {
	if sc.store.Has(b) {
		return sc.Close()
	}
	err := sc.finish(b.Size)
	if err == nil {
		err = sc.store.commits.publish(sc.file, sc.file.Name(), sc.store.blobPath(b.Digest))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("commit blob %s: %w", b.Digest, spaceError(err)), sc.Close())
	}
	sc.done = true
	return sc.close()
}

// Close drops the file unless Commit has published it.
func (sc *Scratch) Close() error {
	if sc.done {
		return nil
	}
	sc.done = true
	return errors.Join(sc.close(), os.Remove(sc.file.Name()))
}

// readCheckpoint returns the checkpoint of an unfinished blob, the zero one if it cannot be used, and whether there is
// one at all.
func readCheckpoint(part string) (c checkpoint, found bool) {
	data, err := os.ReadFile(part + checkpointSuffix)
	if err != nil {
		return checkpoint{}, !errors.Is(err, os.ErrNotExist)
	}
	if json.Unmarshal(data, &c) != nil {
		return checkpoint{}, true
	}
	return c, true
}

// recoverIngest removes what cannot be resumed.
func (s *Store) recoverIngest() error {
	entries, err := os.ReadDir(s.path("ingest"))
	if err != nil {
		return err
	}
	present := make(map[string]bool, len(entries))
	for _, e := range entries {
		present[e.Name()] = true
	}
	for name := range present {
		switch {
		case strings.HasSuffix(name, partSuffix) && present[name+checkpointSuffix]:
			continue
		case strings.HasSuffix(name, partSuffix+checkpointSuffix) && present[strings.TrimSuffix(name, checkpointSuffix)]:
			continue
		}
		if err := os.Remove(s.path("ingest", name)); err != nil {
			return err
		}
	}
	return nil
}

func fdatasync(f *os.File) error {
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var syncErr error
	if err := conn.Control(func(fd uintptr) { syncErr = unix.Fdatasync(int(fd)) }); err != nil {
		return err
	}
	return syncErr
}
