package pull

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/store"
)

// A manifest may name any digest. Whoever may read a manifest may therefore not simply have every cached blob that it
// names: an artifact in a registry of the attacker's own could name the layers of somebody's private model. A cached
// blob is given out for a repository only if it came from that repository. For another repository of the same registry
// it is enough that the registry, which is trusted to know what its repositories hold, opens the blob there. Another
// registry has to deliver the whole blob once: short of that, somebody who has a similar file could answer for it.

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

// saw remembers a layer. What was costly to see is written down at once, the rest by add.
func (h *holdings) saw(j *job, l format.Layer) error {
	h.mu.Lock()
	h.recent[j.heldLayer(l)] = true
	h.mu.Unlock()
	if l.Blob.Size < smallLayer {
		return nil
	}
	return h.add(j, []format.Layer{l})
}

// elsewhere reports whether another repository of the layer's registry was seen to hold it.
func (h *holdings) elsewhere(j *job, l format.Layer) bool {
	return slices.Contains(h.read(registryRecord(j, l)), l.Blob.Digest)
}

// registryRecord names the record of what a whole registry was seen to hold. No repository has such a name.
func registryRecord(j *job, l format.Layer) string { return j.origins[l.Origin].ref.Authority() + "/" }

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
	return len(h.missing(j, j.needed())) == 0
}

// add writes down that the layers' repositories hold them.
func (h *holdings) add(j *job, layers []format.Layer) error {
	h.writing.Lock()
	defer h.writing.Unlock()
	byName := make(map[string]map[digest.Digest]bool)
	for _, l := range layers {
		for _, name := range []string{j.repositoryOf(l), registryRecord(j, l)} {
			if byName[name] == nil {
				byName[name] = make(map[digest.Digest]bool)
			}
			byName[name][l.Blob.Digest] = true
		}
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

// probeTimeout is how long the registry may take to open a blob.
const probeTimeout = time.Minute

// proveHeld proves that the layer's repository holds a blob that is in the store already.
func (p *Puller) proveHeld(ctx context.Context, j *job, l format.Layer) error {
	if p.held.elsewhere(j, l) {
		return p.probe(ctx, j, l)
	}
	if unpacked(l) {
		return p.transfer(ctx, j, l)
	}
	moved := p.running.counter(l)
	defer p.running.forget(l.Blob)
	return p.opts.Engine.File(ctx, p.work(j, l, moved), verified{})
}

// probe asks the registry to open the blob in the layer's repository.
func (p *Puller) probe(ctx context.Context, j *job, l format.Layer) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	body, err := j.origins[l.Origin].repository.ReadRange(ctx, l.Blob, 0, min(1, l.Blob.Size))
	if err != nil {
		return err
	}
	return body.Close()
}

// verified is an ingest.File that keeps nothing: the engine has looked at every byte.
type verified struct{}

func (verified) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (verified) Resume() (int64, []byte)                { return 0, nil }
func (verified) Checkpoint(int64, []byte) error         { return nil }
func (verified) Commit() error                          { return nil }
