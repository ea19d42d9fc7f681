package store

import (
	"context"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// Reservation is room that is promised to a pull. It shrinks as the pull takes the room from the filesystem, so that
// nothing is counted twice. It is safe for concurrent use.
type Reservation struct {
	store *Store

	mu   sync.Mutex // guards left
	left Room
}

// Spend says that room of the reservation was taken from the filesystem, or turned out not to be needed.
func (r *Reservation) Spend(room Room) {
	r.mu.Lock()
	defer r.mu.Unlock()
	room = Room{Bytes: min(room.Bytes, r.left.Bytes), Inodes: min(room.Inodes, r.left.Inodes)}
	r.left = r.left.Minus(room)
	r.store.mu.Lock()
	r.store.reserved = r.store.reserved.Minus(room)
	r.store.mu.Unlock()
}

// Give moves room of the reservation, up to what is left of it, to another one of the same store.
func (r *Reservation) Give(to *Reservation, room Room) {
	r.mu.Lock()
	room = Room{Bytes: min(room.Bytes, r.left.Bytes), Inodes: min(room.Inodes, r.left.Inodes)}
	r.left = r.left.Minus(room)
	r.mu.Unlock()
	to.mu.Lock()
	to.left = to.left.Plus(room)
	to.mu.Unlock()
}

// Release gives back what is left.
func (r *Reservation) Release() { r.Spend(Everything) }

// Reserve makes sure that the filesystem has the room that is needed above the policy's reserve, evicting what nobody
// uses, and promises it to the caller, who releases it. It fails with model.ErrNoSpace, and then evicts nothing: a
// model that can never fit must not cost the others their place.
func (s *Store) Reserve(ctx context.Context, need Room) (*Reservation, error) {
	if err := s.fits(need); err != nil {
		return nil, err
	}
	s.reserving.Lock() // two that fit only one by one must not refuse each other
	defer s.reserving.Unlock()
	r := &Reservation{store: s, left: need}
	s.mu.Lock()
	s.reserved = s.reserved.Plus(need)
	s.mu.Unlock()
	if _, err := s.Relieve(ctx); err != nil {
		s.log.Warn("eviction incomplete", "error", err) // what counts is the room that there is now
	}
	if err := s.granted(need); err != nil {
		r.Release()
		return nil, err
	}
	return r, nil
}

// fits fails when the need exceeds what is free and what eviction could free.
func (s *Store) fits(need Room) error {
	free, total, err := s.space()
	if err != nil {
		return err
	}
	if limit := s.opts.Policy.MaxBytes; limit > 0 && need.Bytes > limit {
		return fmt.Errorf("the model needs %s and the cache may take %s (cache-limit): %w", bytesText(need.Bytes), bytesText(limit), model.ErrNoSpace)
	}
	kept := s.opts.Policy.reserve(total)
	s.mu.Lock()
	wanted := need.Plus(s.reserved).Plus(kept)
	s.mu.Unlock()
	if free.covers(wanted) {
		return nil
	}
	unused, err := s.unused()
	if err != nil {
		return err
	}
	if free.Plus(unused).covers(wanted) {
		return nil
	}
	return s.noSpace(need, wanted, free, total, unused)
}

// granted looks whether what was promised is really there after the eviction.
func (s *Store) granted(need Room) error {
	free, total, err := s.space()
	if err != nil {
		return err
	}
	s.mu.Lock()
	promised := s.reserved
	s.mu.Unlock()
	if limit := s.opts.Policy.MaxBytes; limit > 0 {
		u, err := s.Usage()
		if err != nil {
			return err
		}
		if used := u.BlobBytes + u.Unfinished; add(used, promised.Bytes) > limit {
			return fmt.Errorf("the model needs %s more, the cache holds %s that are in use or promised, and may take %s (cache-limit): %w",
				bytesText(need.Bytes), bytesText(used), bytesText(limit), model.ErrNoSpace)
		}
	}
	wanted := promised.Plus(s.opts.Policy.reserve(total))
	if free.covers(wanted) {
		return nil
	}
	return s.noSpace(need, wanted, free, total, Room{})
}

// noSpace says what is missing: bytes, or inodes if there are bytes enough for all that is wanted.
func (s *Store) noSpace(need, wanted, free, total, unused Room) error {
	kept := s.opts.Policy.reserve(total)
	if free.Bytes+unused.Bytes < wanted.Bytes {
		return fmt.Errorf("the model needs %s more; of %s on the node's filesystem %s are free, of which %s are kept in reserve (cache-reserve), and %s could be evicted; others may be pulling, too: %w",
			bytesText(need.Bytes), bytesText(total.Bytes), bytesText(free.Bytes), bytesText(kept.Bytes), bytesText(unused.Bytes), model.ErrNoSpace)
	}
	return fmt.Errorf("the model needs %d more inodes; of %d on the node's filesystem %d are free, of which %d are kept in reserve, and %d could be evicted: %w",
		need.Inodes, total.Inodes, free.Inodes, kept.Inodes, unused.Inodes, model.ErrNoSpace)
}

// unused is what an eviction of everything could free now.
func (s *Store) unused() (Room, error) {
	inv, err := s.scan()
	if err != nil {
		return Room{}, err
	}
	mounted, err := s.mounted()
	if err != nil {
		return Room{}, err
	}
	s.mu.Lock()
	inUse := make(map[digest.Digest]bool, len(s.pins))
	for d := range s.pins {
		inUse[d] = true
	}
	for _, l := range s.leases {
		inUse[l.View] = true
	}
	writing := make(map[string]bool, len(s.writers))
	for p := range s.writers {
		writing[p] = true
	}
	s.mu.Unlock()

	shown := make(map[uint64]bool)
	for _, v := range inv.views {
		if !mounted[v.tree] && !inUse[v.tree] {
			continue
		}
		inodes, err := viewInodes(v.path)
		if err != nil {
			return Room{}, err
		}
		for _, ino := range inodes {
			shown[ino] = true
		}
	}
	var room Room
	for _, b := range inv.blobs {
		if !shown[b.inode] && !inUse[b.digest] {
			room = room.Plus(Room{Bytes: b.bytes, Inodes: 1})
		}
	}
	for _, p := range inv.parts {
		if !writing[p.path] {
			room = room.Plus(Room{Bytes: p.bytes, Inodes: 1})
		}
	}
	return room, nil
}
