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
