// Package sourcetest is the conformance suite of source.Source. Every implementation, fakes included, passes it.
package sourcetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
)

// Fixture is a source with one model in it.
type Fixture struct {
	Source source.Source
	// Ref names the model as a user would, without a digest.
	Ref model.Ref
	// Cred may read it.
	Cred model.Credential
	// Want is the selection to resolve for.
	Want model.Selection
	// Blob of the model with at least 16 bytes, and its content.
	Blob    model.Blob
	Content []byte
}

// Run tests what the contracts of source.Source and source.Repository promise.
func Run(t *testing.T, f Fixture) {
	t.Helper()
	if len(f.Content) < 16 || f.Blob.Size != int64(len(f.Content)) || f.Blob.Digest.Algorithm().FromBytes(f.Content) != f.Blob.Digest {
		t.Fatal("the fixture's blob does not describe its content")
	}
	t.Run("resolve", f.resolve)
	t.Run("missing", f.missing)
	t.Run("ranges", f.ranges)
	t.Run("bad ranges", f.badRanges)
	t.Run("cancelled", f.cancelled)
}

func (f Fixture) open(t *testing.T, ref model.Ref) source.Repository {
	t.Helper()
	repo, err := f.Source.Repository(ref, f.Cred)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

func (f Fixture) resolve(t *testing.T) {
	snap, err := f.open(t, f.Ref).Resolve(t.Context(), f.Want)
	if err != nil {
		t.Fatal(err)
	}
	if got := snap.Digest.Algorithm().FromBytes(snap.Manifest); got != snap.Digest {
		t.Errorf("the snapshot says %s and its manifest has the digest %s", snap.Digest, got)
	}
	if snap.MediaType == "" {
		t.Error("the snapshot has no media type")
	}
	again, err := f.open(t, f.Ref.Pinned(snap.Digest)).Resolve(t.Context(), f.Want)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest != snap.Digest || !bytes.Equal(again.Manifest, snap.Manifest) || !bytes.Equal(again.Config, snap.Config) {
		t.Error("the pinned reference resolves to something else")
	}
	if err := f.open(t, f.Ref).Check(t.Context(), snap.Digest); err != nil {
		t.Errorf("Check of the resolved manifest: %v", err)
	}
	recalled := f.open(t, f.Ref)
	source.Recall(recalled, snap)
	if err := recalled.Check(t.Context(), snap.Digest); err != nil {
		t.Errorf("Check of the recalled manifest: %v", err)
	}
}

func (f Fixture) missing(t *testing.T) {
	absent := digest.FromString("no such thing")
	if _, err := f.open(t, f.Ref.Pinned(absent)).Resolve(t.Context(), f.Want); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("Resolve of an absent manifest: %v", err)
	}
	if err := f.open(t, f.Ref).Check(t.Context(), absent); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("Check of an absent manifest: %v", err)
	}
	body, err := f.open(t, f.Ref).ReadRange(t.Context(), model.Blob{Digest: absent, Size: 100}, 0, 10)
	if !errors.Is(err, model.ErrNotFound) {
		t.Errorf("ReadRange of an absent blob: %v", err)
	}
	if err == nil {
		_ = body.Close()
	}
}

func (f Fixture) ranges(t *testing.T) {
	size := f.Blob.Size
	repo := f.open(t, f.Ref)
	for _, w := range []struct{ offset, length int64 }{
		{0, -1}, {0, size}, {0, 1}, {0, 0}, {3, 5}, {3, -1}, {size - 1, 1}, {size - 1, -1}, {size, 0}, {size, -1},
	} {
		body, err := repo.ReadRange(t.Context(), f.Blob, w.offset, w.length)
		if err != nil {
			t.Errorf("%d bytes from %d: %v", w.length, w.offset, err)
			continue
		}
		got, err := io.ReadAll(body)
		if cerr := body.Close(); err != nil || cerr != nil {
			t.Errorf("%d bytes from %d: %v, %v", w.length, w.offset, err, cerr)
			continue
		}
		want := f.Content[w.offset:]
		if w.length >= 0 {
			want = want[:w.length]
		}
		if body.Offset == 0 && w.offset != 0 && w.length != 0 {
			want = f.Content // the server sends the whole blob instead
		} else if body.Offset != w.offset {
			t.Errorf("%d bytes from %d: the body begins at %d", w.length, w.offset, body.Offset)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes from %d: got %d bytes, want %d", w.length, w.offset, len(got), len(want))
		}
		if body.Length >= 0 && body.Length != int64(len(want)) {
			t.Errorf("%d bytes from %d: Length says %d", w.length, w.offset, body.Length)
		}
	}
}

func (f Fixture) badRanges(t *testing.T) {
	repo := f.open(t, f.Ref)
	for _, w := range []struct{ offset, length int64 }{{-1, 1}, {0, -2}, {0, f.Blob.Size + 1}, {f.Blob.Size + 1, -1}} {
		if _, err := repo.ReadRange(t.Context(), f.Blob, w.offset, w.length); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("%d bytes from %d: %v", w.length, w.offset, err)
		}
	}
	if _, err := repo.ReadRange(t.Context(), model.Blob{Digest: "md5:00", Size: 1}, 0, 1); !errors.Is(err, model.ErrInvalid) {
		t.Errorf("digest that is none: %v", err)
	}
}

func (f Fixture) cancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	repo := f.open(t, f.Ref)
	if _, err := repo.Resolve(ctx, f.Want); !errors.Is(err, context.Canceled) {
		t.Errorf("Resolve: %v", err)
	}
	if _, err := repo.ReadRange(ctx, f.Blob, 0, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("ReadRange: %v", err)
	}
}
