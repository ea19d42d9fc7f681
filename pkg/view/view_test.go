package view

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/model"
)

// blobs is a directory of blobs with the permissions that the store gives them.
type blobs struct {
	t   *testing.T
	dir string
}

func newBlobs(t *testing.T) blobs { return blobs{t, t.TempDir()} }

func (b blobs) add(content string, mode fs.FileMode) model.Blob {
	b.t.Helper()
	sum := sha256.Sum256([]byte(content))
	id := hex.EncodeToString(sum[:])
	if err := os.WriteFile(b.name(id, mode&0o111 != 0), []byte(content), mode); err != nil && !errors.Is(err, fs.ErrPermission) {
		b.t.Fatal(err)
	}
	return model.Blob{Digest: digest.NewDigestFromEncoded(digest.SHA256, id), Size: int64(len(content))}
}

func (b blobs) name(id string, executable bool) string {
	if executable {
		id += ".x"
	}
	return filepath.Join(b.dir, id)
}

func (b blobs) path(f model.File) (string, error) {
	return b.name(f.Blob.Digest.Encoded(), f.Executable()), nil
}

func sample(t *testing.T, b blobs) model.Tree {
	t.Helper()
	weights := b.add(strings.Repeat("weights", 10_000), 0o444)
	tree, err := model.NewTree([]model.File{
		{Path: "README.md", Mode: 0o444, Blob: b.add("read me", 0o444)},
		{Path: "a-b", Mode: 0o444, Blob: b.add("", 0o444)},
		{Path: "a/b/c/model.safetensors", Mode: 0o444, Blob: weights},
		{Path: "a/latest", Mode: fs.ModeSymlink, Link: "b/c/model.safetensors"},
		{Path: "again.safetensors", Mode: 0o444, Blob: weights},
		{Path: "bin/run", Mode: 0o755, Blob: b.add("#!/bin/sh\n", 0o555)},
		{Path: "empty/dir", Mode: fs.ModeDir},
		{Path: "dangling", Mode: fs.ModeSymlink, Link: "not/there"},
		{Path: strings.Repeat("n", 255), Mode: 0o444, Blob: b.add("long", 0o444)},
		{Path: "+before the root/-x", Mode: 0o444, Blob: b.add("plus", 0o444)},
		{Path: "weird \n\u00a0 name", Mode: 0o444, Blob: b.add("odd", 0o444)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// check compares the directory with the tree: nothing missing, nothing else.
func check(t *testing.T, dir string, tree model.Tree, b blobs, linked bool) {
	t.Helper()
	var found int
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() && info.Mode().Perm() != 0o555 {
			t.Errorf("directory %s has mode %s", p, info.Mode())
		}
		if p == dir {
			return nil
		}
		name, _ := filepath.Rel(dir, p)
		f, ok := tree.Lookup(name)
		if !ok {
			t.Errorf("%q is not in the tree", name)
			return nil
		}
		if slices.ContainsFunc(tree, func(f model.File) bool { return f.Path == name }) {
			found++
		}
		checkFile(t, p, info, f, b, linked)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found != len(tree) {
		t.Errorf("%d of %d entries were made", found, len(tree))
	}
}

func checkFile(t *testing.T, p string, info fs.FileInfo, f model.File, b blobs, linked bool) {
	t.Helper()
	if info.Mode() != f.Mode {
		t.Errorf("%s has mode %s, want %s", f.Path, info.Mode(), f.Mode)
	}
	switch {
	case f.Mode&fs.ModeSymlink != 0:
		if target, err := os.Readlink(p); err != nil || target != f.Link {
			t.Errorf("link %s -> %q, %v", f.Path, target, err)
		}
	case f.Mode.IsRegular():
		content, err := os.ReadFile(p)
		if err != nil || digest.FromBytes(content) != f.Blob.Digest {
			t.Errorf("content of %s: %d bytes, %v", f.Path, len(content), err)
		}
		source, _ := b.path(f)
		blob, err := os.Stat(source)
		if err != nil {
			t.Fatal(err)
		}
		if os.SameFile(info, blob) != linked {
			t.Errorf("%s shares the blob's inode: %t, want %t", f.Path, !linked, linked)
		}
	}
}

func TestBuild(t *testing.T) {
	b := newBlobs(t)
	tree := sample(t, b)
	dir := t.TempDir()
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	if err := Build(dir, tree, b.path); err != nil {
		t.Fatal(err)
	}
	check(t, dir, tree, b, true)
}

func TestBuildEmptyTree(t *testing.T) {
	b := newBlobs(t)
	dir := t.TempDir()
	if err := Build(dir, nil, b.path); err != nil {
		t.Fatal(err)
	}
	check(t, dir, nil, b, true)
}

// withLink makes every hard link fail with err.
func withLink(t *testing.T, err error) {
	t.Helper()
	real := link
	t.Cleanup(func() { link = real })
	link = func(source string, _ *os.File, base string) error {
		return &os.LinkError{Op: "link", Old: source, New: base, Err: err}
	}
}

func TestBuildWithoutHardLinks(t *testing.T) {
	for _, cause := range []error{unix.EXDEV, unix.EMLINK, unix.EPERM, unix.EOPNOTSUPP} {
		t.Run(cause.Error(), func(t *testing.T) {
			b := newBlobs(t)
			tree := sample(t, b)
			dir := t.TempDir()
			withLink(t, cause)
			if err := Build(dir, tree, b.path); err != nil {
				t.Fatal(err)
			}
			check(t, dir, tree, b, false)
		})
	}
}

// Another filesystem, for real: the link fails with EXDEV and the content is copied.
func TestBuildAcrossFilesystems(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "view-test-") //nolint:usetesting // t.TempDir is on the filesystem of the blobs
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := newBlobs(t)
	tree := sample(t, b)
	if err := Build(dir, tree, b.path); err != nil {
		t.Fatal(err)
	}
	check(t, dir, tree, b, false)
}

// ext4 allows 65,000 links to one file. The view is made all the same.
func TestBuildWithTooManyLinks(t *testing.T) {
	b := newBlobs(t)
	blob := b.add("popular", 0o444)
	source, _ := b.path(model.File{Blob: blob})
	many := t.TempDir()
	for i := range 70_000 {
		if err := os.Link(source, filepath.Join(many, fmt.Sprint(i))); errors.Is(err, unix.EMLINK) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	tree, err := model.NewTree([]model.File{{Path: "one", Blob: blob}, {Path: "two", Blob: blob}})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := Build(dir, tree, b.path); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		if content, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(content) != "popular" {
			t.Errorf("%s: %q, %v", name, content, err)
		}
	}
}

func TestBuildRefusesBadBlobs(t *testing.T) {
	b := newBlobs(t)
	blob := b.add("content", 0o444)
	source, _ := b.path(model.File{Blob: blob})
	tree, err := model.NewTree([]model.File{{Path: "sub/file", Blob: blob}})
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.WriteFile(elsewhere, []byte("content"), 0o444); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		spoil func() error
		want  error
		link  error // how hard links fail
	}{
		"too short":              {func() error { return os.WriteFile(source, []byte("cont"), 0o444) }, model.ErrCorrupt, nil},
		"too short, copied":      {func() error { return os.WriteFile(source, []byte("cont"), 0o444) }, model.ErrCorrupt, unix.EXDEV},
		"too long":               {func() error { return os.WriteFile(source, []byte("content and more"), 0o444) }, model.ErrCorrupt, nil},
		"too long, copied":       {func() error { return os.WriteFile(source, []byte("content and more"), 0o444) }, model.ErrCorrupt, unix.EXDEV},
		"a symbolic link":        {func() error { return os.Symlink(elsewhere, source) }, model.ErrCorrupt, nil},
		"a symbolic link copied": {func() error { return os.Symlink(elsewhere, source) }, unix.ELOOP, unix.EXDEV},
		"a FIFO":                 {func() error { return unix.Mkfifo(source, 0o444) }, model.ErrCorrupt, nil},
		"gone":                   {func() error { return nil }, fs.ErrNotExist, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.Remove(source); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if err := c.spoil(); err != nil {
				t.Fatal(err)
			}
			if c.link != nil {
				withLink(t, c.link)
			}
			err := Build(t.TempDir(), tree, b.path)
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if err != nil && !strings.Contains(err.Error(), "sub/file") && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("error %q does not name the file", err)
			}
		})
	}
}

