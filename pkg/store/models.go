package store

import (
	"os"
	"slices"
	"sort"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// Model is a model that the store holds as a whole.
type Model struct {
	// Tree is the digest of its tree, by which its view is named.
	Tree digest.Digest `json:"tree"`
	// References are the names under which it was pulled, as far as they are known.
	References []string `json:"references"`
	// Digest is the manifest that it was last pulled by.
	Digest digest.Digest `json:"digest,omitempty"`
	// Format is the name of the artifact's format.
	Format string `json:"format,omitempty"`
	// Bytes and Files count what it shows; blobs that it shares with other models are counted for each.
	Bytes int64 `json:"bytes"`
	Files int   `json:"files"`
	// Viewed says that there is a view of it.
	Viewed bool `json:"viewed"`
	// Used is when it was last published, or pulled if it never was.
	Used time.Time `json:"used"`
	// Kept says that eviction leaves it alone on somebody's word.
	Kept bool `json:"kept"`
	// Volumes are the leases that use it.
	Volumes []Lease `json:"volumes,omitempty"`
}

// modelsKind is the kind of the records that say what trees were pulled.
const modelsKind = "models"

// modelRecord is what is written down about a tree.
type modelRecord struct {
	References []string      `json:"references"`
	Digest     digest.Digest `json:"digest"`
	Format     string        `json:"format,omitempty"`
	Bytes      int64         `json:"bytes"`
	Files      int           `json:"files"`
	Blobs      []model.Blob  `json:"blobs"`
	At         time.Time     `json:"at"`
}

// maxReferences bounds the names that are remembered of one tree; the oldest go first.
const maxReferences = 32

// Describe remembers that a tree was pulled under a reference, for Models. It writes nothing when that is known.
func (s *Store) Describe(reference string, manifest digest.Digest, format string, t model.Tree) error {
	name := t.Digest().String()
	var r modelRecord
	if s.Record(modelsKind, name, &r) && r.Digest == manifest && slices.Contains(r.References, reference) {
		return nil
	}
	r.References = append(slices.DeleteFunc(r.References, func(s string) bool { return s == reference }), reference)
	r.References = r.References[max(0, len(r.References)-maxReferences):]
	r.Digest, r.Format, r.Files, r.Bytes, r.At = manifest, format, len(t), 0, s.now()
	for _, f := range t {
		r.Bytes = add(r.Bytes, f.Blob.Size)
	}
	r.Blobs = t.Blobs()
	return s.PutRecord(modelsKind, name, r)
}

// Models lists the models that are there as a whole, most recently used first: those with a view, and those that were
// pulled and are complete. It looks at every one of their blobs.
func (s *Store) Models() ([]Model, error) {
	views, err := s.listViews()
	if err != nil {
		return nil, err
	}
	byTree := make(map[digest.Digest]*Model)
	for _, v := range views {
		byTree[v.tree] = &Model{Tree: v.tree, Viewed: true, Used: v.used}
	}
	if err := s.addDescribed(byTree); err != nil {
		return nil, err
	}
	for _, l := range s.Leases() {
		if m := byTree[l.View]; m != nil {
			m.Volumes = append(m.Volumes, l)
			m.name(l.Reference)
			if m.Files == 0 && l.SubPath == "" { // its description was lost
				m.Bytes, m.Files, m.Digest, m.Format = l.Bytes, int(l.Files), l.Digest, l.Format
			}
		}
	}
	for _, k := range s.Kept() {
		if m := byTree[k.Tree]; m != nil {
			m.Kept = true
			m.name(k.Reference)
		}
	}
	out := make([]Model, 0, len(byTree))
	for _, m := range byTree {
		sort.Strings(m.References)
		out = append(out, *m)
	}
	sort.Slice(out, func(i, j int) bool {
		if !out[i].Used.Equal(out[j].Used) {
			return out[i].Used.After(out[j].Used)
		}
		return out[i].Tree < out[j].Tree
	})
	return out, nil
}

func (m *Model) name(reference string) {
	if reference != "" && !slices.Contains(m.References, reference) {
		m.References = append(m.References, reference)
	}
}

// addDescribed adds what the records say, and the models without a view whose blobs are all there.
func (s *Store) addDescribed(byTree map[digest.Digest]*Model) error {
	names, err := s.recordNames(modelsKind)
	if err != nil {
		return err
	}
	for _, name := range names {
		tree, err := model.ParseDigest(name)
		if err != nil {
			continue
		}
		m := byTree[tree]
		var r modelRecord
		if !s.Record(modelsKind, name, &r) || m == nil && !s.complete(r) {
			continue
		}
		if m == nil {
			m = &Model{Used: r.At}
			byTree[tree] = m
		}
		m.Tree, m.Digest, m.Format, m.Bytes, m.Files = tree, r.Digest, r.Format, r.Bytes, r.Files
		for _, reference := range r.References {
			m.name(reference)
		}
	}
	return nil
}

func (s *Store) complete(r modelRecord) bool {
	for _, b := range r.Blobs {
		if info, err := os.Lstat(s.blobPath(b.Digest)); err != nil || info.Size() != b.Size {
			return false
		}
	}
	return true
}
