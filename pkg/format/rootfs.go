package format

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	// whiteoutAUFS starts the names of AUFS' own files, which some old layers still have.
	whiteoutAUFS = ".wh..wh."
)

// landmarks are eStargz' own files at the root of a layer.
var landmarks = []string{"stargz.index.json", ".prefetch.landmark", ".no.prefetch.landmark"}

// node is a file or directory of a root file system that is being put together.
type node struct {
	file     model.File // without a path; Link as the layer has it
	children map[string]*node
}

func newDir() *node {
	return &node{file: model.File{Mode: fs.ModeDir}, children: map[string]*node{}}
}

// rootFS applies the layers in order, as the image specification says (layer.md, "Applying Changesets").
func (p Plan) rootFS(members Members) ([]model.File, error) {
	root := rootFS{top: newDir()}
	for _, l := range p.Layers {
		list := members(l.Blob.Digest)
		if len(list) == 1 && list[0].Name == "" {
			return nil, fmt.Errorf("layer %s: it is called %s and is no tar archive: %w", l.Blob.Digest, clip(l.MediaType), model.ErrInvalid)
		}
		if err := root.apply(list); err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.Blob.Digest, err)
		}
	}
	return root.files()
}

// rootFS resolves every name as a process does whose root it is: absolute links start at the top, and ".." ends there.
type rootFS struct{ top *node }