func TestBuildPassesErrorsOn(t *testing.T) {
	b := newBlobs(t)
	tree := sample(t, b)
	missing := errors.New("no such blob")
	err := Build(t.TempDir(), tree, func(model.File) (string, error) { return "", missing })
	if !errors.Is(err, missing) {
		t.Errorf("error %v, want that of the store", err)
	}
	withLink(t, unix.ENOSPC)
	if err := Build(t.TempDir(), tree, b.path); !errors.Is(err, model.ErrNoSpace) {
		t.Errorf("error %v on a full disk, want %v", err, model.ErrNoSpace)
	}
	if err := Build(filepath.Join(t.TempDir(), "missing"), tree, b.path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v for a directory that does not exist", err)
	}
}

// A tree that no NewTree has seen, read from a damaged file perhaps, must not reach outside of the directory.
func TestBuildRefusesHostileTrees(t *testing.T) {
	b := newBlobs(t)
	blob := b.add("evil", 0o444)
	for name, tree := range map[string]model.Tree{
		"parent":            {{Path: "../evil", Mode: 0o444, Blob: blob}},
		"deep parent":       {{Path: "a/../../evil", Mode: 0o444, Blob: blob}},
		"absolute":          {{Path: "/evil", Mode: 0o444, Blob: blob}},
		"empty":             {{Path: "", Mode: 0o444, Blob: blob}},
		"twice":             {{Path: "a", Mode: 0o444, Blob: blob}, {Path: "a", Mode: 0o444, Blob: blob}},
		"below a file":      {{Path: "a", Mode: 0o444, Blob: blob}, {Path: "a/b", Mode: 0o444, Blob: blob}},
		"through a link":    {{Path: "a", Mode: fs.ModeSymlink, Link: ".."}, {Path: "a/evil", Mode: 0o444, Blob: blob}},
		"link out":          {{Path: "a", Mode: fs.ModeSymlink, Link: "../../etc"}},
		"absolute link":     {{Path: "a", Mode: fs.ModeSymlink, Link: "/etc"}},
		"device":            {{Path: "a", Mode: fs.ModeDevice}},
		"NUL":               {{Path: "a\x00b", Mode: 0o444, Blob: blob}},
		"directory as file": {{Path: "a", Mode: fs.ModeDir}, {Path: "a", Mode: 0o444, Blob: blob}},
	} {
		base := t.TempDir()
		dir := filepath.Join(base, "view")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := Build(dir, tree, b.path); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("%s: error %v, want %v", name, err, model.ErrInvalid)
		}
		for _, d := range []string{base, dir} {
			entries, err := os.ReadDir(d)
			if err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name() != "view" {
				t.Errorf("%s: left %v in %s (%v)", name, entries, d, err)
			}
		}
	}
}

