package hub

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// repository implements source.Repository and source.Recaller for one reference and one identity.
type repository struct {
	source *Source
	ref    model.Ref
	cred   model.Credential
	base   *url.URL
	// kind is models, datasets or spaces, and name what follows.
	kind, name string
	revision   string
	key        repositoryKey
	redact     wire.Redactor
	// transport makes the connections, at the first request.
	transport func() (http.RoundTripper, error)

	// mu guards what follows.
	mu      sync.Mutex
	listing *listing
	// proven says that this identity has read a file of the listing's commit.
	proven  bool
	targets map[digest.Digest]target
}

var _ source.Recaller = (*repository)(nil)

// current is the listing that blobs are read from.
func (r *repository) current() (*listing, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.listing, r.proven
}

func (r *repository) use(l *listing, proven bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listing == nil || r.listing.digest != l.digest {
		r.proven = false
	}
	r.listing, r.proven = l, r.proven || proven
}

// Recall implements source.Recaller. A snapshot that this package did not write is passed over: the Hub is asked then.
func (r *repository) Recall(s source.Snapshot) {
	if s.MediaType != MediaType {
		return
	}
	known := contentKey{r.key, s.Digest}
	l, ok := r.source.byDigest.get(known)
	if !ok {
		var err error
		if l, err = parseListing(r.ref.Repository, s.Manifest); err != nil {
			return
		}
		r.source.byDigest.put(known, l, int64(len(l.manifest)))
	}
	r.use(l, false)
}

// Resolve implements source.Repository. It succeeds only for an identity that may read files.
func (r *repository) Resolve(ctx context.Context, _ source.Selection) (source.Snapshot, error) {
	l, err := r.list(ctx)
	if err != nil {
		return source.Snapshot{}, err
	}
	if want := r.ref.Digest; want != "" && want != l.digest {
		if l, err = r.known(want, l.commit); err != nil {
			return source.Snapshot{}, err
		}
	}
	if err := r.prove(ctx, l); err != nil {
		return source.Snapshot{}, err
	}
	return l.snapshot(), nil
}

// Check implements source.Repository.
func (r *repository) Check(ctx context.Context, d digest.Digest) error {
	if _, err := model.ParseDigest(d.String()); err != nil {
		return fmt.Errorf("%s: %w", r.ref, err)
	}
	l, _ := r.current()
	if l == nil || l.digest != d {
		listed, err := r.list(ctx)
		if err != nil {
			return err
		}
		if l = listed; l.digest != d {
			if l, err = r.known(d, l.commit); err != nil {
				return err
			}
		}
	}
	return r.prove(ctx, l)
}

// known finds a commit that was listed before by the digest of its manifest. The Hub itself knows no such digest.
func (r *repository) known(d digest.Digest, now string) (*listing, error) {
	if l, _ := r.current(); l != nil && l.digest == d {
		return l, nil
	}
	if l, ok := r.source.byDigest.get(contentKey{r.key, d}); ok {
		return l, nil
	}
	return nil, fmt.Errorf("%s: manifest %s is not that of revision %q, which is commit %s now; name a commit instead of a branch to keep what it means: %w",
		r.ref, d, r.revision, now, model.ErrNotFound)
}

// prove reads the first byte of a file, and so shows that this identity may read files of the commit.
func (r *repository) prove(ctx context.Context, l *listing) error {
	s := r.subject("file " + fmt.Sprintf("%.300q", l.probe.Path))
	w := wire.Window{Blob: model.Blob{Digest: l.probe.digest(), Size: l.probe.Size}, Length: 1}
	if l.probe.Size == 0 {
		w.Length, w.Whole = -1, true
	}
	f := wire.Retry(ctx, r.source.firstPause, func() *wire.Failure {
		outer := ctx
		ctx, cancel := context.WithTimeoutCause(ctx, r.source.readTimeout, wire.ErrSlow)
		defer cancel()
		resp, f := r.get(ctx, s, r.file(l.commit, l.probe.Path), w.Header())
		if f != nil {
			return wire.Slow(outer, ctx, s.fail, f)
		}
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
			defer wire.Drain(resp.Body)
			return s.status(resp.reply())
		}
		if resp.StatusCode == http.StatusOK && l.probe.Size > wire.MaxErrorBody {
			_ = resp.Body.Close() // all of it is coming
		} else {
			wire.Drain(resp.Body)
		}
		r.learn(w, resp)
		return nil
	})
	if f != nil {
		return f.Err()
	}
	r.use(l, true)
	return nil
}

// targetLife is how long the target of a redirect is used without asking the Hub again. Its links live for an hour; a
// shorter time here lets a revoked permission end a pull.
const targetLife = 5 * time.Minute

// target is where a redirect led.
type target struct {
	url   *url.URL
	until time.Time
}

// learn remembers where an answer came from, if more of the same file will be asked for.
func (r *repository) learn(w wire.Window, resp *answer) {
	if !resp.away || resp.StatusCode >= 300 || w.Whole || w.Length == w.Blob.Size {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.targets[w.Blob.Digest] = target{resp.url, time.Now().Add(targetLife)}
}

func (r *repository) target(d digest.Digest) *url.URL {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t, ok := r.targets[d]; ok && time.Now().Before(t.until) {
		return t.url
	}
	return nil
}

// forget drops the target u, unless another request has already replaced it.
func (r *repository) forget(d digest.Digest, u *url.URL) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.targets[d].url == u {
		delete(r.targets, d)
	}
}
