package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
)

// ReadRange implements source.Repository. Ranges are closed ("bytes=a-b"), because a connection whose answer is read to
// its end serves the next range. A failed range is not retried: the engine knows what it still needs.
func (r *repository) ReadRange(ctx context.Context, blob model.Blob, offset, length int64) (source.Body, error) {
	w, err := newWindow(blob, offset, length)
	if err != nil {
		return source.Body{}, fmt.Errorf("%s: blob %s: %w", r.ref, blob.Digest, err)
	}
	if w.length == 0 {
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
			return body, nil
		}
		last = f
		if ctx.Err() != nil {
			break
		}
		if c.endpoint.mirror && !f.again {
			r.routes.lose(c, blob.Digest)
		}
		r.source.passOver(c.endpoint, f)
	}
	if last == nil {
		return source.Body{}, fmt.Errorf("%s: blob %s: hosts.toml leaves no host of registry %s to pull from: %w", r.ref, blob.Digest, r.ref.Registry, model.ErrInvalid)
	}
	return source.Body{}, last.err()
}

// window is the part of a blob that is asked for.
type window struct {
	blob  model.Blob
	first int64
	// length in bytes; -1 for up to an unknown end.
	length int64
	// whole says that no range is asked for.
	whole bool
}

func newWindow(blob model.Blob, offset, length int64) (window, error) {
	if _, err := model.ParseDigest(blob.Digest.String()); err != nil {
		return window{}, err
	}
	if offset < 0 || length < -1 || (blob.Size > 0 && (offset > blob.Size || length > blob.Size-offset)) {
		return window{}, fmt.Errorf("%d bytes from %d on are not a part of its %d bytes: %w", length, offset, blob.Size, model.ErrInvalid)
	}
	w := window{blob: blob, first: offset, length: length, whole: offset == 0 && length == -1}
	if length == -1 && blob.Size > 0 {
		w.length = blob.Size - offset
	}
	return w, nil
}

// last is the position of the last byte; -1 for an unknown end.
func (w window) last() int64 {
	if w.length < 0 {
		return -1
	}
	return w.first + w.length - 1
}

// header asks for the window. Content codings are ruled out: digests are of the stored bytes.
func (w window) header() http.Header {
	h := http.Header{"Accept": {"*/*"}, "Accept-Encoding": {"identity"}}
	switch {
	case w.whole:
	case w.length < 0:
		h.Set("Range", fmt.Sprintf("bytes=%d-", w.first))
	default:
		h.Set("Range", fmt.Sprintf("bytes=%d-%d", w.first, w.last()))
	}
	return h
}

// readFrom opens the window at one endpoint: where a redirect led before, else by asking the endpoint.
func (r *repository) readFrom(ctx context.Context, c *client, w window) (source.Body, *failure) {
	s := r.subject(c, "blob "+w.blob.Digest.String())
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
	body.ReadCloser = &stream{body: body.ReadCloser, left: body.Length, expected: body.Length, fail: func(err error) error {
		return s.broken(outer, body.Host, err)
	}, stop: func() { stop(nil) }}
	return body, nil
}

func (r *repository) open(ctx context.Context, c *client, s subject, w window) (source.Body, *failure) {
	if u := r.routes.target(c, w.blob.Digest); u != nil {
		resp, f := c.away(ctx, s, u, w.header())
		if f == nil {
			if body, f, final := r.body(s, resp, w); final {
				return body, f
			}
		}
		// Expired, moved or unreachable: the registry knows better.
		r.routes.forget(c, w.blob.Digest, u)
		if ctx.Err() != nil {
			return source.Body{}, s.network(ctx, u.Host, ctx.Err(), nil)
		}
	}
	body, f := r.ask(ctx, c, s, w)
	if f != nil && f.status == http.StatusRequestedRangeNotSatisfiable && !w.whole {
		// Some servers answer so to every range. The whole blob will do, whoever reads skips what it has.
		w.whole = true
		return r.ask(ctx, c, s, w)
	}
	return body, f
}

