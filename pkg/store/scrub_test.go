package store

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// damage flips a bit of a blob, as a bad disk does.
func damage(t *testing.T, s *Store, d digest.Digest) {
	t.Helper()
	path := s.blobPath(d)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestVerify(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	good := put(t, s, bytes.Repeat([]byte("good"), 1<<20+3)) // no multiple of a block
	empty := put(t, s, nil)
	bad := put(t, s, bytes.Repeat([]byte("bad"), 5000))
	if _, err := s.BlobPath(model.File{Path: "x", Mode: 0o755, Blob: good}); err != nil {
		t.Fatal(err) // the executable twin
	}
	damage(t, s, bad.Digest)
	read := 0
	tests := []struct {
		name string
		d    digest.Digest
		kind error
	}{
		{"sound", good.Digest, nil},
		{"empty", empty.Digest, nil},
		{"damaged", bad.Digest, model.ErrCorrupt},
		{"absent", digest.FromString("absent"), model.ErrNotFound},
		{"no digest", "sha256:x", model.ErrInvalid},
	}
	for _, tt := range tests {
		if err := s.Verify(t.Context(), tt.d, VerifyOptions{Progress: func(n int) { read += n }}); !errors.Is(err, tt.kind) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if want := 2*good.Size + bad.Size; int64(read) != want {
		t.Errorf("%d bytes were read, want %d: the blobs and the twin", read, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Verify(ctx, good.Digest, VerifyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// The twin alone is damaged.
	twin := s.blobPath(good.Digest) + executableSuffix
	if err := os.Truncate(twin, good.Size-1); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), good.Digest, VerifyOptions{}); !errors.Is(err, model.ErrCorrupt) {
		t.Errorf("damaged twin: %v", err)
	}
}

func TestVerifyRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), Options{})
		b := put(t, s, make([]byte, 10<<20))
		began := time.Now()
		if err := s.Verify(t.Context(), b.Digest, VerifyOptions{Rate: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("10 MiB at 1 MiB a second took %s", took)
		}
	})
}

func TestBlobs(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	shown, alone := put(t, s, []byte("shown")), put(t, s, []byte("alone"))
	publish(t, s, "one", map[string]model.Blob{"a": shown, "b": shown})
	list, err := s.Blobs()
	if err != nil {
		t.Fatal(err)
	}
	views := map[digest.Digest]int{}
	for _, b := range list {
		views[b.Digest] = b.Views
		if b.Size != 5 || b.Allocated == 0 || time.Since(b.Used) > time.Minute {
			t.Errorf("blob %+v", b)
		}
	}
	if len(list) != 2 || views[shown.Digest] != 2 || views[alone.Digest] != 0 {
		t.Errorf("%v", list)
	}
}

