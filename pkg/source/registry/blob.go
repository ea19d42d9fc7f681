package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// ReadRange implements source.Repository. Ranges are closed ("bytes=a-b"), because a connection whose answer is read to
// its end serves the next range. A failed range is not retried: the engine knows what it still needs.
func (r *repository) ReadRange(ctx context.Context, blob model.Blob, offset, length int64) (source.Body, error) {
	w, err := wire.NewWindow(blob, offset, length)
	if err != nil {
		return source.Body{}, fmt.Errorf("%s: blob %s: %w", r.ref, blob.Digest, err)
	}
	if w.Length == 0 {
		return source.Body{ReadCloser: io.NopCloser(strings.NewReader("")), Offset: offset, Host: r.ref.Registry}, nil
	}
	clients, err := r.all(ctx)
	if err != nil {
		return source.Body{}, err
	}
	var last *failure
	usable := func(c *client) bool { return c.endpoint.pull && !r.routes.lacks(c, blob.Digest) }
	for _, c := range awake(clients, usable) {
		body, f := r.readFrom(ctx, c, w)
		if f == nil {
			if c.endpoint.mirror {
				r.routes.serve(c, blob.Digest)
			}
			return body, nil
		}
		last = f
		if ctx.Err() != nil {
			break
		}
		if c.endpoint.mirror && !f.Again {
			r.routes.lose(c, blob.Digest)
		}
		r.source.passOver(c.endpoint, f)
	}
	if last == nil {
		return source.Body{}, fmt.Errorf("%s: blob %s: hosts.toml leaves no host of registry %s to pull from: %w", r.ref, blob.Digest, r.ref.Registry, model.ErrInvalid)
	}
	return source.Body{}, last.Err()
}

// Distrust implements source.Distruster: mirrors that have sent bytes of the blob are not asked for it again as long as
// the repository lives.
func (r *repository) Distrust(blob model.Blob) bool {
	mirrors := r.routes.distrust(blob.Digest)
	for _, c := range mirrors {
		r.source.log.Warn("mirror sent wrong bytes and is not asked for this blob again", "mirror", c.endpoint.base.Host,
			"reference", r.ref.String(), "blob", blob.Digest)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(mirrors) > 0 && slices.ContainsFunc(r.clients, func(c *client) bool { return c.endpoint.pull && !r.routes.lacks(c, blob.Digest) })
}

// readFrom opens the window at one endpoint: where a redirect led before, else by asking the endpoint.
func (r *repository) readFrom(ctx context.Context, c *client, w wire.Window) (source.Body, *failure) {
	s := r.subject(c, "blob "+w.Blob.Digest.String())
	return wire.Open(ctx, r.source.readTimeout, s.fail, s.broken, func(ctx context.Context) (source.Body, *failure) { return r.open(ctx, c, s, w) })
}

func (r *repository) open(ctx context.Context, c *client, s subject, w wire.Window) (source.Body, *failure) {
	if u := r.routes.target(c, w.Blob.Digest); u != nil {
		resp, f := c.away(ctx, s, u, w.Header())
		if f == nil {
			if body, f, final := r.body(s, resp, w); final {
				return body, f
			}
		}
		// Expired, moved or unreachable: the registry knows better.
		r.routes.forget(c, w.Blob.Digest, u)
		if ctx.Err() != nil {
			return source.Body{}, s.network(ctx, u.Host, ctx.Err(), nil)
		}
	}
	body, f := r.ask(ctx, c, s, w)
	if f != nil && f.Status == http.StatusRequestedRangeNotSatisfiable && !w.Whole {
		// Some servers answer so to every range. The whole blob will do, whoever reads skips what it has.
		w.Whole = true
		return r.ask(ctx, c, s, w)
	}
	return body, f
}

func (r *repository) ask(ctx context.Context, c *client, s subject, w wire.Window) (source.Body, *failure) {
	resp, f := c.get(ctx, s, http.MethodGet, c.url(r.ref.Repository, "blobs", w.Blob.Digest.String()), w.Header())
	if f != nil {
		return source.Body{}, f
	}
	if resp.away && resp.StatusCode < 300 {
		r.routes.learn(c, w.Blob.Digest, resp.url)
	}
	body, f, _ := r.body(s, resp, w)
	return body, f
}

// body checks the answer to a window. final is false when another URL, which the registry knows, may serve it.
func (r *repository) body(s subject, resp *answer, w wire.Window) (b source.Body, f *failure, final bool) {
	return w.Body(resp.Response, resp.url.Host, s.fail, func() *failure { return s.status(resp.reply()) })
}
