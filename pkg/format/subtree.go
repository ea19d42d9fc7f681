package format

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

// Subtree returns the directory dir of a tree as a tree of its own; "" is the tree itself. A link from within dir to a
// file outside becomes a copy of that file, because its target would be missing. It fails with model.ErrNotFound when
// there is no such directory, and with model.ErrUnsupported for a link to a directory outside, or to nothing: mounting
// dir alone would leave out part of the model.
func Subtree(t model.Tree, dir string) (model.Tree, error) {
	if dir == "" {
		return t, nil
	}
	dir, _, err := follow(t, ".", dir, 0)
	if err != nil {
		return nil, err
	}
	if dir == "" {
		return t, nil
	}
	if err := isDir(t, dir); err != nil {
		return nil, err
	}
	var out []model.File
	for _, f := range t {
		rest, below := strings.CutPrefix(f.Path, dir+"/")
		if !below {
			continue
		}
		if f.Mode&fs.ModeSymlink != 0 {
			if f, err = inside(t, dir, f); err != nil {
				return nil, err
			}
		}
		f.Path = rest
		out = append(out, f)
	}
	return model.NewTree(out)
}

// inside makes a link usable when dir is all there is.
func inside(t model.Tree, dir string, f model.File) (model.File, error) {
	base := depth(dir)
	end, left, err := follow(t, path.Dir(f.Path), f.Link, base)
	if err != nil || !left {
		return f, err
	}
	if rest, below := strings.CutPrefix(end+"/", dir+"/"); below {
		f.Link = strings.Repeat("../", depth(f.Path)-base-1) + strings.TrimSuffix(rest, "/")
		if f.Link == "" {
			f.Link = "."
		}
		return f, nil
	}
	target, ok := t.Lookup(end)
	if !ok || !target.Mode.IsRegular() {
		return f, fmt.Errorf("link %q leads to %q, which is outside of %q and no file; mount the whole image and use a path in it: %w",
			f.Path, end, dir, model.ErrUnsupported)
	}
	target.Path = f.Path
	return target, nil
}

// follow resolves a link that stands in the directory dir. left says that the way went above the given depth.
func follow(t model.Tree, dir, link string, base int) (end string, left bool, err error) {
	at := strings.Split(dir, "/")
	if dir == "." {
		at = nil
	}
	todo := strings.Split(link, "/")
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = at[:max(0, len(at)-1)]
			left = left || len(at) < base
			continue
		}
		next := append(at[:len(at):len(at)], part)
		if f, ok := t.Lookup(strings.Join(next, "/")); ok && f.Mode&fs.ModeSymlink != 0 {
			if links++; links > maxLinks {
				return "", false, fmt.Errorf("symbolic link %q runs in a circle: %w", link, model.ErrInvalid)
			}
			todo = append(strings.Split(f.Link, "/"), todo...)
			continue
		}
		at = next
	}
	return strings.Join(at, "/"), left, nil
}

func depth(p string) int { return strings.Count(p, "/") + 1 }
