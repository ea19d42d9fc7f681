package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/internal/atomicfile"
	"github.com/model-csi/model-csi/pkg/model"
)

// inventory is a scan of the cache.
type inventory struct {
	blobs []blobInfo
	parts []blobInfo
	views []viewInfo
}

type blobInfo struct {
	digest digest.Digest // empty for unfinished blobs
	path   string
	inode  uint64
	size   int64 // as its reader sees it
	bytes  int64 // allocated on disk
	links  uint64
	used   time.Time
}

// Relieve evicts as much as the policy asks for, given what is promised to running pulls. It costs one statfs when
// there is nothing to do.
func (s *Store) Relieve(ctx context.Context) (Evicted, error) {
	missing, err := s.missing()
	if err != nil || (Room{}).covers(missing) {
		return Evicted{}, err
	}
	s.evicting.Lock()
	defer s.evicting.Unlock()
	// Whoever held the lock may have made the room.
	if missing, err = s.missing(); err != nil || (Room{}).covers(missing) {
		return Evicted{}, err
	}
	return s.evict(ctx, missing)
}

// missing is what the policy and the promises ask for beyond what is free.
func (s *Store) missing() (Room, error) {
	free, total, err := s.space()
	if err != nil {
		return Room{}, err
	}
	s.mu.Lock()
	reserved := s.reserved
	s.mu.Unlock()
	missing := s.opts.Policy.reserve(total).Plus(reserved).Minus(free)
	if limit := s.opts.Policy.MaxBytes; limit > 0 {
		u, err := s.Usage()
		if err != nil {
			return Room{}, err
		}
		missing.Bytes = max(missing.Bytes, add(u.BlobBytes+u.Unfinished, reserved.Bytes)-limit)
	}
	return missing, nil
}

// withRoom does something small that must not fail for want of space while anything can be evicted for it.
func (s *Store) withRoom(do func() error) error {
	err := do()
	if !errors.Is(err, model.ErrNoSpace) {
		return err
	}
	if _, evictErr := s.Evict(context.Background(), Room{Bytes: 1 << 20, Inodes: minReserveInodes}); evictErr != nil {
		return errors.Join(err, evictErr)
	}
	return do()
}

// Evict removes views that nobody uses, and blobs and unfinished blobs that nothing needs, least recently used first,
// until the wanted room is freed or nothing is left to remove.
func (s *Store) Evict(ctx context.Context, want Room) (Evicted, error) {
	s.evicting.Lock()
	defer s.evicting.Unlock()
	return s.evict(ctx, want)
}

// evict does the work of Evict. The caller holds evicting.
func (s *Store) evict(ctx context.Context, want Room) (Evicted, error) {
	var out Evicted
	inv, err := s.scan()
	if err != nil {
		return out, err
	}
	mounted, err := s.mounted()
	if err != nil {
		return out, err
	}
	byInode := make(map[uint64]blobInfo, len(inv.blobs))
	for _, b := range inv.blobs {
		byInode[b.inode] = b
	}
	var failed error
	for _, c := range evictionOrder(inv) {
		if out.covers(want) || ctx.Err() != nil {
			break
		}
		// One file that cannot be removed must not keep all others.
		failed = errors.Join(failed, s.remove(c, mounted, byInode, &out))
	}
	if out != (Evicted{}) {
		s.log.Info("cache evicted", "views", out.Views, "blobs", out.Blobs, "unfinished", out.Unfinished, "bytes", out.Bytes)
	}
	return out, errors.Join(failed, ctx.Err(), s.dropOldRecords(), s.emptyQuarantine())
}

func (s *Store) mounted() (map[digest.Digest]bool, error) {
	if s.opts.InUse == nil {
		return nil, nil
	}
	mounted, err := s.opts.InUse()
	if err != nil {
		return nil, fmt.Errorf("nothing is evicted while the mounts cannot be listed: %w", err)
	}
	return mounted, nil
}

// candidate is a thing that eviction may remove: exactly one of view and blob is set.
type candidate struct {
	used time.Time
	view *viewInfo
	blob *blobInfo
	part bool
}

// evictionOrder lists what may go, least recently used first. Blobs that a view shows go with their last view.
func evictionOrder(inv inventory) []candidate {
	var out []candidate
	for i := range inv.views {
		out = append(out, candidate{used: inv.views[i].used, view: &inv.views[i]})
	}
	for i := range inv.blobs {
		if inv.blobs[i].links <= 1 {
			out = append(out, candidate{used: inv.blobs[i].used, blob: &inv.blobs[i]})
		}
	}
	for i := range inv.parts {
		out = append(out, candidate{used: inv.parts[i].used, blob: &inv.parts[i], part: true})
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].used.Before(out[j].used) })
	return out
}

