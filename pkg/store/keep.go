package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/internal/atomicfile"
	"github.com/model-csi/model-csi/pkg/model"
)

// Kept is a reference whose model eviction leaves alone, across restarts, until it is given up.
type Kept struct {
	Reference string `json:"reference"`
	// Digest is the manifest that the reference was pinned to.
	Digest digest.Digest `json:"digest"`
	// Tree is the digest of the model's tree, Blobs are what it shows.
	Tree  digest.Digest   `json:"tree"`
	Blobs []digest.Digest `json:"blobs"`
	Bytes int64           `json:"bytes"`
	Since time.Time       `json:"since"`
}

func (s *Store) keptFile(reference string) string { return s.path("kept", hashedName(reference)) }

// Keep makes eviction leave the tree of a reference, and its blobs, alone until GiveUp, also after a restart. What was
// kept under the same reference before is given up. The caller has pinned the blobs and knows that they are there; it is
// durable when Keep returns.
func (s *Store) Keep(reference string, manifest digest.Digest, t model.Tree) error {
	if reference == "" {
		return fmt.Errorf("a reference to keep must be given: %w", model.ErrInvalid)
	}
	k := Kept{Reference: reference, Digest: manifest, Tree: t.Digest(), Since: s.now()}
	for _, b := range t.Blobs() {
		k.Blobs = append(k.Blobs, b.Digest)
		k.Bytes = add(k.Bytes, b.Size)
	}
	data, err := json.Marshal(k)
	if err != nil {
		return err
	}
	err = s.withRoom(func() error { return spaceError(atomicfile.Write(s.keptFile(reference), data)) })
	if err != nil {
		return fmt.Errorf("keep %s: %w", reference, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold(k, 1)
	if before, ok := s.kept[reference]; ok {
		s.hold(before, -1)
	}
	s.kept[reference] = k
	return nil
}

// GiveUp lets eviction have what was kept under the reference, unless something else protects it. It fails with
// model.ErrNotFound when nothing was.
func (s *Store) GiveUp(reference string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, ok := s.kept[reference]
	if !ok {
		return fmt.Errorf("%s is not kept: %w", reference, model.ErrNotFound)
	}
	if err := atomicfile.Remove(s.keptFile(reference)); err != nil {
		return fmt.Errorf("give up %s: %w", reference, err)
	}
	delete(s.kept, reference)
	s.hold(k, -1)
	return nil
}

// Kept lists what is kept, by reference.
func (s *Store) Kept() []Kept {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Kept, 0, len(s.kept))
	for _, k := range s.kept {
		out = append(out, k)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Reference < out[j].Reference })
	return out
}

// hold counts the digests among the pins, or takes them out. The caller holds mu.
func (s *Store) hold(k Kept, by int) {
	for _, d := range append([]digest.Digest{k.Tree}, k.Blobs...) {
		if s.pins[d] += by; s.pins[d] == 0 {
			delete(s.pins, d)
		}
	}
}

// loadKept reads what the process before kept.
func (s *Store) loadKept() error {
	return s.loadFiles("kept", func(path string, data []byte) error {
		var k Kept
		if err := json.Unmarshal(data, &k); err != nil {
			return err
		}
		if path != s.keptFile(k.Reference) {
			return errors.New("it does not have the name of its reference")
		}
		s.kept[k.Reference] = k
		s.hold(k, 1)
		return nil
	})
}
