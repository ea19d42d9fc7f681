package pull

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/store"
)

// A manifest may name any digest. Whoever may read a manifest may therefore not simply have every cached blob that it
// names: an artifact in a registry of the attacker's own could name the layers of somebody's private model. A cached
// blob is given out for a repository only if it came from that repository, or if the repository has shown that it holds
// the bytes, by delivering parts of them that nobody knows beforehand which will be asked for.

// holdings remembers which layers each repository was seen to hold.
type holdings struct {
	store *store.Store

	writing sync.Mutex // one change of a record at a time

	mu     sync.Mutex // guards recent
	recent map[heldLayer]bool
}

const (
	heldKind = "held"
	// maxHeld bounds the record of one repository; beyond it the oldest knowledge is dropped and proven again.
	maxHeld = 20_000
)

// heldLayer is a layer in a repository.
type heldLayer struct {
	repository string
	digest     digest.Digest
}

func (j *job) heldLayer(l format.Layer) heldLayer { return heldLayer{j.repositoryOf(l), l.Blob.Digest} }

// saw remembers a layer until add writes it down.
func (h *holdings) saw(j *job, l format.Layer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recent[j.heldLayer(l)] = true
}

func (h *holdings) read(repository string) []digest.Digest {
	var list []digest.Digest
	h.store.Record(heldKind, repository, &list)
	return list
}

// missing lists those of the layers that their repository was not seen to hold.
func (h *holdings) missing(j *job, layers []format.Layer) []format.Layer {
	known := make(map[string]map[digest.Digest]bool)
	var out []format.Layer
	for _, l := range layers {
		want := j.heldLayer(l)
		h.mu.Lock()
		recent := h.recent[want]
		h.mu.Unlock()
		if recent {
			continue
		}
		name := want.repository
		if known[name] == nil {
			known[name] = make(map[digest.Digest]bool)
			for _, d := range h.read(name) {
				known[name][d] = true
			}
		}
		if !known[name][want.digest] {
			out = append(out, l)
		}
	}
	return out
}

// all reports whether every layer that the job needs was seen in its repository.
func (h *holdings) all(j *job) bool {
	return len(h.missing(j, j.plan.Needed(j.keep.keep))) == 0
}

// add writes down that the layers' repositories hold them.
func (h *holdings) add(j *job, layers []format.Layer) error {
	h.writing.Lock()
	defer h.writing.Unlock()
	byName := make(map[string]map[digest.Digest]bool)
	for _, l := range layers {
		held := j.heldLayer(l)
		if byName[held.repository] == nil {
			byName[held.repository] = make(map[digest.Digest]bool)
		}
		byName[held.repository][held.digest] = true
	}
	for name, seen := range byName {
		list := h.read(name)
		for _, d := range list {
			delete(seen, d)
		}
		if len(seen) > 0 {
			list = append(list, slices.Sorted(maps.Keys(seen))...)
			if err := h.store.PutRecord(heldKind, name, list[max(0, len(list)-maxHeld):]); err != nil {
				return err
			}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range layers {
		delete(h.recent, j.heldLayer(l))
	}
	return nil
}

const (
	// windows of windowSize bytes at random places are asked for. They must have at least windowVariety different byte
	// values: one that is all zeros could be guessed.
	windows       = 4
	windowSize    = 4 << 10
	windowVariety = 48
	windowTries   = 64
	// smallBlob in bytes is compared whole.
	smallBlob = windows * windowSize
)

// challenge proves that the layer's repository holds the bytes of a blob that is in the store. It fails with
// model.ErrCorrupt when the repository delivers other bytes.
func (p *Puller) challenge(ctx context.Context, j *job, l format.Layer) error {
	f, err := p.opts.Store.OpenBlob(l.Blob.Digest)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	repository := j.origins[l.Origin].repository
	ranges := []window{{0, l.Blob.Size}}
	if l.Blob.Size > smallBlob {
		if ranges, err = pickWindows(f, l.Blob.Size); err != nil {
			return err
		}
	}
	for _, w := range ranges {
		same, err := p.sameBytes(ctx, repository, l.Blob, f, w)
		if err != nil {
			return err
		}
		if !same {
			return fmt.Errorf("blob %s: the repository %s does not deliver the bytes that its manifest names: %w",
				l.Blob.Digest, j.origins[l.Origin].ref.Name(), model.ErrCorrupt)
		}
	}
	return nil
}

// window is a part of a blob.
type window struct{ offset, length int64 }

// pickWindows chooses places that cannot be guessed. A blob that has none, because it is as good as empty everywhere, is
// compared whole.
func pickWindows(r io.ReaderAt, size int64) ([]window, error) {
	var out []window
	buf := make([]byte, windowSize)
	for range windowTries {
		w := window{rand.Int64N(size - windowSize + 1), windowSize} //nolint:gosec // seeded from the system for each process
		if _, err := r.ReadAt(buf, w.offset); err != nil {
			return nil, err
		}
		var seen [256]bool
		variety := 0
		for _, b := range buf {
			if !seen[b] {
				seen[b] = true
				variety++
			}
		}
		if variety < windowVariety {
			continue
		}
		if out = append(out, w); len(out) == windows {
			return out, nil
		}
	}
	return []window{{0, size}}, nil
}

// sameBytes compares a part of the blob as the repository delivers it with the file.
func (p *Puller) sameBytes(ctx context.Context, repository source.Repository, b model.Blob, f io.ReaderAt, w window) (bool, error) {
	if b.Size == 0 {
		w = window{0, -1}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, err := repository.ReadRange(ctx, b, w.offset, w.length)
	if err != nil {
		return false, err
	}
	defer func() { _ = body.Close() }()
	if body.Offset > w.offset {
		return false, fmt.Errorf("blob %s: %w", b.Digest, source.ErrRange)
	}
	// A server without ranges sends the whole blob: what comes before the window is compared as well.
	const piece = 256 << 10
	theirs, ours := make([]byte, piece), make([]byte, piece)
	for at, end := body.Offset, w.offset+max(w.length, 0); at < end; {
		n := int(min(piece, end-at))
		if _, err := io.ReadFull(body, theirs[:n]); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return false, nil
			}
			return false, err
		}
		if _, err := f.ReadAt(ours[:n], at); err != nil {
			return false, err
		}
		if !bytes.Equal(theirs[:n], ours[:n]) {
			return false, nil
		}
		at += int64(n)
	}
	return true, nil
}
