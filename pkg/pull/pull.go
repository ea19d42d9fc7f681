package pull

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/grant"
	"github.com/model-csi/model-csi/pkg/ingest"
	"github.com/model-csi/model-csi/pkg/internal/flight"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/store"
)

// Policy says when the registry is asked what a reference means, as Kubernetes has it for images.
type Policy string

// The policies. The empty one is PolicyAlways for references that are expected to mean something else tomorrow (the tag
// "latest", a branch, no version) and PolicyIfNotPresent otherwise.
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
	case ref.Moving():
		return PolicyAlways
	}
	return PolicyIfNotPresent
}

// Request is one caller's wish.
type Request struct {
	Ref    model.Ref
	Policy Policy
	// Want selects where the reference leads to an index. Node is the puller's to fill in.
	Want model.Selection
	// Include and Exclude are patterns as ParsePatterns returns them. Without Include, everything is included.
	Include, Exclude []string
	// Layout arranges the files, and LayoutName names the model in it; the layout finds a name by itself where it can.
	Layout     Layout
	LayoutName string
	// Mounts are further references in the tree. Include, Exclude, LayoutName and Want are about Ref alone. Each reference
	// is authorised on its own.
	Mounts []Mount
	// Keychain holds the caller's credentials; nil means anonymous.
	Keychain model.Keychain
	// Namespace of the caller, for Options.Rules; empty when it is not known.
	Namespace string

	// dir is where the tree of this part of a request belongs.
	dir string
}

// Result is a tree whose blobs are all in the store.
type Result struct {
	Tree model.Tree
	// Digest of the manifest that the reference was pinned to.
	Digest digest.Digest
	// Format is the name of the artifact's format.
	Format string
	// Mounts are those of the request, pinned to the digests of their manifests.
	Mounts []Mount
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
	// Resolvers know what the references of some schemes stand for, by scheme.
	Resolvers map[string]Resolver
	// Rules are the operator's; nil allows everything.
	Rules Rules
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

// Observer counts. Implementations return at once.
type Observer interface {
	// Authorized is told how an access was decided: "valid", "proven", "grace" or "denied".
	Authorized(how string)
	// Refused is told why the operator's rules refused something: the word of Rules.Check, or "model-size", "files" or
	// "share".
	Refused(why string)
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
	rooms   rooms
	cache   pageCache
	trees   treeCache
	held    holdings
	shares  shares
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
	p := &Puller{
		opts: o, log: o.Logger, cancel: cancel, held: holdings{store: o.Store, recent: make(map[heldLayer]bool)},
		cache:  pageCache{memory: store.MemoryForCache},
		models: flight.NewGroup[string, struct{}](ctx, o.Linger),
		// A model leaves its blobs when it ends; nobody else then waits for them.
		blobs: flight.NewGroup[string, struct{}](ctx, 0),
	}
	p.shares = shares{store: o.Store, log: o.Logger, observer: o.Observer, running: func(key string) bool { return p.running.get(key) != nil }}
	return p
}

type silent struct{}

func (silent) Authorized(string)                  {}
func (silent) Refused(string)                     {}
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
// credentials, or the operator's rules to the caller; ErrUnavailable when it says nothing and no earlier proof holds; ErrNoSpace; ErrCorrupt; ErrInvalid,
// ErrUnsupported and ErrTooLarge for artifacts that are refused.
func (p *Puller) Pull(ctx context.Context, r Request) (*Result, error) {
	j, err := p.plan(ctx, r)
	if err != nil {
		return nil, stillPulling(ctx, err, "resolving "+r.Ref.String())
	}
	admission := p.admission(r, j)
	defer admission.leave()
	for range maxAttempts {
		var result *Result
		if result, err = p.ready(j); err != nil {
			return nil, fmt.Errorf("%s: %w", r.Ref, err)
		}
		if result != nil {
			return admission.result(result)
		}
		if r.Policy.of(r.Ref) == PolicyNever {
			return nil, fmt.Errorf("%s: not all of it is in the node's cache and the pull policy is Never; use IfNotPresent or prefetch it: %w", r.Ref, model.ErrNotFound)
		}
		if err := admission.pull(); err != nil {
			return nil, err
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
