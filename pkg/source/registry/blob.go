package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

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
	outer := ctx
	ctx, stop := context.WithCancelCause(ctx)
	timer := time.AfterFunc(r.source.readTimeout, func() { stop(errSlow) }) // for tokens, redirects and headers, not for the body
	body, f := r.open(ctx, c, s, w)
	if !timer.Stop() && f == nil {
		_ = body.Close() // the timer was faster than its being stopped, and has cancelled the body
		f = s.fail(model.ErrUnavailable, errSlow.Error(), "")
	}
	if f != nil {
		f = slow(outer, ctx, s, f)
		stop(nil)
		return source.Body{}, f
	}
	body.ReadCloser = wire.NewStream(body.ReadCloser, body.Length, func(err error) error { return s.broken(outer, body.Host, err) }, func() { stop(nil) })
	return body, nil
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

// body checks the answer to a window. final is false when the answer says that its URL does not serve, so that asking
// the registry for another one makes sense. It closes what it does not return.
func (r *repository) body(s subject, resp *answer, w wire.Window) (b source.Body, f *failure, final bool) {
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
		offset, length, err := w.Accept(resp.Response)
		if err != nil {
			_ = resp.Body.Close()
			return source.Body{}, s.mismatch(resp, err), true
		}
		return source.Body{ReadCloser: resp.Body, Offset: offset, Length: length, Host: resp.url.Host}, nil, true
	}
	defer drain(resp.Body)
	f = s.status(resp.reply())
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		if err := w.Short(resp.Response); err != nil {
			f = s.mismatch(resp, err)
		}
		return source.Body{}, f, false
	}
	busy, _ := wire.KindOf(resp.StatusCode)
	return source.Body{}, f, busy
}

// mismatch makes a failure of an answer that is not what was asked for.
func (s subject) mismatch(resp *answer, err error) *failure {
	return s.fail(errors.Unwrap(err), resp.url.Host+" "+err.Error(), "")
}