// Models with thousands of shards exist; making their view is part of every cold publish.
func TestBuildManyFilesFast(t *testing.T) {
	b := newBlobs(t)
	var files []model.File
	for i := range 2000 {
		files = append(files, model.File{
			Path: fmt.Sprintf("part-%d/shard-%05d.bin", i%20, i), Blob: b.add(fmt.Sprint("shard ", i), 0o444),
		})
	}
	rand.Shuffle(len(files), func(i, j int) { files[i], files[j] = files[j], files[i] })
	tree, err := model.NewTree(files)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	start := time.Now()
	if err := Build(dir, tree, b.path); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	t.Logf("2,000 files in %s", took)
	// Many times what a slow disk and the race detector take; a call per file that syncs would need more.
	if took > 15*time.Second {
		t.Errorf("2,000 files took %s", took)
	}
	check(t, dir, tree, b, true)
}

func TestDuplicateTakesLargeFiles(t *testing.T) {
	b := newBlobs(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	blob := b.add(string(content), 0o444)
	tree, err := model.NewTree([]model.File{{Path: "large", Blob: blob}})
	if err != nil {
		t.Fatal(err)
	}
	withLink(t, unix.EXDEV)
	dir := t.TempDir()
	if err := Build(dir, tree, b.path); err != nil {
		t.Fatal(err)
	}
	check(t, dir, tree, b, false)
}
