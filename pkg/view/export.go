package view

import (
	"io/fs"
	"os"
	"path"

	"github.com/model-csi/model-csi/pkg/model"
)

// Modes of what belongs to a person: writable by its owner, for others what the umask of the process leaves.
const (
	ownedDir  = 0o755
	ownedFile = 0o644
	ownedExec = 0o755
)

// Export puts the files of a tree into an existing directory for a person to own and change. Each is an inode of its own:
// the blob's where it is the first file that has it, so that nothing is copied, and a copy otherwise. The blobs are
// therefore no longer immutable, and their store is of no further use. A file that is there already is an error.
func Export(dir string, t model.Tree, blob func(model.File) (string, error)) error {
	t, err := model.NewTree(t)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	taken := map[string]bool{}
	for _, f := range t {
		if err := export(root, f, blob, taken); err != nil {
			return classify(err)
		}
	}
	return nil
}

func export(root *os.Root, f model.File, blob func(model.File) (string, error), taken map[string]bool) error {
	parent := path.Dir(f.Path)
	if f.Mode.IsDir() {
		parent = f.Path
	}
	if err := root.MkdirAll(parent, ownedDir); err != nil || f.Mode.IsDir() {
		return err
	}
	if f.Mode&fs.ModeSymlink != 0 {
		return root.Symlink(f.Link, f.Path)
	}
	source, err := blob(f)
	if err != nil {
		return err
	}
	into, err := root.Open(parent)
	if err != nil {
		return err
	}
	defer func() { _ = into.Close() }()
	if taken[source] {
		err = duplicate(source, into, path.Base(f.Path), f)
	} else {
		taken[source] = true
		err = place(source, into, path.Base(f.Path), f)
	}
	if err != nil {
		return err // what is there may be somebody else's, so its mode stays
	}
	mode := fs.FileMode(ownedFile)
	if f.Executable() {
		mode = ownedExec
	}
	return root.Chmod(f.Path, mode)
}
