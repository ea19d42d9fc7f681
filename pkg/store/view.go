package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/internal/atomicfile"
	"github.com/model-csi/model-csi/pkg/model"
)

// ViewsDir is the directory of the views below the root; each is named by the hexadecimal digits of its tree's digest.
const ViewsDir = "views"

// ViewPath is where the view of a tree is, or would be.
func (s *Store) ViewPath(tree digest.Digest) string { return s.path(ViewsDir, tree.Encoded()) }

// HasView reports whether the view of a tree is there; it is complete then, blobs included. Pin the tree first, or
// eviction may take it.
func (s *Store) HasView(tree digest.Digest) bool {
	info, err := os.Lstat(s.ViewPath(tree))
	return err == nil && info.IsDir()
}

// EnsureView returns the directory that shows the tree, calling build with an empty directory when it has to be made.
// The view appears whole and durable, or not at all. The caller has pinned the tree's digest and its blobs.
func (s *Store) EnsureView(t model.Tree, build func(dir string) error) (string, error) {
	id := t.Digest()
	path := s.ViewPath(id)
	if s.HasView(id) {
		s.touchView(id)
		return path, nil
	}
	s.viewing.Lock()
	defer s.viewing.Unlock()
	if s.HasView(id) {
		return path, nil
	}
	return path, s.withRoom(func() error { return s.buildView(path, build) })
}

func (s *Store) buildView(path string, build func(dir string) error) error {
	aside, err := os.MkdirTemp(s.path("views"), atomicfile.TempPattern)
	if err != nil {
		return fmt.Errorf("view: %w", spaceError(err))
	}
	err = build(aside)
	if err == nil {
		err = errors.Join(os.Chmod(aside, executableMode), atomicfile.SyncDir(aside))
	}
	if err == nil {
		err = os.Rename(aside, path)
	}
	if err == nil {
		err = atomicfile.SyncDir(s.path("views"))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("view: %w", spaceError(err)), os.RemoveAll(aside))
	}
	return nil
}

// touchView notes that the view was used now. The modification time of its directory is the clock of the eviction.
func (s *Store) touchView(tree digest.Digest) {
	now := s.now()
	if err := os.Chtimes(s.ViewPath(tree), now, now); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("view's time of use not updated", "view", tree, "error", err)
	}
}

type viewInfo struct {
	tree digest.Digest
	path string
	used time.Time
}

func (s *Store) listViews() ([]viewInfo, error) {
	entries, err := os.ReadDir(s.path("views"))
	if err != nil {
		return nil, err
	}
	var out []viewInfo
	for _, e := range entries {
		d, err := model.ParseDigest("sha256:" + e.Name())
		if err != nil {
			continue // being built
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, viewInfo{tree: d, path: s.path("views", e.Name()), used: info.ModTime()})
	}
	return out, nil
}

// trash moves a directory out of sight at once; deleting it may take longer. The caller empties the trash.
func (s *Store) trash(path string) error {
	aside, err := os.MkdirTemp(s.path("trash"), atomicfile.TempPattern)
	if err != nil {
		return err
	}
	return os.Rename(path, filepath.Join(aside, filepath.Base(path)))
}

// viewInodes lists the inodes of the regular files below a view.
func viewInodes(dir string) ([]uint64, error) {
	var out []uint64
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		out = append(out, st.Ino)
		return nil
	})
	return out, err
}

func viewShows(dir string, inodes map[uint64]bool) (bool, error) {
	shown, err := viewInodes(dir)
	for _, ino := range shown {
		if inodes[ino] {
			return true, err
		}
	}
	return false, err
}
