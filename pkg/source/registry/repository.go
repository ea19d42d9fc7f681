package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

const (
	// maxManifest is what distribution and most registries accept.
	maxManifest = 4 << 20
	// maxConfig bounds a config that is worth reading; those of models take a few kilobytes.
	maxConfig = 8 << 20
	// maxIndexDepth is how many indexes may lead to a manifest.
	maxIndexDepth = 3
)

// repository implements source.Repository for one reference and one identity.
type repository struct {
	source *Source
	ref    model.Ref
	cred   model.Credential
	routes *routes

	// mu guards clients, which are made at the first request.
	mu      sync.Mutex
	clients []*client
}

// all returns the clients of all endpoints, the server last.
func (r *repository) all(ctx context.Context) ([]*client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clients != nil {
		return r.clients, nil
	}
	endpoints, err := r.source.endpoints(r.ref.Registry)
	if err != nil {
		return nil, err
	}
	var clients []*client
	for _, e := range endpoints {
		cred := r.cred
		if e.mirror {
			cred = r.source.mirrorCredential(ctx, e, r.ref)
		}
		clients = append(clients, r.source.client(e, r.ref.Repository, cred))
	}
	r.clients = clients
	return clients, nil
}

// mirrorCredential is what the node has for a mirror; the pod's credential is not for it.
func (s *Source) mirrorCredential(ctx context.Context, e *endpoint, ref model.Ref) model.Credential {
	if s.options.MirrorKeychain == nil {
		return model.Credential{}
	}
	creds, err := s.options.MirrorKeychain.Credentials(ctx, model.Ref{Scheme: ref.Scheme, Registry: e.base.Host, Repository: ref.Repository})
	if err != nil {
		// The registry itself may still be reached, and the mirror may serve everybody.
		s.log.Warn("credential for the mirror cannot be read", "mirror", e.base.Host, "error", err)
	}
	if len(creds) == 0 {
		return model.Credential{}
	}
	return creds[0]
}

// subject describes a request of this repository through c.
func (r *repository) subject(c *client, what string) subject {
	s := subject{what: what, ref: r.ref, cred: c.cred, redact: c.redact, interactive: r.source.options.Interactive}
	if c.endpoint.mirror {
		s.mirror = c.endpoint.base.Host
	}
	return s
}

// each calls do with one client after another until one succeeds. Mirrors have one attempt; the server, which comes
// last, has several. The error is that of the last one asked. use selects clients.
func (r *repository) each(ctx context.Context, use func(*endpoint) bool, do func(context.Context, *client) *failure) error {
	clients, err := r.all(ctx)
	if err != nil {
		return err
	}
	var last *failure
	for _, c := range awake(clients, func(c *client) bool { return use(c.endpoint) }) {
		if c.endpoint.mirror {
			last = do(ctx, c)
		} else {
			last = wire.Retry(ctx, r.source.firstPause, func() *failure { return do(ctx, c) })
		}
		if last == nil {
			return nil
		}
		if ctx.Err() != nil {
			break
		}
		r.source.passOver(c.endpoint, last)
	}
	if last == nil {
		return fmt.Errorf("%s: hosts.toml leaves no host of registry %s that may be asked for this: %w", r.ref, r.ref.Registry, model.ErrInvalid)
	}
	return last.Err()
}

// awake returns the usable clients without those of mirrors that failed lately, unless nobody else is left.
func awake(clients []*client, usable func(*client) bool) []*client {
	var all, up []*client
	for _, c := range clients {
		if !usable(c) {
			continue
		}
		all = append(all, c)
		if !c.endpoint.mirror || !c.endpoint.health.down() {
			up = append(up, c)
		}
	}
	if len(up) == 0 {
		return all
	}
	return up
}

// passOver notes that a mirror failed. That it does not have something is no failure of the mirror.
func (s *Source) passOver(e *endpoint, f *failure) {
	if !e.mirror {
		return
	}
	if f.Again {
		e.health.rest(mirrorRest)
	}
	if !errors.Is(f, model.ErrNotFound) {
		s.log.Info("mirror passed over", "mirror", e.base.Host, "reason", f.Error())
	}
}

// read fetches a small object as a whole, in at most readTimeout.
func (r *repository) read(ctx context.Context, c *client, s subject, kind, reference string, header http.Header, limit int64) ([]byte, http.Header, *failure) {
	return r.readURL(ctx, c, s, c.url(r.ref.Repository, kind, reference), header, limit)
}

func (r *repository) readURL(ctx context.Context, c *client, s subject, u *url.URL, header http.Header, limit int64) ([]byte, http.Header, *failure) {
	outer := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, r.source.readTimeout, wire.ErrSlow)
	defer cancel()
	resp, f := c.get(ctx, s, http.MethodGet, u, header)
	if f != nil {
		return nil, nil, wire.Slow(outer, ctx, s.fail, f)
	}
	defer wire.Drain(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return nil, nil, s.status(resp.reply())
	}
	if resp.ContentLength > limit {
		_ = resp.Body.Close() // draining it would wait for a server that announces much and sends nothing
		return nil, nil, s.fail(model.ErrTooLarge, fmt.Sprintf("%s announces %d bytes, at most %d are read", resp.url.Host, resp.ContentLength, limit), "")
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, nil, wire.Slow(outer, ctx, s.fail, s.broken(ctx, resp.url.Host, err))
	}
	if int64(len(data)) > limit {
		_ = resp.Body.Close()
		return nil, nil, s.fail(model.ErrTooLarge, fmt.Sprintf("%s sent more than the %d bytes that are read", resp.url.Host, limit), "")
	}
	return data, resp.Header, nil
}

// Check implements source.Repository. It asks the server, not mirrors, unless those are trusted.
func (r *repository) Check(ctx context.Context, d digest.Digest) error {
	if _, err := model.ParseDigest(d.String()); err != nil {
		return fmt.Errorf("%s: %w", r.ref, err)
	}
	return r.each(ctx, r.proves, func(ctx context.Context, c *client) *failure {
		f := r.head(ctx, c, d)
		if f == nil || !slices.Contains(noHead, f.Status) {
			return f
		}
		_, _, _, f = r.fetchVerified(ctx, c, d.String(), model.Blob{Digest: d})
		return f
	})
}

// noHead are the answers of registries and proxies that do not serve HEAD, though they serve GET, and of those whose
// reason is in the body that an answer to HEAD does not have.
var noHead = []int{
	http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusNotImplemented,
	http.StatusPreconditionFailed,
}

// head asks whether a manifest is there for this identity.
func (r *repository) head(ctx context.Context, c *client, d digest.Digest) *failure {
	s := r.subject(c, "manifest "+d.String())
	outer := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, r.source.readTimeout, wire.ErrSlow)
	defer cancel()
	resp, f := c.get(ctx, s, http.MethodHead, c.url(r.ref.Repository, "manifests", d.String()), acceptHeader())
	if f != nil {
		return wire.Slow(outer, ctx, s.fail, f)
	}
	defer wire.Drain(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return s.status(resp.reply())
	}
	if said, err := model.ParseDigest(resp.Header.Get("Docker-Content-Digest")); err == nil && said.Algorithm() == d.Algorithm() && said != d {
		return s.fail(model.ErrCorrupt, fmt.Sprintf("%s answers with the digest %s", resp.url.Host, said), "")
	}
	return nil
}

// readTimeout bounds a request for a manifest or a config, body included. 4 MiB in a minute is slow everywhere.
const readTimeout = time.Minute
