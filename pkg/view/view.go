// Package view turns a tree into a directory.
//
// A view shows blobs of the store under the names that a model gives them. Each file is a hard link to its blob, so a
// view takes no space and two views of one blob share its pages in memory. Where a hard link cannot serve (another
// filesystem, too many links to one blob, a filesystem without links) the file is a reflink, and where that cannot
// serve either, a copy.
package view

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/model"
)

const (
	// dirMode lets everybody read a model, whoever the pod runs as, and nobody add to it.
	dirMode = 0o555
	// buildMode is the mode of a directory that is still being filled.
	buildMode = 0o700
)

// Build fills dir, which exists and is empty, with the tree. blob names the file in the store that holds the content of
// a regular file, with the permissions that the file is to have; hard links share them.
//
// When Build returns nil, every file and directory has reached the disk, dir itself included; its entry in the
// directory above has not. When it fails, dir holds anything, and the caller removes it. Errors wrap model.ErrInvalid
// for a tree that model.NewTree would refuse, model.ErrCorrupt for a blob that is not a regular file of the right size,
// model.ErrNoSpace when the disk is full, and whatever blob returns.
func Build(dir string, t model.Tree, blob func(model.File) (string, error)) error {
	// A tree may come from a file on disk; nothing below relies on who made it.
	t, err := model.NewTree(t)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	byDir := group(t)
	inRoot := byDir["."]
	delete(byDir, ".")                      // names can sort before it
	dirs := slices.Sorted(maps.Keys(byDir)) // a directory sorts before what is in it
	for _, d := range dirs {
		if err := root.Mkdir(d, buildMode); err != nil {
			return classify(err)
		}
	}
	// The deepest first: a directory is complete, and read-only, before the one that holds it is synced.
	for _, d := range slices.Backward(dirs) {
		if err := fill(root, d, byDir[d], blob); err != nil {
			return classify(err)
		}
	}
	return classify(fill(root, ".", inRoot, blob))
}

// group lists the files and links of each directory, with directories that are only implied, and "." for the root.
func group(t model.Tree) map[string][]model.File {
	byDir := map[string][]model.File{".": nil}
	for _, f := range t {
		parent := path.Dir(f.Path)
		if f.Mode.IsDir() {
			parent = f.Path
		} else {
			byDir[parent] = append(byDir[parent], f)
		}
		for d := parent; d != "."; d = path.Dir(d) {
			if _, known := byDir[d]; !known {
				byDir[d] = nil
			}
		}
	}
	return byDir
}

func fill(root *os.Root, name string, files []model.File, blob func(model.File) (string, error)) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, f := range files {
		base := path.Base(f.Path)
		if f.Mode&fs.ModeSymlink != 0 {
			if err := unix.Symlinkat(f.Link, int(dir.Fd()), base); err != nil {
				return &os.LinkError{Op: "symlink", Old: f.Link, New: f.Path, Err: err}
			}
			continue
		}
		source, err := blob(f)
		if err != nil {
			return err
		}
		if err := place(source, dir, base, f); err != nil {
			return fmt.Errorf("file %s: %w", strings.ToValidUTF8(f.Path, "?"), err)
		}
	}
	if err := dir.Chmod(dirMode); err != nil {
		return err
	}
	return dir.Sync()
}
