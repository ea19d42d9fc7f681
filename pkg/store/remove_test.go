package store

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// putText commits some content and returns its blob.
func putText(t *testing.T, s *Store, content string) model.Blob {
	t.Helper()
	b := model.Blob{Digest: digest.FromString(content), Size: int64(len(content))}
	sc, err := s.NewScratch(b.Size, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sc.WriteAt([]byte(content), 0); err != nil {
		t.Fatal(err)
	}
	if err := sc.Commit(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRemove(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	shared, alone, used := putText(t, s, "shared"), putText(t, s, "alone"), putText(t, s, "used")
	describe := func(reference string, blobs ...model.Blob) model.Tree {
		var files []model.File
		for i, b := range blobs {
			files = append(files, model.File{Path: string(rune('a' + i)), Blob: b})
		}
		tree, err := model.NewTree(files)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Describe(reference, digest.FromString(reference), "modelpack", tree); err != nil {
			t.Fatal(err)
		}
		return tree
	}
	going := describe("r.example/going:v1", shared, alone)
	describe("r.example/staying:v1", shared)
	leased := describe("r.example/leased:v1", used)
	if err := s.PutLease(Lease{VolumeID: "csi-1", Target: "/t", View: leased.Digest()}); err != nil {
		t.Fatal(err)
	}
	unpin := s.Pin(used.Digest) // as the publish that wrote the lease did
	e, err := s.Remove(t.Context(), []digest.Digest{going.Digest(), leased.Digest()})
	if err != nil || e.Blobs != 1 {
		t.Errorf("removed %+v, %v", e, err)
	}
	unpin()
	for b, want := range map[model.Blob]bool{shared: true, alone: false, used: true} {
		if s.Has(b) != want {
			t.Errorf("blob of %d bytes is there: %v", b.Size, !want)
		}
	}
	models, err := s.Models()
	if err != nil || len(models) != 2 {
		t.Errorf("left: %+v, %v", models, err)
	}
}
