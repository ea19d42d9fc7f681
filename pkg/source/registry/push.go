package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// Pusher writes to one repository as one identity. It speaks to the registry's server alone, never to a mirror. It is
// safe for concurrent use and renews tokens by itself.
//
// Errors wrap the kinds that source.Repository has, and model.ErrConflict where the registry keeps another manifest.
type Pusher struct {
	source *Source
	ref    model.Ref
	cred   model.Credential
	// chunk is the most that one request sends, in bytes; 0 means a blob is sent in one request.
	chunk int64
	// fallback is smallChunk but for tests.
	fallback int64

	// mu guards what follows.
	mu     sync.Mutex
	server *client
	// sessions are uploads that the registry has opened where a mount was asked for.
	sessions map[digest.Digest]*url.URL
	// undiscovering says that the registry refuses mounts that name no repository.
	undiscovering bool
}

// PushOptions of a Pusher. The zero value works.
type PushOptions struct {
	// Chunk is the most that one request sends, in bytes. Default: a blob is sent in one request, as most tools do and
	// most registries expect; where a proxy refuses that as too large, in chunks of 64 MiB.
	Chunk int64
}

// Pusher returns what writes to the repository of ref. It does no I/O. It fails with model.ErrInvalid for a reference
// that cannot be pushed to.
func (s *Source) Pusher(ref model.Ref, cred model.Credential, o PushOptions) (*Pusher, error) {
	if _, err := s.Repository(ref, cred); err != nil {
		return nil, err
	}
	if ref.Scheme != "" && ref.Scheme != model.SchemeOCI {
		return nil, fmt.Errorf("reference %s: models are pushed to OCI registries, and scheme %q is none: %w", ref, ref.Scheme, model.ErrInvalid)
	}
	return &Pusher{source: s, ref: ref, cred: cred, chunk: max(o.Chunk, 0), fallback: smallChunk, sessions: map[digest.Digest]*url.URL{}}, nil
}

// client returns the connection to the server.
func (p *Pusher) client() (*client, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.server != nil {
		return p.server, nil
	}
	endpoints, err := p.source.endpoints(p.ref.Registry)
	if err != nil {
		return nil, err
	}
	p.server = p.source.client(endpoints[len(endpoints)-1], p.ref.Repository, p.cred)
	p.server.scope = auth.ScopeRepository(scopeName(p.server.endpoint.base, p.ref.Repository), auth.ActionPull, auth.ActionPush)
	return p.server, nil
}

func (p *Pusher) subject(c *client, what string) subject {
	return subject{what: what, ref: p.ref, cred: c.cred, redact: c.redact, interactive: true, push: true}
}

// interactiveHint is the next step for a person at a terminal.
func (s subject) interactiveHint(kind error) string {
	verb := "read"
	if s.push {
		verb = "write to"
	}
	switch {
	case (kind == model.ErrUnauthenticated || kind == model.ErrDenied) && s.cred.IsAnonymous():
		return fmt.Sprintf("check the name, or log in with docker, oras or helm: docker login %s", s.ref.Registry)
	case kind == model.ErrUnauthenticated:
		return fmt.Sprintf("the registry did not accept this credential; renew it: docker login %s", s.ref.Registry)
	case kind == model.ErrDenied:
		return fmt.Sprintf("this credential may not %s %s; use another one or have it granted", verb, s.ref.Name())
	case kind == model.ErrNotFound && s.push:
		return "check the repository; some registries want it to be created before something is pushed to it"
	case kind == model.ErrNotFound:
		return "check the repository and the tag or digest; some registries answer so for private repositories without a credential"
	}
	return ""
}

// try calls do, several times where that may help.
func (p *Pusher) try(ctx context.Context, do func(*client) *failure) error {
	c, err := p.client()
	if err != nil {
		return err
	}
	if f := wire.Retry(ctx, p.source.firstPause, func() *failure { return do(c) }); f != nil {
		return f.Err()
	}
	return nil
}

// Exists reports whether the repository has the blob.
func (p *Pusher) Exists(ctx context.Context, b model.Blob) (there bool, err error) {
	err = p.try(ctx, func(c *client) (f *failure) {
		there, f = p.exists(ctx, c, b)
		return f
	})
	return there, err
}

func (p *Pusher) exists(ctx context.Context, c *client, b model.Blob) (bool, *failure) {
	s := p.subject(c, "blob "+b.Digest.String())
	resp, f := c.do(ctx, s, http.MethodHead, c.url(p.ref.Repository, "blobs", b.Digest.String()), http.Header{}, nil)
	if f != nil {
		return false, f
	}
	defer wire.Drain(resp.Body)
	switch {
	case resp.StatusCode == http.StatusOK, resp.away && resp.StatusCode == http.StatusForbidden:
		// Storage whose links are signed for GET alone refuses HEAD; that the registry leads there is proof enough.
		return true, nil
	case slices.Contains([]int{http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented}, resp.StatusCode):
		return false, nil // sending it is the other way to find out
	}
	return false, s.status(resp.reply())
}

// Mount makes a blob of another repository of the same registry one of this repository, without a transfer. It reports
// false where the registry does not do that, or does not let this identity. An empty from leaves it to the registry to
// find a repository that has the blob. That costs nothing: where it finds none it opens the upload that comes next, and
// where an upload is open already, or the registry is known to refuse, it is not asked.
func (p *Pusher) Mount(ctx context.Context, b model.Blob, from string) (mounted bool, err error) {
	if from == "" && !p.mayDiscover(b.Digest) {
		return false, nil
	}
	if from != "" && !usableRepository(from) {
		return false, fmt.Errorf("mount from %q: it is not a repository: %w", from, model.ErrInvalid)
	}
	err = p.try(ctx, func(c *client) (f *failure) {
		mounted, f = p.mount(ctx, c, b, from)
		return f
	})
	return mounted, err
}