func (r *repository) ask(ctx context.Context, c *client, s subject, w window) (source.Body, *failure) {
	resp, f := c.get(ctx, s, http.MethodGet, c.url(r.ref.Repository, "blobs", w.blob.Digest.String()), w.header())
	if f != nil {
		return source.Body{}, f
	}
	if resp.away && resp.StatusCode < 300 {
		r.routes.learn(c, w.blob.Digest, resp.url)
	}
	body, f, _ := r.body(s, resp, w)
	return body, f
}

// body checks the answer to a window. final is false when the answer says that its URL does not serve, so that asking
// the registry for another one makes sense. It closes what it does not return.
func (r *repository) body(s subject, resp *answer, w window) (b source.Body, f *failure, final bool) {
	b = source.Body{ReadCloser: resp.Body, Offset: w.first, Length: -1, Host: resp.url.Host}
	refuse := func(kind error, why string) (source.Body, *failure, bool) {
		_ = resp.Body.Close()
		return source.Body{}, s.fail(kind, resp.url.Host+" "+why, ""), true
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		cr, err := parseContentRange(resp.Header.Get("Content-Range"))
		switch {
		case err != nil:
			return refuse(source.ErrRange, "sent a part without saying which: "+resp.Header.Get("Content-Range"))
		case cr.total >= 0 && w.blob.Size > 0 && cr.total != w.blob.Size:
			// The total is what the registry says of the blob itself: no other range will be right.
			return refuse(model.ErrCorrupt, fmt.Sprintf("has %d bytes, the manifest says %d", cr.total, w.blob.Size))
		case w.whole || cr.first != w.first || (w.length >= 0 && cr.last != w.last()):
			return refuse(source.ErrRange, fmt.Sprintf("sent the bytes %d-%d instead of %d-%d", cr.first, cr.last, w.first, w.last()))
		}
		b.Length = cr.last - cr.first + 1
		if resp.ContentLength >= 0 && resp.ContentLength != b.Length {
			return refuse(source.ErrRange, fmt.Sprintf("sent %d bytes for a part of %d", resp.ContentLength, b.Length))
		}
		return b, nil, true
	case http.StatusOK:
		if resp.ContentLength >= 0 && w.blob.Size > 0 && resp.ContentLength != w.blob.Size {
			return refuse(model.ErrCorrupt, fmt.Sprintf("has %d bytes, the manifest says %d", resp.ContentLength, w.blob.Size))
		}
		b.Offset, b.Length = 0, resp.ContentLength
		return b, nil, true
	}
	defer drain(resp.Body)
	f = s.status(resp.reply())
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		cr, err := parseContentRange(resp.Header.Get("Content-Range"))
		if err == nil && cr.total >= 0 && cr.total <= w.last() {
			f = s.fail(model.ErrCorrupt, fmt.Sprintf("%s has only %d bytes, the manifest says %d", resp.url.Host, cr.total, w.blob.Size), "")
		}
		return source.Body{}, f, false
	}
	busy, _ := kindOf(resp.StatusCode)
	return source.Body{}, f, busy
}

// stream is the body of a blob. It turns errors into those of the package and ends where the answer should.
type stream struct {
	body io.ReadCloser
	// left is what is still to come of expected bytes; both are negative when that is not known.
	left, expected int64
	fail           func(error) error
	stop           func()
}

// Read implements io.Reader. Bytes go from the connection into p, without a copy in between.
func (b *stream) Read(p []byte) (int, error) {
	if b.expected >= 0 && int64(len(p)) > b.left {
		if b.left == 0 {
			return 0, io.EOF
		}
		p = p[:b.left]
	}
	n, err := b.body.Read(p)
	if b.expected >= 0 {
		b.left -= int64(n)
	}
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF && b.left > 0:
		return n, b.fail(io.ErrUnexpectedEOF)
	case err == io.EOF:
		return n, io.EOF
	}
	return n, b.fail(err)
}

// Close implements io.Closer.
func (b *stream) Close() error {
	err := b.body.Close()
	b.stop()
	return err
}
