package pull

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/ingest"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/store"
)

// job is a planned pull.
type job struct {
	ref    model.Ref
	access access
	// origins are the repositories of the plan's parents, by the reference that Layer.Origin names them by.
	origins map[string]origin
	plan    format.Plan
	keep    selection
	// key is the same for all who want the same tree of the same manifest in the same repository.
	key  string
	warm bool

	mu       sync.Mutex // guards what follows, once it is fetched
	expected map[digest.Digest]store.Room
	reserved *store.Reservation
}

// origin is where a layer's blob is.
type origin struct {
	ref        model.Ref
	repository source.Repository
}

// repositoryOf names the repository that serves the layer's blob.
func (j *job) repositoryOf(l format.Layer) string { return j.origins[l.Origin].ref.Name() }

// plan finds out which blobs make the tree. An artifact can say that the model itself is in another one; that one is
// resolved and authorised as if the caller had named it.
func (p *Puller) plan(ctx context.Context, r Request, a access, keep selection) (*job, error) {
	plan, err := format.Parse(input(a.snapshot))
	if err != nil {
		return nil, err
	}
	j := &job{ref: r.Ref, access: a, keep: keep, warm: true, origins: map[string]origin{"": {r.Ref, a.repository}},
		expected: make(map[digest.Digest]store.Room)}
	identity := []string{r.Ref.Name(), a.snapshot.Digest.String(), a.snapshot.MediaType, keep.key}
	for len(plan.Parents) > 0 {
		name := plan.Parents[0]
		if _, seen := j.origins[name]; seen || len(j.origins) > format.MaxParents {
			return nil, fmt.Errorf("the model is inherited from %s, which ends in a circle or after more than %d artifacts: %w", name, format.MaxParents, model.ErrUnsupported)
		}
		ref, keys, err := parentOf(r, name)
		if err != nil {
			return nil, fmt.Errorf("the model is inherited from another artifact: %w", err)
		}
		parent, err := p.authorise(ctx, Request{Ref: ref, Policy: r.Policy, Keychain: keys})
		if err != nil {
			return nil, fmt.Errorf("the model is inherited from %s: %w", name, err)
		}
		inherited, err := format.Parse(input(parent.snapshot))
		if err != nil {
			return nil, fmt.Errorf("the model is inherited from %s: %w", name, err)
		}
		if plan, err = plan.Inherit(inherited, name); err != nil {
			return nil, err
		}
		j.origins[name] = origin{ref, parent.repository}
		identity = append(identity, parent.snapshot.Digest.String())
	}
	if n := len(plan.Layers); p.opts.MaxFiles > 0 && n > p.opts.MaxFiles {
		return nil, fmt.Errorf("it has %d layers, more than the %d files that max-files allows: %w", n, p.opts.MaxFiles, model.ErrTooLarge)
	}
	j.plan, j.key = plan, strings.Join(identity, " ")
	return j, nil
}

// parentOf reads the reference that an artifact gives to another one. Its author is not the caller: he may not lead the
// caller's credentials to a registry that they were not made for, nor to services of the node itself.
func parentOf(r Request, name string) (model.Ref, model.Keychain, error) {
	ref, err := model.ParseRef(name)
	if err != nil || ref.Registry == r.Ref.Registry {
		return ref, r.Keychain, err
	}
	if ref.Loopback() {
		return ref, nil, fmt.Errorf("%s is an address of the node itself: %w", name, model.ErrDenied)
	}
	return ref, namedOnly{r.Keychain}, nil
}

// namedOnly leaves out the credentials that do not say which registry they are for.
type namedOnly struct{ all model.Keychain }

// Credentials implements model.Keychain.
func (n namedOnly) Credentials(ctx context.Context, ref model.Ref) ([]model.Credential, error) {
	list, err := n.all.Credentials(ctx, ref)
	return slices.DeleteFunc(slices.Clone(list), func(c model.Credential) bool { return c.AnyRegistry }), err
}

func input(s source.Snapshot) format.Input {
	return format.Input{MediaType: s.MediaType, Manifest: s.Manifest, Config: s.Config}
}

// ready returns the result if every blob of it is in the store and known to be in the repository, and protects them.
// A tree that is remembered was ready before.
func (p *Puller) ready(j *job) *Result {
	t, ok := p.trees.get(j.key)
	if !ok {
		tree, err := p.tree(j)
		if err != nil || !p.held.all(j) {
			return nil // the archives have not been taken apart yet; fetching says what is wrong, if something is
		}
		t = cachedTree{tree: tree, digest: tree.Digest()}
		p.trees.put(j.key, t)
	}
	result := &Result{Tree: t.tree, Digest: j.access.snapshot.Digest, Format: j.plan.Format, Warm: j.warm}
	// A view is complete, and holds links to its blobs; without one every blob is looked at.
	result.release = p.opts.Store.Pin(append(digests(t.tree), t.digest)...)
	if p.opts.Store.HasView(t.digest) {
		return result
	}
	for _, b := range t.tree.Blobs() {
		if !p.opts.Store.Has(b) {
			result.Release()
			return nil
		}
	}
	return result
}

func digests(t model.Tree) []digest.Digest {
	blobs := t.Blobs()
	out := make([]digest.Digest, 0, len(blobs)+1)
	for _, b := range blobs {
		out = append(out, b.Digest)
	}
	return out
}

// membersKind is the kind of the records that hold the entries of archive layers.
const membersKind = "members"

// errUnopened says that an archive has to be fetched before the tree is known.
var errUnopened = errors.New("an archive has not been taken apart yet")

// tree makes the tree from the plan and what is known of its archives.
func (p *Puller) tree(j *job) (model.Tree, error) {
	known := make(map[digest.Digest][]model.Member)
	for _, l := range j.plan.Needed(j.keep.keep) {
		if !unpacked(l) {
			continue
		}
		var members []model.Member
		if !p.opts.Store.Record(membersKind, memberRecord(l), &members) {
			return nil, errUnopened
		}
		known[l.Blob.Digest] = members
	}
	tree, err := j.plan.Tree(func(d digest.Digest) []model.Member { return known[d] }, j.keep.keep)
	if err != nil {
		return nil, err
	}
	if p.opts.MaxFiles > 0 && len(tree) > p.opts.MaxFiles {
		return nil, fmt.Errorf("it has %d files, more than the %d that max-files allows: %w", len(tree), p.opts.MaxFiles, model.ErrTooLarge)
	}
	return tree, nil
}

// unpacked reports whether the layer's blob is taken apart rather than kept.
func unpacked(l format.Layer) bool { return l.Archive || l.Compressed }

// memberRecord names the record of a layer's members. How the blob is read is part of it: one blob can be a tar in one
// artifact and a compressed file in another.
func memberRecord(l format.Layer) string {
	return fmt.Sprintf("%s %d", l.Blob.Digest, shape(l))
}

func shape(l format.Layer) ingest.Shape {
	switch {
	case l.Compressed:
		return ingest.CompressedFile
	case l.Path != "":
		return ingest.TarOrFile
	}
	return ingest.Tar
}
