package model

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Blob identifies immutable content.
type Blob struct {
	Digest digest.Digest `json:"digest"`
	// Size in bytes.
	Size int64 `json:"size"`
}

// File is one entry of a Tree: a regular file, a directory or a symbolic link, as the type bits of Mode say.
type File struct {
	// Path is relative to the model's root, in the form that CleanPath returns.
	Path string `json:"path"`
	// Mode has permission bits and fs.ModeDir or fs.ModeSymlink; nothing else.
	Mode fs.FileMode `json:"mode"`
	// Blob is the content of a regular file.
	Blob Blob `json:"blob,omitzero"`
	// Link is the target of a symbolic link, relative to the link's directory.
	Link string `json:"link,omitempty"`
}

// Executable reports whether the file is a regular one that somebody may execute.
func (f File) Executable() bool { return f.Mode.IsRegular() && f.Mode&0o111 != 0 }

// Member is one entry of an archive layer, as it stands in the archive: the name is not corrected or trusted yet.
// The same layer has the same members whichever format refers to it.
type Member struct {
	Name string `json:"name"`
	// Mode has permission bits and the type bits of fs.FileMode. A device has fs.ModeDevice and so on.
	Mode fs.FileMode `json:"mode"`
	// Blob is the content of a regular file.
	Blob Blob `json:"blob,omitzero"`
	// Link is the target of a symbolic link, or of a hard link where Hard is set.
	Link string `json:"link,omitempty"`
	Hard bool   `json:"hard,omitempty"`
}

// Tree is a model as a directory: files sorted by path, every parent directory implied, no path twice.
// It is immutable once NewTree has returned it.
type Tree []File

const (
	// maxLinkSteps bounds the work for all links of a tree: links that lead through links multiply. Images of whole
	// operating systems need a hundredth of it.
	maxLinkSteps = 2_000_000
)

// NewTree sorts and checks the files. It refuses with ErrInvalid: paths that CleanPath would not return, a path twice,
// a file below something that is not a directory, other types than regular, directory and symbolic link, and links
// that leave the tree or run in circles; and with ErrTooLarge links that only a hostile artifact makes so tangled. Permission bits are reduced to what a shared read-only file can have: 0444,
// and 0555 where any execute bit is set; directories have 0555.
func NewTree(files []File) (Tree, error) {
	t := make(Tree, len(files))
	copy(t, files)
	sort.Slice(t, func(i, j int) bool { return t[i].Path < t[j].Path })
	byPath := make(map[string]*File, len(t))
	for i := range t {
		f := &t[i]
		clean, err := CleanPath(f.Path)
		if err != nil {
			return nil, err
		}
		if clean != f.Path {
			return nil, fmt.Errorf("path %q is not in its clean form %q: %w", f.Path, clean, ErrInvalid)
		}
		if byPath[f.Path] != nil {
			return nil, fmt.Errorf("path %q appears twice: %w", f.Path, ErrInvalid)
		}
		if err := f.normalise(); err != nil {
			return nil, err
		}
		byPath[f.Path] = f
	}
	steps := 0
	for i := range t {
		for dir := path.Dir(t[i].Path); dir != "."; dir = path.Dir(dir) {
			if parent := byPath[dir]; parent != nil && !parent.Mode.IsDir() {
				return nil, fmt.Errorf("path %q lies below %q, which is not a directory: %w", t[i].Path, dir, ErrInvalid)
			}
		}
		if t[i].Mode&fs.ModeSymlink != 0 {
			if err := checkLink(byPath, t[i], &steps); err != nil {
				return nil, err
			}
		}
	}
	return t, nil
}

