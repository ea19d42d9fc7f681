package pull

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/grant"
	"github.com/model-csi/model-csi/pkg/ingest"
	"github.com/model-csi/model-csi/pkg/internal/flight"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/store"
)

// Policy says when the registry is asked what a reference means, as Kubernetes has it for images.
type Policy string

// The policies. The empty one is PolicyAlways for the tag "latest" or none, and PolicyIfNotPresent otherwise.
const (
	// PolicyAlways asks the registry each time; bytes that are cached are not fetched again.
	PolicyAlways Policy = "Always"
	// PolicyIfNotPresent uses what the node has for the reference.
	PolicyIfNotPresent Policy = "IfNotPresent"
	// PolicyNever fetches nothing: what the node does not have is an error.
	PolicyNever Policy = "Never"
)

// ParsePolicy reads a policy; the empty string is the default. It fails with model.ErrInvalid.
func ParsePolicy(s string) (Policy, error) {
	switch p := Policy(s); p {
	case "", PolicyAlways, PolicyIfNotPresent, PolicyNever:
		return p, nil
	}
	return "", fmt.Errorf("pull policy %q must be %s, %s or %s: %w", s, PolicyAlways, PolicyIfNotPresent, PolicyNever, model.ErrInvalid)
}

func (p Policy) of(ref model.Ref) Policy {
	switch {
	case p != "":
		return p
	case ref.Digest == "" && (ref.Tag == "" || ref.Tag == "latest"):
		return PolicyAlways
	}
	return PolicyIfNotPresent
}

// Request is one caller's wish.
type Request struct {
	Ref    model.Ref
	Policy Policy
	// Include and Exclude are patterns as ParsePatterns returns them. Without Include, everything is included.
	Include, Exclude []string
	// Keychain holds the caller's credentials; nil means anonymous.
	Keychain model.Keychain
}

// Result is a tree whose blobs are all in the store.
type Result struct {
	Tree model.Tree
	// Digest of the manifest that the reference was pinned to.
	Digest digest.Digest
	// Format is the name of the artifact's format.
	Format string
	// Warm says that nothing had to be fetched.
	Warm bool

	release func()
}

// Release ends the protection of the tree and its blobs from eviction. Call it once a lease protects them instead.
func (r *Result) Release() {
	if r != nil && r.release != nil {
		r.release()
	}
}

// Options of a Puller. Source, Store, Engine and Grants are required.
type Options struct {
	Source source.Source
	Store  *store.Store
	Engine *ingest.Engine
	Grants *grant.Ledger
	// Linger is how long a pull goes on when nobody waits for it (default 10 min).
	Linger time.Duration
	// Platform selects from indexes that list several (default: linux on this machine's architecture).
	Platform string
	// MaxModelSize in bytes bounds what one model may take; 0 means no limit.
	MaxModelSize int64
	// MaxFiles bounds the files of one model; 0 means no limit.
	MaxFiles int
	// WriteMode is how large blobs are written (default WriteAuto).
	WriteMode WriteMode
	// Logger defaults to slog.Default.
	Logger *slog.Logger
	// Observer is told what happens; nil tells nobody.
	Observer Observer
}

// WriteMode is how large blobs reach the disk.
type WriteMode string

// The write modes.
const (
	// WriteAuto is WriteDirect for blobs from directFrom on.
	WriteAuto WriteMode = "auto"
	// WriteDirect bypasses the page cache: the least work for the processor, and the reader's first read is from disk.
	WriteDirect WriteMode = "direct"
	// WriteBuffered goes through the page cache, which keeps what fits for the reader.
	WriteBuffered WriteMode = "buffered"
)

// directFrom is the size in bytes below which a file's bytes may as well stay in the page cache.
const directFrom = 32 << 20

// Observer counts. Implementations return at once.
type Observer interface {
	// Authorized is told how an access was decided: "valid", "proven", "grace" or "denied".
	Authorized(how string)
	// Pulled is told the end of a pull that had to fetch: the bytes of its blobs, the time, and its error or nil.
	Pulled(bytes int64, took time.Duration, err error)
}

