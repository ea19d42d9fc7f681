package view

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestExport(t *testing.T) {
	b := newBlobs(t)
	weights, script := b.add("weights", 0o444), b.add("#!/bin/sh\n", 0o555)
	tree, err := model.NewTree([]model.File{
		{Path: "a/weights", Blob: weights},
		{Path: "b/same", Blob: weights},
		{Path: "bin/run", Blob: script, Mode: 0o755},
		{Path: "empty", Mode: fs.ModeDir},
		{Path: "link", Mode: fs.ModeSymlink, Link: "a/weights"},
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := Export(dir, tree, b.path); err != nil {
		t.Fatal(err)
	}
	inodes := map[uint64]bool{}
	for name, want := range map[string]struct {
		mode fs.FileMode
		text string
	}{"a/weights": {0o644, "weights"}, "b/same": {0o644, "weights"}, "bin/run": {0o755, "#!/bin/sh\n"}} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want.mode {
			t.Errorf("%s has the mode %v", name, info.Mode())
		}
		inodes[info.Sys().(*syscall.Stat_t).Ino] = true
		if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(text) != want.text {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if len(inodes) != 3 {
		t.Errorf("%d inodes for three files: a change of one would change another", len(inodes))
	}
	if info, err := os.Stat(filepath.Join(dir, "empty")); err != nil || info.Mode() != fs.ModeDir|0o755 {
		t.Errorf("directory: %v, %v", info, err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "link")); err != nil || to != "a/weights" {
		t.Errorf("link: %q, %v", to, err)
	}
	theirs := filepath.Join(dir, "a/weights")
	if err := os.Chmod(theirs, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Export(dir, tree, b.path); err == nil {
		t.Error("files were overwritten")
	}
	if info, err := os.Stat(theirs); err != nil || info.Mode() != 0o600 {
		t.Errorf("the mode of a file that was there was changed: %v, %v", info.Mode(), err)
	}
}