func (f *File) normalise() error {
	switch f.Mode.Type() {
	case 0:
		if _, err := ParseDigest(f.Blob.Digest.String()); err != nil {
			return fmt.Errorf("file %q: %w", f.Path, err)
		}
		if f.Blob.Size < 0 {
			return fmt.Errorf("file %q has the negative size %d: %w", f.Path, f.Blob.Size, ErrInvalid)
		}
		if f.Mode&0o111 != 0 {
			f.Mode = 0o555
		} else {
			f.Mode = 0o444
		}
		f.Link = ""
	case fs.ModeDir:
		f.Mode, f.Blob, f.Link = fs.ModeDir|0o555, Blob{}, ""
	case fs.ModeSymlink:
		f.Mode, f.Blob = fs.ModeSymlink|0o777, Blob{}
	default:
		return fmt.Errorf("%q is a special file (%s); models have regular files, directories and links only: %w", f.Path, f.Mode.Type(), ErrInvalid)
	}
	return nil
}

// checkLink follows the link through the tree, component by component, as the kernel would.
func checkLink(byPath map[string]*File, link File, steps *int) error {
	bad := func(why string) error {
		return fmt.Errorf("symbolic link %q -> %q %s: %w", link.Path, link.Link, why, ErrInvalid)
	}
	switch {
	case link.Link == "" || len(link.Link) > maxPathLength || strings.ContainsRune(link.Link, 0):
		return bad("has no usable target")
	case strings.HasPrefix(link.Link, "/"):
		return bad("is absolute")
	}
	var absolute error
	*steps += strings.Count(link.Link, "/")
	_, beyond, err := Walk(placesOf(link.Path), link.Link, func(dir, name string) (string, string, error) {
		if *steps++; *steps > maxLinkSteps {
			return "", "", fmt.Errorf("the symbolic links of the model take more than %d steps to follow: %w", maxLinkSteps, ErrTooLarge)
		}
		at := path.Join(dir, name)
		f := byPath[at]
		if f == nil || f.Mode&fs.ModeSymlink == 0 {
			return at, "", nil
		}
		*steps += strings.Count(f.Link, "/")
		if strings.HasPrefix(f.Link, "/") {
			absolute = bad("leads to an absolute link")
		}
		return "", f.Link, absolute
	})
	switch {
	case err != nil && absolute == nil && !errors.Is(err, ErrTooLarge):
		return bad("runs in a circle")
	case err != nil:
		return err
	case beyond:
		return bad("leaves the model's directory")
	}
	return nil
}

// placesOf lists the directories from the root, which is "", down to the one that a path stands in.
func placesOf(p string) []string {
	out := []string{""}
	for i := range len(p) {
		if p[i] == '/' {
			out = append(out, p[:i])
		}
	}
	return out
}

// Digest identifies the tree: two trees with the same paths, modes, links and contents have the same one.
func (t Tree) Digest() digest.Digest {
	h := sha256.New()
	for _, f := range t {
		fmt.Fprintf(h, "%o %q %s %q\n", uint32(f.Mode), f.Path, f.Blob.Digest, f.Link)
	}
	return digest.NewDigest(digest.SHA256, h)
}

// Size is the sum of the sizes of the distinct blobs, in bytes: what the tree takes on disk.
func (t Tree) Size() int64 {
	var n int64
	for _, b := range t.Blobs() {
		n += b.Size
	}
	return n
}

// Blobs lists the distinct blobs in the order of their first use.
func (t Tree) Blobs() []Blob {
	seen := make(map[digest.Digest]bool, len(t))
	var out []Blob
	for _, f := range t {
		if f.Mode.IsRegular() && !seen[f.Blob.Digest] {
			seen[f.Blob.Digest] = true
			out = append(out, f.Blob)
		}
	}
	return out
}

// Lookup finds the entry at a clean path; ok is also true for a directory that is only implied.
func (t Tree) Lookup(p string) (f File, ok bool) {
	i := sort.Search(len(t), func(i int) bool { return t[i].Path >= p })
	if i < len(t) && t[i].Path == p {
		return t[i], true
	}
	// Paths sort by bytes, so "a-b" stands between "a" and "a/b": search for the prefix itself.
	i = sort.Search(len(t), func(i int) bool { return t[i].Path >= p+"/" })
	if i < len(t) && strings.HasPrefix(t[i].Path, p+"/") {
		return File{Path: p, Mode: fs.ModeDir | 0o555}, true
	}
	return File{}, false
}
