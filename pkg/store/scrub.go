package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/internal/atomicfile"
	"github.com/model-csi/model-csi/pkg/model"
)

// BlobInfo describes a blob of the store.
type BlobInfo struct {
	model.Blob
	// Allocated is what the blob takes on disk, in bytes, its executable twin included.
	Allocated int64 `json:"allocatedBytes"`
	// Views counts the files of views that show the blob.
	Views int `json:"views"`
	// Used is when the blob last became a part of a view or ceased to be one.
	Used time.Time `json:"used"`
}

// Blobs lists the blobs that are there, in no order.
func (s *Store) Blobs() ([]BlobInfo, error) {
	inv, err := s.scan()
	if err != nil {
		return nil, err
	}
	at := make(map[digest.Digest]int, len(inv.blobs))
	var out []BlobInfo
	for _, b := range inv.blobs {
		i, ok := at[b.digest]
		if !ok {
			i = len(out)
			at[b.digest] = i
			out = append(out, BlobInfo{Blob: model.Blob{Digest: b.digest, Size: b.size}})
		}
		out[i].Allocated += b.bytes
		out[i].Views += int(b.links) - 1
		if b.used.After(out[i].Used) {
			out[i].Used = b.used
		}
	}
	return out, nil
}

// VerifyOptions of Verify. The zero value reads as fast as the disk lets it.
type VerifyOptions struct {
	// Rate in bytes a second is not exceeded; 0 sets no limit.
	Rate int64
	// Progress is told the bytes that were read; nil tells nobody.
	Progress func(n int)
}

// Verify reads a blob from disk, its executable twin too, and compares it with its digest. It reads past the page cache
// and behind everybody else's reads, where the system can, so that running pods notice little. Errors: model.ErrCorrupt
// when the bytes are others or cannot be read, model.ErrNotFound when the blob is not there, the context's.
// Nothing is done about a damaged blob; see Quarantine.
func (s *Store) Verify(ctx context.Context, d digest.Digest, o VerifyOptions) error {
	if _, err := model.ParseDigest(d.String()); err != nil {
		return err
	}
	defer s.Pin(d)() // eviction may go on with others
	path := s.blobPath(d)
	err := s.verifyFile(ctx, path, d, o)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("blob %s: %w", d, model.ErrNotFound)
	}
	if err != nil {
		return err
	}
	if err := s.verifyFile(ctx, path+executableSuffix, d, o); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// scrubBlock is how much is read at once.
const scrubBlock = 1 << 20