// apply applies one layer. Whiteouts hide what is in lower layers and nothing of their own layer, wherever they stand
// in it, so they go first.
func (r rootFS) apply(list []model.Member) error {
	names := make([]string, len(list))
	for i, m := range list {
		name, err := imageName(m.Name)
		if err != nil {
			return err
		}
		names[i] = name
		if err := r.replaceByDir(name, m); err != nil {
			return err
		}
	}
	for _, name := range names {
		if base := path.Base(name); strings.HasPrefix(base, whiteoutPrefix) {
			if err := r.whiteout(path.Dir(name), base); err != nil {
				return err
			}
		}
	}
	for i, m := range list {
		name := names[i]
		switch base := path.Base(name); {
		case name == "", slices.Contains(landmarks, name):
		case strings.Contains("/"+name, "/"+whiteoutAUFS) && base != whiteoutOpaque:
		case strings.HasPrefix(base, whiteoutPrefix):
			// The marker is in a directory of the layer, with or without an entry of its own.
			if _, err := r.directory(path.Dir(name), true); err != nil {
				return fmt.Errorf("%q: %w", name, err)
			}
		default:
			if err := r.put(name, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// replaceByDir puts a directory in the place of a file or link of a lower layer, so that a whiteout below it does not
// follow that link.
func (r rootFS) replaceByDir(name string, m model.Member) error {
	if !m.Mode.IsDir() || name == "" {
		return nil
	}
	if old, err := r.lookup(name); err != nil || old == nil || old.file.Mode.IsDir() {
		return err
	}
	return r.put(name, m)
}

// imageName cleans a member's name; "" is the root. Layers name files with and without a leading slash.
func imageName(name string) (string, error) {
	if path.Clean("/"+name) == "/" && !strings.Contains(name, "..") {
		return "", nil
	}
	return model.CleanPath(strings.TrimLeft(name, "/"))
}

func (r rootFS) whiteout(dir, base string) error {
	parent, err := r.directory(dir, false)
	if err != nil || parent == nil {
		return err
	}
	if base == whiteoutOpaque {
		clear(parent.children)
		return nil
	}
	if !strings.HasPrefix(base, whiteoutAUFS) {
		delete(parent.children, strings.TrimPrefix(base, whiteoutPrefix))
	}
	return nil
}

// put adds a member. A directory merges with the one that is there; anything else replaces what is there.
func (r rootFS) put(name string, m model.Member) error {
	n := &node{file: model.File{Mode: m.Mode.Type() | m.Mode.Perm(), Blob: m.Blob, Link: m.Link}}
	switch {
	case m.Hard:
		target, err := imageName(m.Link)
		if err != nil {
			return fmt.Errorf("hard link %q: %w", name, err)
		}
		linked, err := r.lookup(target)
		if err != nil {
			return fmt.Errorf("hard link %q: %w", name, err)
		}
		if linked == nil || linked.file.Mode.IsDir() {
			return fmt.Errorf("hard link %q -> %q does not lead to an earlier file: %w", name, clip(m.Link), model.ErrInvalid)
		}
		n = linked
	case n.file.Mode.IsDir():
		n.children = map[string]*node{}
	case n.file.Mode.Type() == fs.ModeSymlink:
		if err := checkLink(name, m.Link); err != nil {
			return err
		}
	case n.file.Mode.IsRegular():
	default:
		return nil // devices and pipes mean nothing on a read-only mount without devices
	}
	parent, err := r.directory(path.Dir(name), true)
	if err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	base := path.Base(name)
	if old := parent.children[base]; old != nil && old.file.Mode.IsDir() && n.file.Mode.IsDir() {
		old.file = n.file
		return nil
	}
	parent.children[base] = n
	return nil
}

// lookup finds a name without following a link at its end; nil when it does not exist.
func (r rootFS) lookup(name string) (*node, error) {
	parent, err := r.directory(path.Dir(name), false)
	if err != nil || parent == nil {
		return nil, err
	}
	return parent.children[path.Base(name)], nil
}

// errAbsent ends a walk to a directory that is not there and shall not be made.
var errAbsent = errors.New("there is no such directory")

// directory finds a directory, following links, and makes what is missing if make is set; otherwise a missing one is
// nil. A file in the way is an error when making, and nothing otherwise.
func (r rootFS) directory(name string, make bool) (*node, error) {
	places, _, err := model.Walk([]*node{r.top}, name, func(at *node, part string) (*node, string, error) {
		next := at.children[part]
		switch {
		case next == nil && make:
			next = newDir()
			at.children[part] = next
		case next == nil:
			return nil, "", errAbsent
		case next.file.Mode.Type() == fs.ModeSymlink:
			return nil, next.target(), nil
		case !next.file.Mode.IsDir() && make:
			return nil, "", fmt.Errorf("%q is a file and not a directory: %w", part, model.ErrInvalid)
		case !next.file.Mode.IsDir():
			return nil, "", errAbsent
		}
		return next, "", nil
	})
	if errors.Is(err, errAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return places[len(places)-1], nil
}

// target of a symbolic link, which leads to its own directory when it is empty.
func (n *node) target() string { return cmp.Or(n.file.Link, ".") }

// files lists everything with its path, links made relative.
func (r rootFS) files() ([]model.File, error) {
	var out []model.File
	var walk func(dir string, n *node) error
	walk = func(dir string, n *node) error {
		for _, name := range slices.Sorted(maps.Keys(n.children)) {
			child := n.children[name]
			f := child.file
			f.Path = path.Join(dir, name)
			if _, err := model.CleanPath(f.Path); err != nil {
				return err // links can make a path deeper than its name was
			}
			if f.Mode.Type() == fs.ModeSymlink {
				link, err := r.rebase(f)
				if err != nil {
					return err
				}
				f.Link = link
			}
			out = append(out, f)
			if err := walk(f.Path, child); err != nil {
				return err
			}
		}
		return nil
	}
	return out, walk("", r.top)
}

// rebase makes a link relative that starts at the root or climbs above it, so that it leads to the same place wherever
// the tree is mounted. It climbs no further than it must: then it also works where only a directory is mounted that
// holds both ends.
func (r rootFS) rebase(f model.File) (string, error) {
	dir := path.Dir(f.Path)
	end, beyond, err := r.follow(dir, f.Link)
	switch {
	case err != nil:
		return "", fmt.Errorf("symbolic link %q: %w", f.Path, err)
	case beyond:
		return relative(dir, end), nil
	case strings.HasPrefix(f.Link, "/"):
		return relative(dir, strings.TrimLeft(f.Link, "/")), nil
	}
	return cmp.Or(f.Link, "."), nil
}

// relative is the link from a directory to a path, both from the root. The directory must be free of links.
func relative(dir, to string) string {
	from, target := strings.Split(dir, "/"), strings.Split(to, "/")
	if dir == "." {
		from = nil
	}
	for len(from) > 0 && len(target) > 0 && from[0] == target[0] {
		from, target = from[1:], target[1:]
	}
	link := strings.Repeat("../", len(from)) + strings.Join(target, "/")
	return cmp.Or(strings.TrimRight(link, "/"), ".")
}

// place is where a walk along a link has come to; node is nil where nothing is.
type place struct {
	path string
	node *node
}

// follow walks a link from the directory dir to its end. beyond says that ".." was used at the root on the way, which
// is allowed in an image and leads out of a tree.
func (r rootFS) follow(dir, link string) (end string, beyond bool, err error) {
	step := func(at place, name string) (place, string, error) {
		next := place{path: path.Join(at.path, name)}
		if at.node != nil {
			next.node = at.node.children[name]
		}
		if next.node != nil && next.node.file.Mode.Type() == fs.ModeSymlink {
			return place{}, next.node.target(), nil
		}
		return next, "", nil
	}
	from, _, err := model.Walk([]place{{node: r.top}}, dir, step)
	if err != nil {
		return "", false, err
	}
	places, beyond, err := model.Walk(from, link, step)
	if err != nil {
		return "", false, err
	}
	return places[len(places)-1].path, beyond, nil
}
