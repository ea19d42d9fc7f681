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

// Lease says that a published volume uses a view. It is all the state that a volume has: written before its mount,
// removed after its unmount.
type Lease struct {
	// VolumeID and Target are the volume and the path it is published at; together they are the lease's identity.
	VolumeID string `json:"volumeId"`
	Target   string `json:"target"`
	// Reference is what the pod asked for, and Digest the manifest that it was pinned to.
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"`
	// Mounts are further models in the tree, each as path=reference@digest.
	Mounts []string `json:"mounts,omitempty"`
	// View is the digest of the tree that is shown, SubPath the directory in it.
	View    digest.Digest `json:"view"`
	SubPath string        `json:"subPath,omitempty"`
	// Format is the name of the artifact's format.
	Format string `json:"format,omitempty"`
	// Bytes and Files count what the volume shows.
	Bytes int64 `json:"bytes"`
	Files int64 `json:"files"`
	// Attributes is a fingerprint of all that must be the same when the volume is published again.
	Attributes string `json:"attributes"`
	// Pod is namespace/name where the orchestrator told it.
	Pod     string    `json:"pod,omitempty"`
	Created time.Time `json:"created"`
}

type leaseKey struct{ volumeID, target string }

func (l Lease) key() leaseKey { return leaseKey{l.VolumeID, l.Target} }

func (s *Store) leaseFile(k leaseKey) string {
	return s.path("leases", hashedName(k.volumeID+"\x00"+k.target))
}

// PutLease records the lease, replacing one of the same volume and target. It is durable when PutLease returns.
func (s *Store) PutLease(l Lease) error {
	if l.VolumeID == "" || l.Target == "" {
		return fmt.Errorf("lease of volume %q at %q: both must be given: %w", l.VolumeID, l.Target, model.ErrInvalid)
	}
	if l.Created.IsZero() {
		l.Created = s.now()
	}
	data, err := json.Marshal(l)
	if err != nil {
		return err
	}
	// In memory first: eviction must not run between the file and the map.
	s.mu.Lock()
	before, existed := s.leases[l.key()]
	s.leases[l.key()] = l
	s.mu.Unlock()
	err = s.withRoom(func() error { return spaceError(atomicfile.Write(s.leaseFile(l.key()), data)) })
	if err != nil {
		s.mu.Lock()
		if delete(s.leases, l.key()); existed {
			s.leases[l.key()] = before
		}
		s.mu.Unlock()
		return fmt.Errorf("lease of volume %s: %w", l.VolumeID, err)
	}
	return nil
}

// Lease finds the lease of a volume at a target path.
func (s *Store) Lease(volumeID, target string) (Lease, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.leases[leaseKey{volumeID, target}]
	return l, ok
}

// Leases lists all leases, ordered by volume and target.
func (s *Store) Leases() []Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Lease, 0, len(s.leases))
	for _, l := range s.leases {
		out = append(out, l)
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].VolumeID != out[j].VolumeID {
			return out[i].VolumeID < out[j].VolumeID
		}
		return out[i].Target < out[j].Target
	})
	return out
}

// DropLease forgets the lease; there need not be one. The view counts as used until now.
func (s *Store) DropLease(volumeID, target string) error {
	k := leaseKey{volumeID, target}
	l, ok := s.Lease(volumeID, target)
	if ok {
		s.touchView(l.View)
	}
	if err := atomicfile.Remove(s.leaseFile(k)); err != nil {
		return fmt.Errorf("lease of volume %s: %w", volumeID, err)
	}
	s.mu.Lock()
	delete(s.leases, k)
	s.mu.Unlock()
	if err := s.emptyQuarantine(); err != nil {
		s.log.Warn("damaged view stays in quarantine for now", "error", err)
	}
	return nil
}

// loadLeases reads the leases of the process before. One that is set aside costs nothing that is mounted: the mount table
// still protects its view.
func (s *Store) loadLeases() error {
	return s.loadFiles("leases", func(path string, data []byte) error {
		var l Lease
		if err := json.Unmarshal(data, &l); err != nil {
			return err
		}
		if path != s.leaseFile(l.key()) {
			return errors.New("it does not have the name of its volume and target")
		}
		if _, err := model.ParseDigest(l.View.String()); err != nil { // it becomes a path
			return err
		}
		s.leases[l.key()] = l
		return nil
	})
}
