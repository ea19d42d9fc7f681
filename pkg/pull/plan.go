package pull

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/ingest"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/store"
)

// job is a planned pull.
type job struct {
	// ref and access are those of the root.
	ref    model.Ref
	access access
	// parts are the root and what is mounted in it.
	parts []part
	// origins are the repositories of the parts and of their parents, by the name in Layer.Origin.
	origins map[string]origin
	// key is the same for all who want the same tree of the same manifests in the same repositories.
	key  string
	warm bool

	// reserved is guarded by the puller's rooms; cache is set before the first layer is fetched.
	reserved *store.Reservation
	cache    store.CachePolicy
}

// format is the name of the root's format.
func (j *job) format() string { return j.parts[0].plan.Format }

// origin is where a layer's blob is.
type origin struct {
	ref        model.Ref
	repository source.Repository
}

// repositoryOf names the repository that serves the layer's blob.
func (j *job) repositoryOf(l format.Layer) string { return j.origins[l.Origin].ref.Name() }

// plan finds out which blobs make the tree of a request. Its references are resolved and authorised side by side, each
// on its own.
func (p *Puller) plan(ctx context.Context, r Request) (*job, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	if r.Keychain == nil {
		r.Keychain = model.Anonymous{}
	}
	r.Want.Node = p.opts.Platform
	requests := r.parts()
	for i := range requests {
		var err error
		if requests[i].Ref, err = p.complete(requests[i].Ref); err != nil {
			return nil, err
		}
		if err := p.allowed(requests[i]); err != nil {
			return nil, err // before any of them is asked for
		}
	}
	parts := make([]part, len(requests))
	origins := make([]map[string]origin, len(requests))
	group, groupContext := errgroup.WithContext(ctx)
	group.SetLimit(partsAtOnce)
	for i, request := range requests {
		group.Go(func() (err error) {
			prefix := ""
			if i > 0 {
				prefix = fmt.Sprintf("mount %d ", i) // no reference has a space
			}
			if parts[i], origins[i], err = p.planPart(groupContext, request, prefix); err != nil && i > 0 {
				err = fmt.Errorf("mount %s: %w", r.Mounts[i-1].Path, err)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	j := &job{
		ref: parts[0].request.Ref, access: parts[0].access, parts: parts, warm: true,
		origins: make(map[string]origin),
	}
	layers := 0
	var identity []string
	for i, part := range parts {
		maps.Copy(j.origins, origins[i])
		layers += len(part.plan.Layers)
		identity = append(identity, part.identity...)
	}
	if p.opts.MaxFiles > 0 && layers > p.opts.MaxFiles {
		return nil, fmt.Errorf("%s: it has %d layers, more than the %d files that max-files allows: %w", j.title(), layers, p.opts.MaxFiles, model.ErrTooLarge)
	}
	j.key = strings.Join(identity, " ")
	return j, nil
}

// partsAtOnce bounds how many references of one request are resolved at a time: few enough for a registry, and so many that
// a request with all the mounts that fit into it ends in time where a registry that proofs are held for does not answer.
const partsAtOnce = 32

// planPart plans one reference of a request and says where its layers are. An artifact can say that the model itself is
// in another one; that one is resolved and authorised as if the caller had named it.
func (p *Puller) planPart(ctx context.Context, r Request, prefix string) (part, map[string]origin, error) {
	name := r.Ref
	r, err := p.follow(ctx, r)
	if err != nil {
		return part{}, nil, err
	}
	fail := func(err error) (part, map[string]origin, error) { return part{}, nil, standing(name, r.Ref, err) }
	a, err := p.authorise(ctx, r)
	if err != nil {
		return fail(err)
	}
	out := part{request: r, access: a, prefix: prefix}
	if err := out.arrange(); err != nil {
		return fail(fmt.Errorf("%s: %w", r.Ref, err))
	}
	origins := map[string]origin{prefix: {r.Ref, a.repository}}
	for len(out.plan.Parents) > 0 {
		if err := p.inherit(ctx, &out, origins); err != nil {
			return fail(fmt.Errorf("%s: %w", r.Ref, err))
		}
	}
	return out, origins, nil
}

// arrange reads the part's manifest, for the layout that is asked for.
func (p *part) arrange() (err error) {
	r, snapshot := p.request, p.access.snapshot
	if p.keep, err = newSelection(r.Include, r.Exclude); err != nil {
		return err
	}
	shown, err := r.Layout.Name(r.LayoutName, r.Ref)
	if err != nil {
		return fmt.Errorf("the model's name in layout %q: %w", r.Layout, err)
	}
	if p.plan, err = r.Layout.parse(snapshot, shown); err != nil {
		return err
	}
	p.identity = []string{r.Ref.Name(), snapshot.Digest.String(), snapshot.MediaType, p.keep.key}
	if r.Layout != LayoutFlat || r.dir != "" {
		p.identity = append(p.identity, fmt.Sprintf("%s %q %q", r.Layout, shown, r.dir))
	}
	if r.Layout == LayoutHub {
		hub := format.NewHubCache(shown, p.plan.Commit, snapshot.Digest)
		p.hub = &hub
	}
	return nil
}

// inherit replaces the part's next parent by what it holds.
func (p *Puller) inherit(ctx context.Context, t *part, origins map[string]origin) error {
	name := t.plan.Parents[0]
	if _, seen := origins[t.prefix+name]; seen || len(origins) > format.MaxParents {
		return fmt.Errorf("the model is inherited from %s, which ends in a circle or after more than %d artifacts: %w", name, format.MaxParents, model.ErrUnsupported)
	}
	ref, keys, err := parentOf(t.request, name)
	if err != nil {
		return fmt.Errorf("the model is inherited from another artifact: %w", err)
	}
	parent, err := p.authorise(ctx, t.request.about(ref, keys))
	if err != nil {
		return fmt.Errorf("the model is inherited from %s: %w", name, err)
	}
	inherited, err := LayoutFlat.parse(parent.snapshot, ref)
	if err != nil {
		return fmt.Errorf("the model is inherited from %s: %w", name, err)
	}
	if t.plan, err = t.plan.Inherit(inherited, name); err != nil {
		return err
	}
	origins[t.prefix+name] = origin{ref, parent.repository}
	t.identity = append(t.identity, parent.snapshot.Digest.String())
	return nil
}

// parentOf reads the reference that an artifact gives to another one.
func parentOf(r Request, name string) (model.Ref, model.Keychain, error) {
	ref, err := model.ParseRef(name)
	switch {
	case err != nil:
		return ref, nil, err
	case ref.Scheme != model.SchemeOCI:
		return ref, nil, fmt.Errorf("%s is not in a registry: %w", name, model.ErrUnsupported)
	}
	return led(r.Ref, ref, r.Keychain)
}

// ready returns the result if every blob of it is in the store and known to be in the repository, and protects them.
// A tree that is remembered was ready before.
//
// It fails for what is wrong with the tree, whatever is fetched. What is in an archive that the caller has no proof for
// is not told, even if that is what is wrong: then there is no result and no error, as for what is not there yet.
func (p *Puller) ready(j *job) (*Result, error) {
	t, ok := p.trees.get(j.key)
	if !ok {
		tree, err := p.tree(j)
		switch {
		case errors.Is(err, errUnopened):
			return nil, nil
		case !p.held.all(j) && (err == nil || slices.ContainsFunc(j.needed(), unpacked)):
			return nil, nil
		case err != nil:
			return nil, err
		}
		t = cachedTree{tree: tree, digest: tree.Digest()}
		p.trees.put(j.key, t)
		p.describe(j, tree)
	}
	result := &Result{Tree: t.tree, Digest: j.access.snapshot.Digest, Format: j.format(), Mounts: j.mounts(), Warm: j.warm}
	// A view is complete, and holds links to its blobs; without one every blob is looked at.
	result.release = p.opts.Store.Pin(append(digests(t.tree), t.digest)...)
	if p.opts.Store.HasView(t.digest) {
		return result, nil
	}
	if err := p.inlines(j); err != nil {
		result.Release()
		return nil, err
	}
	for _, b := range t.tree.Blobs() {
		if !p.opts.Store.Has(b) {
			result.Release()
			return nil, nil
		}
	}
	return result, nil
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

// tree makes the tree from the plans and what is known of their archives. It fails with errUnopened while one of them
// has to be fetched first; any other error stays what it is.
func (p *Puller) tree(j *job) (model.Tree, error) {
	trees := make([]format.Placed, 0, len(j.parts))
	for _, t := range j.parts {
		known := make(map[digest.Digest][]model.Member)
		for _, l := range t.needed() {
			if !unpacked(l) {
				continue
			}
			var members []model.Member
			if !p.opts.Store.Record(membersKind, memberRecord(l), &members) {
				return nil, errUnopened
			}
			known[l.Blob.Digest] = members
		}
		tree, err := t.tree(func(d digest.Digest) []model.Member { return known[d] })
		if err != nil && len(j.parts) > 1 {
			err = fmt.Errorf("%s: %w", t.title(), err)
		}
		if err != nil {
			return nil, err
		}
		trees = append(trees, format.Placed{Name: t.title(), Dir: t.request.dir, Tree: tree})
	}
	tree := trees[0].Tree
	if len(trees) > 1 {
		var err error
		if tree, err = format.Merge(trees); err != nil {
			return nil, err
		}
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