// TestQuarantineSparesMounts takes a damaged blob away while a pod has it mounted.
func TestQuarantineSparesMounts(t *testing.T) {
	root := t.TempDir()
	mounted := map[digest.Digest]bool{}
	inUse := func() (map[digest.Digest]bool, error) { return mounted, nil }
	s := open(t, root, Options{InUse: inUse})
	bad := put(t, s, []byte("bad"))
	l := publish(t, s, "v", map[string]model.Blob{"f": bad})
	pod, err := os.Open(s.ViewPath(l.View)) // as good as a mount: it follows the directory
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pod.Close() }()
	if err := s.Quarantine(bad.Digest); err != nil {
		t.Fatal(err)
	}
	if s.Has(bad) || s.HasView(l.View) {
		t.Fatal("the damaged blob is still given out")
	}
	held := func(when string, want int) {
		t.Helper()
		names, err := filepath.Glob(filepath.Join(root, quarantineDir, "*", ViewsDir, l.View.Encoded(), "f"))
		if err != nil || len(names) != want {
			t.Fatalf("%s: %d files are in quarantine, want %d (%v)", when, len(names), want, err)
		}
	}
	held("leased", 1)
	mounted[l.View] = true
	if err := s.DropLease(l.VolumeID, l.Target); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Evict(t.Context(), Everything); err != nil {
		t.Fatal(err)
	}
	held("mounted without a lease", 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, root, Options{InUse: inUse})
	held("after a restart", 1)

	// The sound blob comes again and is published beside.
	if again := put(t, s, []byte("bad")); !s.Has(again) {
		t.Fatal("the blob did not come again")
	}
	publish(t, s, "w", map[string]model.Blob{"f": bad})
	delete(mounted, l.View)
	if err := s.DropLease("w", "/target/w"); err != nil {
		t.Fatal(err)
	}
	held("nobody uses it", 0)
	if entries, err := os.ReadDir(filepath.Join(root, quarantineDir)); err != nil || len(entries) != 0 {
		t.Fatalf("quarantine holds %v, %v", entries, err)
	}
	if _, err := pod.ReadDir(0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestKeep(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, Options{})
	kept, other := put(t, s, []byte("kept")), put(t, s, []byte("other"))
	tree := treeOf(t, map[string]model.Blob{"f": kept})
	publish(t, s, "v", map[string]model.Blob{"f": kept})
	if err := s.DropLease("v", "/target/v"); err != nil {
		t.Fatal(err)
	}
	if err := s.Keep("", "", tree); !errors.Is(err, model.ErrInvalid) {
		t.Fatalf("no reference: %v", err)
	}
	manifest := digest.FromString("manifest")
	for range 2 { // twice is once
		if err := s.Keep("r/m:1", manifest, tree); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, root, Options{})
	list := s.Kept()
	if len(list) != 1 || list[0].Reference != "r/m:1" || list[0].Digest != manifest || list[0].Tree != tree.Digest() || list[0].Bytes != 4 {
		t.Fatalf("after a restart %+v is kept", list)
	}
	if _, err := s.Evict(t.Context(), Everything); err != nil {
		t.Fatal(err)
	}
	if !s.Has(kept) || !s.HasView(tree.Digest()) || s.Has(other) {
		t.Fatal("eviction took the wrong things")
	}
	if err := s.GiveUp("r/m:1"); err != nil {
		t.Fatal(err)
	}
	if err := s.GiveUp("r/m:1"); !errors.Is(err, model.ErrNotFound) {
		t.Fatalf("given up twice: %v", err)
	}
	if _, err := s.Evict(t.Context(), Everything); err != nil {
		t.Fatal(err)
	}
	if s.Has(kept) || s.HasView(tree.Digest()) || len(s.pins) != 0 {
		t.Fatal("what was given up is still protected")
	}
	// A damaged file stops nothing.
	if err := os.WriteFile(filepath.Join(root, "kept", "x.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s = open(t, root, Options{}); len(s.Kept()) != 0 {
		t.Fatal("something is kept that nobody wanted")
	}
}

func TestModels(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, Options{})
	a, b, c := put(t, s, []byte("a")), put(t, s, []byte("bb")), put(t, s, []byte("ccc"))
	served := treeOf(t, map[string]model.Blob{"a": a, "b": b})
	pulled := treeOf(t, map[string]model.Blob{"c": c})
	gone := treeOf(t, map[string]model.Blob{"d": {Digest: digest.FromString("dddd"), Size: 4}})
	manifest := digest.FromString("m")
	for reference, tree := range map[string]model.Tree{"r/served:1": served, "r/pulled:1": pulled, "r/gone:1": gone} {
		if err := s.Describe(reference, manifest, "modelpack", tree); err != nil {
			t.Fatal(err)
		}
	}
	l := publish(t, s, "v", map[string]model.Blob{"a": a, "b": b})
	if err := s.Keep("r/pulled:stable", manifest, pulled); err != nil {
		t.Fatal(err)
	}
	list, err := s.Models()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 2 {
		t.Fatalf("%d models: %+v", len(list), list)
	}
	byTree := map[digest.Digest]Model{list[0].Tree: list[0], list[1].Tree: list[1]}
	m := byTree[served.Digest()]
	if !m.Viewed || m.Bytes != 3 || m.Files != 2 || len(m.Volumes) != 1 || m.Volumes[0].VolumeID != l.VolumeID || m.Kept ||
		len(m.References) != 2 || m.References[1] != "r/served:1" || m.Digest != manifest || m.Format != "modelpack" {
		t.Errorf("published model: %+v", m)
	}
	m = byTree[pulled.Digest()]
	if m.Viewed || m.Bytes != 3 || m.Files != 1 || len(m.Volumes) != 0 || !m.Kept ||
		len(m.References) != 2 || m.References[0] != "r/pulled:1" || m.References[1] != "r/pulled:stable" {
		t.Errorf("pulled model: %+v", m)
	}
	// What is known is not written again.
	before, err := os.Stat(s.recordFile(modelsKind, served.Digest().String()))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Describe("r/served:1", manifest, "modelpack", served); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(s.recordFile(modelsKind, served.Digest().String()))
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("the description was written again (%v)", err)
	}
}

// A file whose end cannot be read past the page cache is read through it, from where it was.
func TestThroughCache(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := openPastCacheForReading(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	_ = throughCache(f)
	if throughCache(f) {
		t.Error("it is past the cache still")
	}
	unaligned := make([]byte, 3)
	for _, want := range []string{"abc", "def"} {
		if n, err := f.Read(unaligned); err != nil || string(unaligned[:n]) != want {
			t.Errorf("read %q, %v", unaligned[:n], err)
		}
	}
}
