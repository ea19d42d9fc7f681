package store

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
)

// Remove takes models away, by the digests of their trees: the views that nobody uses, and the blobs that no other model
// which is there needs. What is leased, mounted or pinned stays. It returns what was freed.
func (s *Store) Remove(ctx context.Context, trees []digest.Digest) (Evicted, error) {
	s.evicting.Lock()
	defer s.evicting.Unlock()
	var out Evicted
	inv, err := s.scan()
	if err != nil {
		return out, err
	}
	mounted, err := s.mounted()
	if err != nil {
		return out, err
	}
	models, err := s.Models()
	if err != nil {
		return out, err
	}
	going := make(map[digest.Digest]bool, len(trees))
	for _, t := range trees {
		going[t] = true
	}
	needed := make(map[digest.Digest]bool) // by models that stay
	for _, m := range models {
		var r modelRecord
		if !going[m.Tree] && s.Record(modelsKind, m.Tree.String(), &r) {
			for _, b := range r.Blobs {
				needed[b.Digest] = true
			}
		}
	}
	byInode := make(map[uint64]blobInfo, len(inv.blobs))
	byDigest := make(map[digest.Digest][]blobInfo, len(inv.blobs))
	for _, b := range inv.blobs {
		if needed[b.digest] {
			continue
		}
		byInode[b.inode] = b
		byDigest[b.digest] = append(byDigest[b.digest], b)
	}
	for i := range inv.views {
		if going[inv.views[i].tree] && ctx.Err() == nil {
			err = errors.Join(err, s.remove(candidate{view: &inv.views[i]}, mounted, byInode, &out))
		}
	}
	for tree := range going {
		err = errors.Join(err, s.removeDescribed(tree, byDigest, &out))
	}
	if out != (Evicted{}) {
		s.log.Info("models removed from the cache", "views", out.Views, "blobs", out.Blobs, "bytes", out.Bytes)
	}
	return out, errors.Join(err, ctx.Err())
}

// removeDescribed removes the blobs of a model that has no view any more, and what is known of it.
func (s *Store) removeDescribed(tree digest.Digest, blobs map[digest.Digest][]blobInfo, out *Evicted) error {
	s.mu.Lock()
	used := s.viewUsed(tree)
	s.mu.Unlock()
	var r modelRecord
	if used || s.HasView(tree) || !s.Record(modelsKind, tree.String(), &r) {
		return nil
	}
	var err error
	for _, b := range r.Blobs {
		for _, at := range blobs[b.Digest] {
			err = errors.Join(err, s.removeBlob(at, out))
		}
	}
	return errors.Join(err, s.DropRecord(modelsKind, tree.String()))
}