func (s *Store) verifyFile(ctx context.Context, path string, d digest.Digest, o VerifyOptions) error {
	f, err := openPastCacheForReading(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	h := d.Algorithm().Hash()
	err = withIdlePriority(func() error {
		block, began, done := alignedBlock(scrubBlock), time.Now(), int64(0)
		for {
			n, err := f.Read(block)
			_, _ = h.Write(block[:n])
			done += int64(n)
			if o.Progress != nil {
				o.Progress(n)
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if errors.Is(err, unix.EINVAL) && throughCache(f) {
				continue // not all filesystems read the end of a file past the cache; that is no damage
			}
			if err != nil {
				return fmt.Errorf("blob %s cannot be read after %d bytes: %w (%w)", d, done, model.ErrCorrupt, err)
			}
			if err := pace(ctx, began, done, o.Rate); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return err
	}
	if got := digest.NewDigest(d.Algorithm(), h); got != d {
		return fmt.Errorf("blob %s: the bytes on disk have the digest %s: %w", d, got, model.ErrCorrupt)
	}
	return nil
}

// pace waits until so many bytes may have been read.
func pace(ctx context.Context, began time.Time, done, rate int64) error {
	if rate <= 0 {
		return ctx.Err()
	}
	early := time.Duration(float64(done)/float64(rate)*float64(time.Second)) - time.Since(began)
	if early <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(early)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// alignedBlock returns memory that reads past the page cache accept.
func alignedBlock(size int) []byte {
	b := make([]byte, size+directAlignment)
	skip := 0
	if over := int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) % directAlignment); over != 0 { //nolint:gosec // looks at the address only
		skip = directAlignment - over
	}
	return b[skip : skip+size]
}

// quarantineDir holds a directory for each time that a blob was taken out: quarantine/NAME/views/HEX. The mount table
// shows the new path, and whoever looks for views by the end of a path still recognises them.
const quarantineDir = "quarantine"

// Quarantine takes a blob whose bytes are wrong out of the store: it counts as missing from now on, and whoever pulls a
// model with it fetches it again. Views that show it are taken away with it, so that no new mount gets it. Mounts that
// exist keep what they have, until the last of them is gone.
func (s *Store) Quarantine(d digest.Digest) error {
	if _, err := model.ParseDigest(d.String()); err != nil {
		return err
	}
	path := s.blobPath(d)
	inodes := make(map[uint64]bool)
	for _, p := range []string{path, path + executableSuffix} {
		var st unix.Stat_t
		if unix.Lstat(p, &st) == nil {
			inodes[st.Ino] = true
		}
	}
	s.viewing.Lock() // a view that is being built is found once it is there
	defer s.viewing.Unlock()
	s.mu.Lock()
	err := s.quarantine(path, inodes)
	s.mu.Unlock()
	return errors.Join(err, s.emptyQuarantine())
}

// quarantine does the work of Quarantine. The caller holds mu.
func (s *Store) quarantine(path string, inodes map[uint64]bool) error {
	// The blob first: from then on nobody links to it.
	for _, p := range []string{path, path + executableSuffix} {
		if err := atomicfile.Remove(p); err != nil {
			return err
		}
	}
	views, err := s.listViews()
	if err != nil {
		return err
	}
	for _, v := range views {
		shows, err := viewShows(v.path, inodes)
		if err != nil {
			return err
		}
		if !shows {
			continue
		}
		aside, err := os.MkdirTemp(s.path(quarantineDir), atomicfile.TempPattern)
		if err != nil {
			return err
		}
		s.quarantined = true
		to := filepath.Join(aside, ViewsDir)
		if err := os.Mkdir(to, 0o700); err != nil {
			return err
		}
		if err := os.Rename(v.path, filepath.Join(to, filepath.Base(v.path))); err != nil {
			return err
		}
	}
	return atomicfile.SyncDir(s.path(ViewsDir))
}

// loadQuarantine looks whether a process before left something in quarantine.
func (s *Store) loadQuarantine() error {
	entries, err := os.ReadDir(s.path(quarantineDir))
	s.quarantined = len(entries) > 0
	return err
}

// emptyQuarantine removes the views that nobody has mounted any more. A lease of a tree keeps it, although it may be for
// a sound view that was made since: that only costs space for a while.
func (s *Store) emptyQuarantine() error {
	s.mu.Lock()
	some := s.quarantined
	used := make(map[digest.Digest]bool)
	for _, l := range s.leases {
		used[l.View] = true
	}
	s.mu.Unlock()
	if !some {
		return nil
	}
	mounted, err := s.mounted()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(s.path(quarantineDir))
	if err != nil {
		return err
	}
	left := false
	for _, e := range entries {
		dir := s.path(quarantineDir, e.Name())
		views, readErr := os.ReadDir(filepath.Join(dir, ViewsDir))
		if readErr != nil && !errors.Is(readErr, os.ErrNotExist) {
			err = errors.Join(err, readErr)
		}
		busy := false
		for _, v := range views {
			tree := digest.NewDigestFromEncoded(digest.SHA256, v.Name())
			busy = busy || used[tree] || mounted[tree]
		}
		if busy {
			left = true
			continue
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}
	s.mu.Lock()
	s.quarantined = left || err != nil
	s.mu.Unlock()
	return err
}