// mount asks once. distribution-spec, "Mounting a blob from another repository": a registry that cannot mount opens an
// upload instead; without a repository it may look for one by itself ("automatic content discovery").
func (p *Pusher) mount(ctx context.Context, c *client, b model.Blob, from string) (bool, *failure) {
	s := p.subject(c, "mount of blob "+b.Digest.String())
	u := c.url(p.ref.Repository, "blobs", "uploads/")
	query := url.Values{"mount": {b.Digest.String()}}
	if from != "" {
		query.Set("from", from)
		ctx = auth.AppendScopesForHost(ctx, c.endpoint.base.Host, auth.ScopeRepository(scopeName(c.endpoint.base, from), auth.ActionPull))
	}
	u.RawQuery = withQuery(u, query)
	resp, f := c.do(ctx, s, http.MethodPost, u, http.Header{}, nil)
	if f != nil {
		return false, f
	}
	defer wire.Drain(resp.Body)
	switch resp.StatusCode {
	case http.StatusCreated:
		return true, nil
	case http.StatusAccepted: // it opened an upload instead
		if location, err := uploadLocation(resp); err == nil {
			p.keepSession(b.Digest, location)
		}
		return false, nil
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed:
		if from == "" {
			p.stopDiscovering()
		}
		return false, nil // not from there; the upload will say what else is wrong
	}
	if from == "" {
		return false, nil // nobody asked for it, so it is no reason to fail
	}
	return false, s.status(resp.reply())
}

// mayDiscover reports whether a mount without a repository is worth a request, which then takes the place of another.
func (p *Pusher) mayDiscover(d digest.Digest) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.undiscovering && p.sessions[d] == nil
}

func (p *Pusher) stopDiscovering() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.undiscovering = true
}

func withQuery(u *url.URL, more url.Values) string {
	q := u.Query()
	for key, values := range more {
		q[key] = values
	}
	return q.Encode()
}

func (p *Pusher) keepSession(d digest.Digest, location *url.URL) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions[d] = location
}

func (p *Pusher) takeSession(d digest.Digest) *url.URL {
	p.mu.Lock()
	defer p.mu.Unlock()
	location := p.sessions[d]
	delete(p.sessions, d)
	return location
}

// PutManifest stores a manifest under the reference's tag, or under its digest where the reference has one, which must
// then be that of the manifest (model.ErrConflict). Its blobs have to be there.
func (p *Pusher) PutManifest(ctx context.Context, mediaType string, manifest []byte) error {
	d := digest.FromBytes(manifest)
	if p.ref.Digest != "" && p.ref.Digest != d {
		return fmt.Errorf("%s: the manifest has the digest %s: %w", p.ref, d, model.ErrConflict)
	}
	reference := p.ref.Reference()
	if p.ref.Tag != "" {
		reference = p.ref.Tag
	}
	return p.try(ctx, func(c *client) *failure {
		s := p.subject(c, "manifest "+reference)
		header := http.Header{"Content-Type": {mediaType}}
		body := &payload{open: opener(manifest), length: int64(len(manifest))}
		resp, f := c.do(ctx, s, http.MethodPut, c.url(p.ref.Repository, "manifests", reference), header, body)
		if f != nil {
			return f
		}
		defer wire.Drain(resp.Body)
		if !slices.Contains([]int{http.StatusCreated, http.StatusOK, http.StatusAccepted}, resp.StatusCode) {
			return s.status(resp.reply())
		}
		if said, err := model.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil && said.Algorithm() == d.Algorithm() && said != d {
			return s.fail(model.ErrCorrupt, fmt.Sprintf("%s stored it as %s instead of %s", resp.url.Host, said, d), "")
		}
		return nil
	})
}

// Upload brings a blob to the repository. open returns its content from an offset on, any number of times; Upload closes
// what it returns. sent, which may be nil, is told how many bytes have been sent in all; the number falls when something
// has to be sent again. An upload that breaks is gone on with where the registry says it is, else begun again.
func (p *Pusher) Upload(ctx context.Context, b model.Blob, open func(offset int64) (io.ReadCloser, error), sent func(total int64)) error {
	c, err := p.client()
	if err != nil {
		return err
	}
	if sent == nil {
		sent = func(int64) {}
	}
	u := &blobUpload{pusher: p, client: c, blob: b, open: open, sent: sent, chunk: p.chunk, location: p.takeSession(b.Digest), subject: p.subject(c, "upload of blob "+b.Digest.String())}
	for failures := 0; ; {
		before := u.offset
		f := u.attempt(ctx)
		if f == nil {
			return nil
		}
		if failures++; u.offset > before {
			failures = 1 // it gets on
		}
		if !f.Again || failures == uploadAttempts || ctx.Err() != nil {
			return f.Err()
		}
		u.broken = true
		pause := min(max(p.source.firstPause<<failures, f.After), longestUploadPause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return f.Err()
		}
	}
}

const (
	// uploadAttempts without any progress, with the pauses between them, span about half a minute: long enough for a
	// registry that is replaced or a network that changes, short enough for somebody who waits.
	uploadAttempts     = 7
	longestUploadPause = 30 * time.Second
	// smallChunk is what is sent at once where larger requests are refused: proxies are commonly limited to 100 MB.
	smallChunk = 64 << 20
)
