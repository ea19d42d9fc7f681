package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/internal/atomicfile"
	"github.com/model-csi/model-csi/pkg/model"
)

// executableSuffix marks the twin of a blob that models show with execute permission. Permission bits belong to the
// inode, so one inode cannot serve both.
const executableSuffix = ".x"

const (
	blobMode       = 0o444
	executableMode = 0o555
)

func isTemporary(name string) bool {
	ok, _ := filepath.Match(atomicfile.TempPattern, name)
	return ok
}

func (s *Store) blobPath(d digest.Digest) string {
	return s.path("blobs", d.Algorithm().String(), d.Encoded())
}

// Has reports whether the blob is there with the size it should have. Pin it first, or eviction may take it.
func (s *Store) Has(b model.Blob) bool {
	if _, err := model.ParseDigest(b.Digest.String()); err != nil {
		return false
	}
	info, err := os.Lstat(s.blobPath(b.Digest))
	return err == nil && info.Mode().IsRegular() && info.Size() == b.Size
}

// OpenBlob opens a blob for reading. The caller closes it. It fails with model.ErrNotFound when the blob is not there.
func (s *Store) OpenBlob(d digest.Digest) (*os.File, error) {
	if _, err := model.ParseDigest(d.String()); err != nil {
		return nil, err
	}
	f, err := os.Open(s.blobPath(d))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", d, model.ErrNotFound)
	}
	return f, err
}

// maxTwin is the size in bytes up to which an executable file gets an inode of its own.
const maxTwin = 16 << 20

// BlobPath returns the file that a view links to for f, with the execute bit that f asks for. The executable twin of a
// blob is made when it is first wanted, sharing extents with the blob where the filesystem can. A large blob is not
// copied for the sake of a bit: it becomes executable for all who show it, on mounts that are noexec unless the pod asked
// for the contrary.
func (s *Store) BlobPath(f model.File) (string, error) {
	if _, err := model.ParseDigest(f.Blob.Digest.String()); err != nil {
		return "", err
	}
	path := s.blobPath(f.Blob.Digest)
	if !f.Executable() {
		return path, nil
	}
	if f.Blob.Size > maxTwin {
		return path, os.Chmod(path, executableMode)
	}
	twin := path + executableSuffix
	if info, err := os.Lstat(twin); err == nil && info.Size() == f.Blob.Size {
		return twin, nil
	}
	if err := s.makeTwin(path, twin); err != nil {
		return "", fmt.Errorf("executable copy of blob %s: %w", f.Blob.Digest, spaceError(err))
	}
	return twin, nil
}

func (s *Store) makeTwin(path, twin string) (err error) {
	src, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := os.CreateTemp(s.path("ingest"), atomicfile.TempPattern)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(dst.Name()))
		}
	}()
	if err := cloneFile(dst, src); err != nil {
		if _, err := io.Copy(dst, src); err != nil {
			return errors.Join(err, dst.Close())
		}
	}
	if err := errors.Join(dst.Chmod(executableMode), dst.Sync(), dst.Close()); err != nil {
		return err
	}
	if err := os.Rename(dst.Name(), twin); err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(twin))
}

// Pin protects blobs and views (by tree digest) from eviction until the returned function is called. It does not say
// that they exist: pin, then look.
func (s *Store) Pin(digests ...digest.Digest) (unpin func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range digests {
		s.pins[d]++
	}
	done := false
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if done {
			return
		}
		done = true
		for _, d := range digests {
			if s.pins[d]--; s.pins[d] == 0 {
				delete(s.pins, d)
			}
		}
	}
}

// spaceError gives a full filesystem its kind.
func spaceError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fmt.Errorf("%w (%w)", model.ErrNoSpace, err)
	}
	return err
}

// digestOfFile turns a name below blobs/ALG back into a digest.
func digestOfFile(algorithm, name string) (digest.Digest, bool) {
	d, err := model.ParseDigest(algorithm + ":" + strings.TrimSuffix(name, executableSuffix))
	return d, err == nil
}
