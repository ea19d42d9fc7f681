package format

import (
	"fmt"
	"path"

	"github.com/model-csi/model-csi/pkg/model"
)

// Placed is a tree with its place in a larger one.
type Placed struct {
	// Name says what the tree is, for errors.
	Name string
	// Dir is where it belongs, in clean form; empty for the root.
	Dir  string
	Tree model.Tree
}

// Merge puts trees into one. The place of a tree with a Dir must be free in the trees before it. Trees without one may
// have directories in common, and files as far as they are the same. Anything else is model.ErrInvalid, naming both.
func Merge(trees []Placed) (model.Tree, error) {
	m := merger{trees: trees, files: map[string]owned{}, dirs: map[string]int{}}
	for i, p := range trees {
		files := []model.File(p.Tree)
		if p.Dir != "" {
			if by, taken := m.owner(p.Dir); taken {
				return nil, m.clash(by, i, p.Dir, "is there already")
			}
			files = under(p.Dir, p.Tree)
		}
		for _, f := range files {
			if err := m.add(i, f); err != nil {
				return nil, err
			}
		}
	}
	all := make([]model.File, 0, len(m.files))
	for _, o := range m.files {
		all = append(all, o.file)
	}
	return model.NewTree(all)
}

type owned struct {
	file model.File
	by   int // index of the tree
}

type merger struct {
	trees []Placed
	files map[string]owned
	dirs  map[string]int // every directory that a file implies, and the tree that implied it first
}

// owner finds the tree that has something at a path.
func (m merger) owner(p string) (by int, taken bool) {
	if o, ok := m.files[p]; ok {
		return o.by, true
	}
	by, taken = m.dirs[p]
	return by, taken
}

func (m merger) add(i int, f model.File) error {
	if by, taken := m.owner(f.Path); taken {
		old, isEntry := m.files[f.Path]
		switch {
		case isEntry && old.file != f:
			return m.clash(by, i, f.Path, "is not the same in both")
		case isEntry:
			return nil
		case !f.Mode.IsDir():
			return m.clash(by, i, f.Path, "is a directory in one of them only")
		}
	}
	for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
		if over, ok := m.files[dir]; ok && !over.file.Mode.IsDir() {
			return m.clash(over.by, i, dir, "is a directory in one of them only")
		}
		if _, known := m.dirs[dir]; known {
			break
		}
		m.dirs[dir] = i
	}
	m.files[f.Path] = owned{f, i}
	return nil
}

func (m merger) clash(a, b int, p, what string) error {
	return fmt.Errorf("%s and %s cannot be in one volume: %q %s: %w", m.trees[a].Name, m.trees[b].Name, clip(p), what, model.ErrInvalid)
}
