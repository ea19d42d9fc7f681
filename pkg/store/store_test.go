package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests must run as root: they make files that belong to root and mount a small filesystem")
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// roomy keeps nothing in reserve, so that tests do not depend on the machine's free space.
var roomy = Policy{ReserveBytes: 1}

func open(t *testing.T, root string, o Options) *Store {
	t.Helper()
	if o.Policy == (Policy{}) {
		o.Policy = roomy
	}
	s, err := Open(root, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func put(t *testing.T, s *Store, data []byte) model.Blob {
	t.Helper()
	b := model.Blob{Digest: digest.FromBytes(data), Size: int64(len(data))}
	sc, err := s.NewScratch(b.Size, WriterOptions{Cache: CacheCheap})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sc.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	if err := sc.Commit(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func treeOf(t *testing.T, files map[string]model.Blob) model.Tree {
	t.Helper()
	var list []model.File
	for p, b := range files {
		list = append(list, model.File{Path: p, Mode: 0o644, Blob: b})
	}
	tree, err := model.NewTree(list)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// link builds views as package view does, for flat trees.
func link(s *Store, tree model.Tree) func(string) error {
	return func(dir string) error {
		for _, f := range tree {
			p, err := s.BlobPath(f)
			if err != nil {
				return err
			}
			if err := os.Link(p, filepath.Join(dir, f.Path)); err != nil {
				return err
			}
		}
		return nil
	}
}

func publish(t *testing.T, s *Store, volume string, files map[string]model.Blob) Lease {
	t.Helper()
	tree := treeOf(t, files)
	unpin := s.Pin(tree.Digest())
	defer unpin()
	if _, err := s.EnsureView(tree, link(s, tree)); err != nil {
		t.Fatal(err)
	}
	l := Lease{VolumeID: volume, Target: "/target/" + volume, View: tree.Digest(), Reference: "r"}
	if err := s.PutLease(l); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestWriter(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, Options{})
	data := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	b := model.Blob{Digest: digest.FromBytes(data), Size: int64(len(data))}
	for _, cache := range []CachePolicy{CacheAll, CacheNone, CacheCheap} {
		w, err := s.NewWriter(b, WriterOptions{Cache: cache})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.NewWriter(b, WriterOptions{}); !errors.Is(err, model.ErrConflict) {
			t.Fatalf("second writer: %v", err)
		}
		if _, err := w.WriteAt(data[8192:], 8192); err != nil {
			t.Fatal(err)
		}
		if s.Has(b) {
			t.Fatal("an unfinished blob is visible")
		}
		if _, err := w.WriteAt(data[:8192], 0); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Commit(), w.Close()); err != nil {
			t.Fatal(err)
		}
		f, err := s.OpenBlob(b.Digest)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close()); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("cache %v: read back %d bytes, %v", cache, len(got), err)
		}
		info, err := os.Stat(s.blobPath(b.Digest))
		if err != nil || info.Mode() != blobMode {
			t.Fatalf("mode %v, %v", info.Mode(), err)
		}
		if _, err := s.Evict(t.Context(), Everything); err != nil {
			t.Fatal(err)
		}
		if s.Has(b) {
			t.Fatal("an unused blob survived the eviction of everything")
		}
	}
}

func TestWriterResumes(t *testing.T) {
	root := t.TempDir()
	s, err := Open(root, Options{Policy: roomy})
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 1<<20)
	b := model.Blob{Digest: digest.FromBytes(data), Size: int64(len(data))}
	lost := model.Blob{Digest: digest.FromString("lost"), Size: 4}
	w, err := s.NewWriter(b, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(data[:4096], 0); err != nil {
		t.Fatal(err)
	}
	if err := w.Checkpoint(4096, []byte("state")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewWriter(lost, WriterOptions{}); err != nil {
		t.Fatal(err)
	}
	// The process dies: nothing is closed but what the kernel closes.
	if err := s.lock.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, root, Options{})
	w, err = again.NewWriter(b, WriterOptions{Cache: CacheNone})
	if err != nil {
		t.Fatal(err)
	}
	if offset, state := w.Resume(); offset != 4096 || string(state) != "state" {
		t.Fatalf("resumes at %d with %q", offset, state)
	}
	if got := again.Unfinished(lost, ""); got != 0 {
		t.Errorf("a blob without a checkpoint kept %d bytes", got)
	}
	if err := w.Discard(); err != nil {
		t.Fatal(err)
	}
	if w, err = again.NewWriter(b, WriterOptions{}); err != nil {
		t.Fatal(err)
	}
	if offset, _ := w.Resume(); offset != 0 {
		t.Errorf("a discarded blob resumes at %d", offset)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, damage := range []string{"{", `{"offset":99999999999}`, ""} {
		part := again.partPath(b, "")
		if err := errors.Join(os.WriteFile(part, nil, 0o600), os.WriteFile(part+checkpointSuffix, []byte(damage), 0o600)); err != nil {
			t.Fatal(err)
		}
		if w, err = again.NewWriter(b, WriterOptions{}); err != nil {
			t.Fatal(err)
		}
		if offset, _ := w.Resume(); offset != 0 {
			t.Errorf("checkpoint %q resumes at %d", damage, offset)
		}
		if err := w.Discard(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWriterForgetsStaleCheckpoints has a checkpoint whose file is not what it describes. It must not come back.
func TestWriterForgetsStaleCheckpoints(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	b := model.Blob{Digest: digest.FromString("x"), Size: 8192}
	begin := func() *Writer {
		w, err := s.NewWriter(b, WriterOptions{Origin: "a"})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	w := begin()
	if _, err := w.WriteAt(make([]byte, 4096), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Checkpoint(4096, []byte("state")), w.Close()); err != nil {
		t.Fatal(err)
	}
	if other, err := s.NewWriter(b, WriterOptions{Origin: "b"}); err != nil {
		t.Fatal(err)
	} else if offset, _ := other.Resume(); offset != 0 {
		t.Errorf("the bytes of one origin are resumed by another at %d", offset)
	} else if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.partPath(b, "a"), 100); err != nil {
		t.Fatal(err)
	}
	w = begin()
	if offset, _ := w.Resume(); offset != 0 {
		t.Fatalf("a short file resumes at %d", offset)
	}
	if _, err := w.WriteAt(bytes.Repeat([]byte{1}, 8192), 0); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w = begin()
	if offset, _ := w.Resume(); offset != 0 {
		t.Fatalf("the stale checkpoint is back, at %d", offset)
	}
	if err := w.Discard(); err != nil {
		t.Fatal(err)
	}
}

func TestLock(t *testing.T) {
	root := filepath.Join(t.TempDir(), "deep", "root")
	first, err := Open(root, Options{})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(root)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("root: %v, %v", info.Mode(), err)
	}
	_, err = Open(root, Options{})
	if !errors.Is(err, model.ErrConflict) || !bytes.Contains([]byte(err.Error()), fmt.Appendf(nil, "process %d on ", os.Getpid())) {
		t.Fatalf("second holder: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, root, Options{})
	if _, err := Open("relative", Options{}); !errors.Is(err, model.ErrInvalid) {
		t.Fatalf("relative root: %v", err)
	}
}

func TestLeases(t *testing.T) {
	root := t.TempDir()
	s, err := Open(root, Options{Policy: roomy})
	if err != nil {
		t.Fatal(err)
	}
	a := publish(t, s, "../../escape", map[string]model.Blob{"f": put(t, s, []byte("a"))})
	second := a
	second.Target = "/other"
	if err := s.PutLease(second); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("leases", "damaged.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, root, Options{})
	if got := s.Leases(); len(got) != 2 || got[0].VolumeID != a.VolumeID || got[1].VolumeID != a.VolumeID {
		t.Fatalf("leases after a restart: %+v", s.Leases())
	}
	for range 2 {
		if err := s.DropLease(a.VolumeID, a.Target); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := s.Lease(a.VolumeID, a.Target); ok || len(s.Leases()) != 1 {
		t.Fatalf("leases after the drop: %+v", s.Leases())
	}
	if err := s.PutLease(Lease{}); !errors.Is(err, model.ErrInvalid) {
		t.Fatalf("empty lease: %v", err)
	}
}

func TestEvictionOrder(t *testing.T) {
	now := time.Now()
	s := open(t, t.TempDir(), Options{Now: func() time.Time { now = now.Add(time.Second); return now }})
	shared := put(t, s, []byte("shared"))
	leased := publish(t, s, "leased", map[string]model.Blob{"s": shared, "own": put(t, s, []byte("leased"))})
	old := publish(t, s, "old", map[string]model.Blob{"s": shared, "own": put(t, s, []byte("old"))})
	young := publish(t, s, "young", map[string]model.Blob{"own": put(t, s, []byte("young"))})
	for _, l := range []Lease{old, young} {
		if err := s.DropLease(l.VolumeID, l.Target); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Evict(t.Context(), Room{Bytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	if got.Views != 1 || got.Blobs != 1 || s.HasView(old.View) || !s.HasView(young.View) {
		t.Fatalf("first eviction: %+v", got)
	}
	if !s.Has(shared) {
		t.Fatal("a blob that another view shows was evicted")
	}
	unpin := s.Pin(young.View)
	if got, err = s.Evict(t.Context(), Everything); err != nil || got != (Evicted{}) {
		t.Fatalf("with a pin: %+v, %v", got, err)
	}
	unpin()
	unpin() // a second call does nothing
	if got, err = s.Evict(t.Context(), Everything); err != nil || got.Views != 1 || !s.HasView(leased.View) {
		t.Fatalf("last eviction: %+v, %v", got, err)
	}
	u, err := s.Usage()
	if err != nil || u.Blobs != 2 || u.Views != 1 || u.Leases != 1 {
		t.Fatalf("usage: %+v, %v", u, err)
	}
}

func TestEvictionSparesMounts(t *testing.T) {
	var mounted map[digest.Digest]bool
	var broken error
	s := open(t, t.TempDir(), Options{InUse: func() (map[digest.Digest]bool, error) { return mounted, broken }})
	l := publish(t, s, "v", map[string]model.Blob{"f": put(t, s, []byte("x"))})
	if err := s.DropLease(l.VolumeID, l.Target); err != nil {
		t.Fatal(err)
	}
	mounted = map[digest.Digest]bool{l.View: true}
	if got, err := s.Evict(t.Context(), Everything); err != nil || got.Views != 0 {
		t.Fatalf("mounted: %+v, %v", got, err)
	}
	broken = errors.New("no mountinfo")
	if _, err := s.Evict(t.Context(), Everything); !errors.Is(err, broken) {
		t.Fatalf("unknown mounts: %v", err)
	}
	mounted, broken = nil, nil
	if got, err := s.Evict(t.Context(), Everything); err != nil || got.Views != 1 {
		t.Fatalf("unmounted: %+v, %v", got, err)
	}
}

// TestEvictionAgainstPublish proves that what somebody pinned and then found is still there when it is leased.
func TestEvictionAgainstPublish(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	ctx, cancel := context.WithCancel(t.Context())
	var evictor, publishers sync.WaitGroup
	evictor.Go(func() {
		for ctx.Err() == nil {
			if _, err := s.Evict(ctx, Everything); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for worker := range 4 {
		publishers.Go(func() {
			for i := range 60 {
				data := fmt.Appendf(nil, "content %d", (worker+i)%5)
				b := model.Blob{Digest: digest.FromBytes(data), Size: int64(len(data))}
				tree := treeOf(t, map[string]model.Blob{"f": b})
				unpin := s.Pin(b.Digest, tree.Digest())
				if !s.Has(b) {
					put(t, s, data)
				}
				path, err := s.EnsureView(tree, link(s, tree))
				if err != nil {
					t.Error(err)
				}
				l := Lease{VolumeID: fmt.Sprint(worker), Target: "/t", View: tree.Digest()}
				if err := s.PutLease(l); err != nil {
					t.Error(err)
				}
				unpin()
				if got, err := os.ReadFile(filepath.Join(path, "f")); err != nil || !bytes.Equal(got, data) {
					t.Errorf("leased view: %q, %v", got, err)
				}
				if err := s.DropLease(l.VolumeID, l.Target); err != nil {
					t.Error(err)
				}
			}
		})
	}
	publishers.Wait()
	cancel()
	evictor.Wait()
}

func TestExecutableTwin(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	b := put(t, s, []byte("#!/bin/sh\n"))
	plain := model.File{Path: "a", Mode: 0o444, Blob: b}
	runnable := model.File{Path: "b", Mode: 0o555, Blob: b}
	for f, mode := range map[model.File]os.FileMode{plain: 0o444, runnable: 0o555} {
		p, err := s.BlobPath(f)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(p)
		if err != nil || info.Mode() != mode || info.Size() != b.Size {
			t.Errorf("%s: %v, %v", f.Path, info, err)
		}
	}
	if got, err := s.Evict(t.Context(), Everything); err != nil || got.Blobs != 2 {
		t.Fatalf("evicted %+v, %v", got, err)
	}
}

func TestRecords(t *testing.T) {
	root := t.TempDir()
	s := open(t, root, Options{})
	type fact struct{ A int }
	if err := s.PutRecord("tags", "../name\x00", fact{7}); err != nil {
		t.Fatal(err)
	}
	var got fact
	if !s.Record("tags", "../name\x00", &got) || got.A != 7 {
		t.Fatalf("record %+v", got)
	}
	if s.Record("tags", "other", &got) {
		t.Fatal("a record that nobody put")
	}
	if err := os.WriteFile(s.recordFile("tags", "../name\x00"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if s.Record("tags", "../name\x00", &got) {
		t.Fatal("a damaged record counts")
	}
	if err := errors.Join(s.DropRecord("tags", "../name\x00"), s.DropRecord("tags", "none")); err != nil {
		t.Fatal(err)
	}
}

func TestQuarantine(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	bad, good := put(t, s, []byte("bad")), put(t, s, []byte("good"))
	shows := publish(t, s, "shows", map[string]model.Blob{"bad": bad, "good": good})
	other := publish(t, s, "other", map[string]model.Blob{"good": good})
	if err := s.Quarantine(bad.Digest); err != nil {
		t.Fatal(err)
	}
	if s.Has(bad) || s.HasView(shows.View) || !s.Has(good) || !s.HasView(other.View) {
		t.Fatal("the wrong things were taken away")
	}
}

// TestSmallDisk runs on a filesystem that is really full.
func TestSmallDisk(t *testing.T) {
	root := smallFilesystem(t, 32<<20)
	s := open(t, filepath.Join(root, "state"), Options{Policy: Policy{ReserveBytes: 4 << 20}})
	reserve := func(n int64) (*Reservation, error) { return s.Reserve(t.Context(), Room{Bytes: n}) }
	first, err := reserve(8 << 20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reserve(20 << 20); !errors.Is(err, model.ErrNoSpace) {
		t.Fatalf("more than there is beside what is promised: %v", err)
	}
	huge := model.Blob{Digest: digest.FromString("huge"), Size: 1 << 30}
	if _, err := s.NewWriter(huge, WriterOptions{}); !errors.Is(err, model.ErrNoSpace) {
		t.Fatalf("allocation: %v", err)
	}
	if s.Unfinished(huge, "") != 0 {
		t.Fatal("the failed allocation left a file")
	}
	cached := publish(t, s, "cached", map[string]model.Blob{"f": put(t, s, make([]byte, 12<<20))})
	if err := s.DropLease(cached.VolumeID, cached.Target); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{1 << 40, math.MaxInt64} {
		if _, err := reserve(n); !errors.Is(err, model.ErrNoSpace) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if !s.HasView(cached.View) {
		t.Fatal("a model that cannot fit cost another one its place")
	}
	second, err := reserve(10 << 20)
	if err != nil {
		t.Fatalf("what nobody uses was not evicted for it: %v", err)
	}
	if s.HasView(cached.View) {
		t.Fatal("the unused view is still there")
	}
	// What was promised and then taken is not counted twice.
	taken := publish(t, s, "taken", map[string]model.Blob{"f": put(t, s, make([]byte, 8<<20))})
	if err := s.DropLease(taken.VolumeID, taken.Target); err != nil {
		t.Fatal(err)
	}
	first.Spend(Room{Bytes: 8 << 20})
	if got, err := s.Relieve(t.Context()); err != nil || got != (Evicted{}) {
		t.Fatalf("evicted %+v, %v", got, err)
	}
	first.Release()
	second.Release()
	if s.reserved != (Room{}) {
		t.Fatalf("%+v stay reserved", s.reserved)
	}
}

// TestNoInodes runs on a filesystem whose inodes run out before its bytes.
func TestNoInodes(t *testing.T) {
	root := smallFilesystem(t, 32<<20, "-N", "128")
	s := open(t, filepath.Join(root, "state"), Options{})
	if _, err := s.Reserve(t.Context(), Room{Bytes: 300, Inodes: 300}); !errors.Is(err, model.ErrNoSpace) {
		t.Fatalf("more inodes than there are: %v", err)
	}
	cached := publish(t, s, "cached", map[string]model.Blob{"f": put(t, s, []byte("cached"))})
	for i := 0; ; i++ {
		sc, err := s.NewScratch(0, WriterOptions{})
		if errors.Is(err, model.ErrNoSpace) {
			break
		}
		if err != nil || i > 200 {
			t.Fatalf("file %d: %v", i, err)
		}
		data := fmt.Appendf(nil, "file %d", i)
		_, err = sc.WriteAt(data, 0)
		if err := errors.Join(err, sc.Commit(model.Blob{Digest: digest.FromBytes(data), Size: int64(len(data))})); err != nil {
			t.Fatal(err)
		}
	}
	second := cached
	second.Target = "/second"
	if err := s.PutLease(second); err != nil {
		t.Fatalf("no lease for a cached model while unused files could go: %v", err)
	}
}

func smallFilesystem(t *testing.T, size int64, options ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	return mountLoop(t, image, options...)
}
