package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/internal/nearest"
	"github.com/model-csi/model-csi/pkg/model"
)

// maxListed is how many directories an error lists.
const maxListed = 10

// subPath finds the directory of a view that a volume shows. Symbolic links of the model are followed as long as they
// stay in it; the result is free of them. Anything that is no directory is model.ErrInvalid, with a list of those that
// are.
func subPath(view, sub string, t model.Tree) (string, error) {
	if sub == "" {
		return view, nil
	}
	root, err := os.OpenRoot(view)
	if err != nil {
		return "", err
	}
	defer root.Close()
	dir, err := root.Open(sub)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrClosed) {
			return "", err
		}
		return "", notADirectory(sub, t)
	}
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", notADirectory(sub, t)
	}
	real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return "", err
	}
	if real != view && !strings.HasPrefix(real, view+"/") {
		return "", fmt.Errorf("volume attribute %q: %s leads out of the model: %w", attrSubPath, sub, model.ErrInvalid)
	}
	return real, nil
}

// maxCompared bounds the search for what may have been meant: a model can have a million directories.
const maxCompared = 1000

func notADirectory(sub string, t model.Tree) error {
	dirs := directories(t)
	const what = "volume attribute %q: %q is not a directory of the model"
	if len(dirs) == 0 {
		return fmt.Errorf(what+", which has no directories; leave it out: %w", attrSubPath, shorten(sub), model.ErrInvalid)
	}
	more := ""
	if len(dirs) > maxListed {
		more = fmt.Sprintf(" and %d more", len(dirs)-maxListed)
	}
	guess := nearest.Of(sub, dirs[:min(len(dirs), maxCompared)])
	shown := make([]string, 0, maxListed)
	for _, d := range dirs[:min(len(dirs), maxListed)] {
		shown = append(shown, shorten(d))
	}
	return fmt.Errorf(what+"; did you mean %q? It has %s%s: %w",
		attrSubPath, shorten(sub), shorten(guess), strings.Join(shown, ", "), more, model.ErrInvalid)
}

// directories of the tree, those that are only implied included, sorted.
func directories(t model.Tree) []string {
	seen := map[string]bool{}
	var out []string
	var add func(dir string)
	add = func(dir string) {
		if dir == "." || seen[dir] {
			return
		}
		seen[dir] = true
		add(filepath.Dir(dir))
		out = append(out, dir)
	}
	for _, f := range t {
		if f.Mode.IsDir() {
			add(f.Path)
		} else {
			add(filepath.Dir(f.Path))
		}
	}
	return out
}

// measure counts what a directory of the tree shows: bytes of its files, and entries. A file that appears twice counts
// twice, as it would on a disk of its own.
func measure(t model.Tree, sub string) (bytes, files int64) {
	for _, f := range t {
		if sub == "" || strings.HasPrefix(f.Path, sub+"/") {
			bytes += f.Blob.Size
			files++
		}
	}
	return bytes, files
}

// measureDir is measure for a view whose tree is not at hand.
func measureDir(view, sub string) (bytes, files int64, err error) {
	root := filepath.Join(view, sub)
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		files++
		if !e.Type().IsRegular() {
			return nil
		}
		info, err := e.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	return bytes, files, err
}

// viewOf recognises a mount of one of our views, or of the directory sub in one, by the path of its source on the
// filesystem: .../views/<64 hexadecimal digits>[/sub].
func viewOf(source string) (view digest.Digest, sub string, ok bool) {
	const parent = "/views/"
	// A model may have such directories itself, so the first one counts.
	for rest := source; ; {
		_, after, found := strings.Cut(rest, parent)
		if !found {
			return "", "", false
		}
		name, sub, _ := strings.Cut(after, "/")
		if d := digest.NewDigestFromEncoded(digest.SHA256, name); d.Validate() == nil {
			return d, sub, true
		}
		rest = "/" + after
	}
}
