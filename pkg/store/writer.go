package store

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/internal/atomicfile"
	"github.com/model-csi/model-csi/pkg/model"
)

const (
	partSuffix       = ".part"
	checkpointSuffix = ".json"
	// statBlock is the unit of st_blocks, whatever the filesystem's block size is.
	statBlock = 512
)

// checkpoint says what of an unfinished blob is durable: its first Offset bytes, whose hash state is State.
type checkpoint struct {
	Blob   model.Blob `json:"blob"`
	Offset int64      `json:"offset"`
	State  []byte     `json:"state"`
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

// WriterOptions of NewWriter and NewScratch. The zero value writes through the page cache.
type WriterOptions struct {
	// Origin says where the bytes come from. Writers of different origins never share an unfinished blob: until its
	// digest is verified it is only as good as its source.
	Origin string
	// Cache says what stays in the page cache.
	Cache CachePolicy
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
	// The root belongs to this process, so what is in memory is all that there is.
	found := w.store.checkpointed(w.path)
	flags := unix.O_RDWR | unix.O_CREAT | unix.O_NOFOLLOW
	if found {
		w.from = readCheckpoint(w.path)
		w.saved.Store(true)
	} else {
		flags |= unix.O_TRUNC
	}
	if w.from.Blob != w.blob || w.from.Offset < 0 || w.from.Offset > w.blob.Size {
		w.from = checkpoint{}
	}
	// A checkpoint that is not accepted must be gone before the first byte is written over what it describes.
	defer func() {
		if err == nil && found && w.from.Offset == 0 {
			err = w.dropCheckpoint()
		}
	}()
	if w.file, err = openFile(w.path, flags, 0o600); err != nil {
		return err
	}
	if found {
		var st unix.Stat_t
		if err := unix.Fstat(int(w.file.Fd()), &st); err != nil {
			return err
		}
		if st.Size < w.from.Offset {
			w.from = checkpoint{}
		}
		defer func() { w.length = max(w.length, st.Size) }()
	}
	if err := w.allocate(w.blob.Size); err != nil {
		return err
	}
	if w.blob.Size >= directAlignment {
		w.bypass(w.store, w.path, o.Cache)
	}
	return nil
}

// Resume returns how many bytes from the start are durable, and the hash state after them; 0 and nil for a new blob.
func (w *Writer) Resume() (offset int64, state []byte) { return w.from.Offset, w.from.State }

// Checkpoint makes the first offset bytes durable and remembers the hash state after them. The caller has written all
// of them. It may run while WriteAt writes bytes behind offset.
func (w *Writer) Checkpoint(offset int64, state []byte) error {
	if err := datasync(w.file); err != nil {
		return fmt.Errorf("checkpoint of blob %s: %w", w.blob.Digest, spaceError(err))
	}
	data, err := json.Marshal(checkpoint{Blob: w.blob, Offset: offset, State: state})
	if err != nil {
		return err
	}
	w.saved.Store(true)
	w.store.noteCheckpoint(w.path, true)
	return spaceError(atomicfile.Write(w.path+checkpointSuffix, data))
}

func (w *Writer) dropCheckpoint() error {
	if !w.saved.Load() {
		return nil
	}
	if err := atomicfile.Remove(w.path + checkpointSuffix); err != nil {
		return err
	}
	w.saved.Store(false)
	w.store.noteCheckpoint(w.path, false)
	return nil
}

// checkpointed reports whether an unfinished blob may have a checkpoint.
func (s *Store) checkpointed(part string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.checkpoints[part]
}

func (s *Store) noteCheckpoint(part string, there bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if there {
		s.checkpoints[part] = true
	} else {
		delete(s.checkpoints, part)
	}
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
	path := s.partPath(b, origin)
	var st unix.Stat_t
	if !s.checkpointed(path) || unix.Lstat(path, &st) != nil {
		return 0 // what has no checkpoint is begun anew
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
	name := s.path("ingest", strings.Replace(atomicfile.TempPattern, "*", strconv.FormatUint(s.scratches.Add(1), 10), 1))
	f, err := openFile(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, spaceError(err)
	}
	sc := &Scratch{output: output{file: f}, store: s}
	if err := sc.allocate(size); err != nil {
		return nil, errors.Join(spaceError(err), sc.Close())
	}
	sc.bypass(s, name, o.Cache)
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

// readCheckpoint returns the checkpoint of an unfinished blob, the zero one if it cannot be used.
func readCheckpoint(part string) (c checkpoint) {
	data, err := os.ReadFile(part + checkpointSuffix)
	if err != nil || json.Unmarshal(data, &c) != nil {
		return checkpoint{}
	}
	return c
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
			s.checkpoints[s.path("ingest", name)] = true
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
