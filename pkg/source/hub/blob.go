package hub

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// ReadRange implements source.Repository. A failed range is not retried: the engine knows what it still needs.
func (r *repository) ReadRange(ctx context.Context, blob model.Blob, offset, length int64) (source.Body, error) {
	w, err := wire.NewWindow(blob, offset, length)
	if err != nil {
		return source.Body{}, fmt.Errorf("%s: blob %s: %w", r.ref, blob.Digest, err)
	}
	l, proven := r.current()
	if l == nil {
		if l, err = r.list(ctx); err != nil {
			return source.Body{}, err
		}
		r.use(l, false)
	}
	f, ok := l.paths[blob.Digest]
	if !ok {
		return source.Body{}, fmt.Errorf("%s: blob %s: commit %s has no such file: %w", r.ref, blob.Digest, l.commit, model.ErrNotFound)
	}
	if err := ctx.Err(); err != nil {
		return source.Body{}, r.subject("file "+f.Path).network(ctx, r.base.Host, err)
	}
	if w.Length == 0 {
		return source.Body{ReadCloser: io.NopCloser(strings.NewReader("")), Offset: offset, Host: r.base.Host}, nil
	}
	kept := contentKey{r.key, blob.Digest}
	if content, ok := r.source.contents.get(kept); ok && proven && blob.Size == int64(len(content)) {
		if w.Length == blob.Size {
			r.source.contents.remove(kept) // whoever reads it as a whole stores it
		}
		return r.fromMemory(w, content), nil
	}
	body, fail := r.readFrom(ctx, r.subject(fmt.Sprintf("file %.300q", f.Path)), r.file(l.commit, f.Path), w)
	if fail != nil {
		return source.Body{}, fail.Err()
	}
	return body, nil
}

// fromMemory serves what Resolve has read.
func (r *repository) fromMemory(w wire.Window, content []byte) source.Body {
	part := content[w.First:]
	if w.Length >= 0 {
		part = part[:w.Length]
	}
	return source.Body{ReadCloser: io.NopCloser(bytes.NewReader(part)), Offset: w.First, Length: int64(len(part)), Host: r.base.Host}
}

// readFrom opens the window: where a redirect led before, else by asking the Hub.
func (r *repository) readFrom(ctx context.Context, s subject, u *url.URL, w wire.Window) (source.Body, *wire.Failure) {
	return wire.Open(ctx, r.source.readTimeout, s.fail, s.broken, func(ctx context.Context) (source.Body, *wire.Failure) { return r.open(ctx, s, u, w) })
}

func (r *repository) open(ctx context.Context, s subject, u *url.URL, w wire.Window) (source.Body, *wire.Failure) {
	if away := r.target(w.Blob.Digest); away != nil {
		resp, f := r.send(ctx, s, away, w.Header(), true)
		if f == nil {
			if body, f, final := r.body(s, resp, w); final {
				return body, f
			}
		}
		// Expired, moved or unreachable: the Hub knows better.
		r.forget(w.Blob.Digest, away)
		if ctx.Err() != nil {
			return source.Body{}, s.network(ctx, away.Host, ctx.Err())
		}
	}
	body, f := r.ask(ctx, s, u, w)
	if f != nil && f.Status == http.StatusRequestedRangeNotSatisfiable && !w.Whole {
		// Some servers answer so to every range. The whole file will do, whoever reads skips what it has.
		w.Whole = true
		return r.ask(ctx, s, u, w)
	}
	return body, f
}

func (r *repository) ask(ctx context.Context, s subject, u *url.URL, w wire.Window) (source.Body, *wire.Failure) {
	resp, f := r.get(ctx, s, u, w.Header())
	if f != nil {
		return source.Body{}, f
	}
	r.learn(w, resp)
	body, f, _ := r.body(s, resp, w)
	return body, f
}

// body checks the answer to a window. final is false when another URL, which the Hub knows, may serve it.
func (r *repository) body(s subject, resp *answer, w wire.Window) (b source.Body, f *wire.Failure, final bool) {
	return w.Body(resp.Response, resp.url.Host, s.fail, func() *wire.Failure { return s.status(resp.reply()) })
}