func (s *Store) remove(c candidate, mounted map[digest.Digest]bool, byInode map[uint64]blobInfo, out *Evicted) error {
	switch {
	case c.part:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.writers[c.blob.path] {
			return nil
		}
		if err := errors.Join(atomicfile.Remove(c.blob.path+checkpointSuffix), atomicfile.Remove(c.blob.path)); err != nil {
			return err
		}
		delete(s.checkpoints, c.blob.path)
		out.Unfinished++
		out.Bytes += c.blob.bytes
		out.Inodes += 2
		return nil
	case c.blob != nil:
		return s.removeBlob(*c.blob, out)
	}
	inodes, err := s.removeView(*c.view, mounted)
	if err != nil || inodes == nil {
		return err
	}
	out.Views++
	out.Inodes++ // its directory at least
	for _, ino := range inodes {
		if b, ok := byInode[ino]; ok {
			if err := s.removeBlob(b, out); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeView takes a view away unless somebody uses it, and returns the inodes that it showed; nil when it stays.
func (s *Store) removeView(v viewInfo, mounted map[digest.Digest]bool) ([]uint64, error) {
	if mounted[v.tree] {
		return nil, nil
	}
	inodes, err := viewInodes(v.path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	s.mu.Lock()
	used := s.viewUsed(v.tree)
	if !used {
		err = s.trash(v.path)
	}
	s.mu.Unlock()
	if used || err != nil {
		return nil, err
	}
	if inodes == nil {
		inodes = []uint64{}
	}
	return inodes, emptyDir(s.path("trash"))
}

// viewUsed reports whether a lease or a pin holds the view. The caller holds mu.
func (s *Store) viewUsed(tree digest.Digest) bool {
	if s.pins[tree] > 0 {
		return true
	}
	for _, l := range s.leases {
		if l.View == tree {
			return true
		}
	}
	return false
}

func (s *Store) removeBlob(b blobInfo, out *Evicted) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var st unix.Stat_t
	if err := unix.Lstat(b.path, &st); err != nil {
		return nil // it is gone, which is what was wanted
	}
	if s.pins[b.digest] > 0 || st.Nlink > 1 || st.Ino != b.inode {
		return nil
	}
	if err := os.Remove(b.path); err != nil {
		return err
	}
	out.Blobs++
	out.Bytes += b.bytes
	out.Inodes++
	return nil
}

func (s *Store) scan() (inventory, error) {
	var inv inventory
	for _, algorithm := range []string{"sha256", "sha512"} {
		entries, err := os.ReadDir(s.path("blobs", algorithm))
		if err != nil {
			return inv, err
		}
		for _, e := range entries {
			if d, ok := digestOfFile(algorithm, e.Name()); ok {
				if b, ok := statBlob(s.path("blobs", algorithm, e.Name()), d); ok {
					inv.blobs = append(inv.blobs, b)
				}
			}
		}
	}
	parts, err := filepath.Glob(s.path("ingest", "*"+partSuffix))
	if err != nil {
		return inv, err
	}
	for _, p := range parts {
		if b, ok := statBlob(p, ""); ok {
			inv.parts = append(inv.parts, b)
		}
	}
	inv.views, err = s.listViews()
	return inv, err
}

func statBlob(path string, d digest.Digest) (blobInfo, bool) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return blobInfo{}, false
	}
	return blobInfo{digest: d, path: path, inode: st.Ino, size: st.Size, bytes: st.Blocks * statBlock, links: uint64(st.Nlink), //nolint:unconvert // its type differs by platform
		used: time.Unix(st.Ctim.Unix())}, true
}

// recordAge is how long a record that nobody reads is kept.
const recordAge = 90 * 24 * time.Hour

// dropOldRecords removes what has not been read for long.
func (s *Store) dropOldRecords() error {
	files, err := filepath.Glob(s.path("records", "*", "*.json"))
	if err != nil {
		return err
	}
	for _, f := range files {
		info, statErr := os.Lstat(f)
		if statErr == nil && s.now().Sub(info.ModTime()) > recordAge {
			err = errors.Join(err, os.Remove(f))
		}
	}
	return err
}