// Puller pulls models. It is safe for concurrent use.
type Puller struct {
	opts   Options
	log    *slog.Logger
	models *flight.Group[string, struct{}]
	blobs  *flight.Group[string, struct{}]
	cancel context.CancelCauseFunc

	running trackers
	trees   treeCache
	held    holdings
}

// New returns a puller. Close ends its work.
func New(o Options) *Puller {
	if o.Linger <= 0 {
		o.Linger = 10 * time.Minute
	}
	if o.Platform == "" {
		o.Platform = "linux/" + runtime.GOARCH
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Observer == nil {
		o.Observer = silent{}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	return &Puller{
		opts: o, log: o.Logger, cancel: cancel, held: holdings{store: o.Store, recent: make(map[heldLayer]bool)},
		models: flight.NewGroup[string, struct{}](ctx, o.Linger),
		// A model leaves its blobs when it ends; nobody else then waits for them.
		blobs: flight.NewGroup[string, struct{}](ctx, 0),
	}
}

type silent struct{}

func (silent) Authorized(string)                  {}
func (silent) Pulled(int64, time.Duration, error) {}

var errClosing = fmt.Errorf("the plugin is stopping; the pull goes on when it is back: %w", model.ErrUnavailable)

// Close cancels all pulls and waits for their end. What they have stays for resuming.
func (p *Puller) Close() {
	p.cancel(errClosing)
	p.models.Wait()
	p.blobs.Wait()
}

// maxAttempts bounds how often Pull starts over because eviction or another caller's end came between.
const maxAttempts = 5

// Pull returns the tree of a reference with all its blobs on the node. When ctx ends before that, the error wraps
// model.ErrPulling and says how far the work is, which goes on. The caller calls Release on the result.
//
// Errors: model.ErrUnauthenticated, ErrDenied and ErrNotFound when the registry says no to all of the caller's
// credentials; ErrUnavailable when it says nothing and no earlier proof holds; ErrNoSpace; ErrCorrupt; ErrInvalid,
// ErrUnsupported and ErrTooLarge for artifacts that are refused.
func (p *Puller) Pull(ctx context.Context, r Request) (*Result, error) {
	keep, err := newSelection(r.Include, r.Exclude)
	if err != nil {
		return nil, err
	}
	if r.Keychain == nil {
		r.Keychain = model.Anonymous{}
	}
	a, err := p.authorise(ctx, r)
	if err != nil {
		return nil, stillPulling(ctx, err, "resolving "+r.Ref.String())
	}
	j, err := p.plan(ctx, r, a, keep)
	if err != nil {
		return nil, stillPulling(ctx, fmt.Errorf("%s: %w", r.Ref, err), "planning "+r.Ref.String())
	}
	for range maxAttempts {
		if result := p.ready(j); result != nil {
			return result, nil
		}
		if r.Policy.of(r.Ref) == PolicyNever {
			return nil, fmt.Errorf("%s: not all of it is in the node's cache and the pull policy is Never; use IfNotPresent or prefetch it: %w", r.Ref, model.ErrNotFound)
		}
		j.warm = false
		mine := false
		_, err = p.models.Do(ctx, j.key, func(ctx context.Context) (struct{}, error) {
			mine = true
			return struct{}{}, p.fetch(ctx, j)
		})
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return nil, p.progressError(j)
		case !retryJoined(mine, err):
			return nil, fmt.Errorf("%s: %w", r.Ref, err)
		}
	}
	return nil, fmt.Errorf("%s: the cache lost files as fast as they were fetched; free space on the node: %w", r.Ref, errors.Join(model.ErrUnavailable, err))
}

// retryJoined reports whether work that somebody else began failed for a reason of theirs: their credential, or that
// they were the last to leave just when this caller came.
func retryJoined(mine bool, err error) bool {
	if mine {
		return false
	}
	return errors.Is(err, context.Canceled) || errors.Is(err, model.ErrUnauthenticated) || errors.Is(err, model.ErrDenied) || errors.Is(err, model.ErrNotFound)
}

// stillPulling gives the end of a caller's own patience its kind.
func stillPulling(ctx context.Context, err error, doing string) error {
	if ctx.Err() == nil {
		return err
	}
	return fmt.Errorf("%s takes longer than the caller waits: %w", doing, model.ErrPulling)
}

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
