package wire

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
)

// MaxErrorBody is how much of an unwanted answer is read. Real ones take a few hundred bytes.
const MaxErrorBody = 16 << 10

// Drain reads what little is left of a body, so that the connection can be used again, and closes it.
func Drain(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, MaxErrorBody)
	_ = body.Close()
}

// ErrSlow is the cause of a context that a source's own deadline ended. See [Slow].
var ErrSlow = errors.New("no complete answer in time")

// Fail makes a failure of what was asked for. why and hint are sentences without an end; hint may be empty.
type Fail func(kind error, why, hint string) *Failure

// Slow replaces a failure that ErrSlow caused, which looks like one of the caller's context. inner is the context that
// the source derived from outer, the caller's.
func Slow(outer, inner context.Context, fail Fail, f *Failure) *Failure {
	if outer.Err() != nil || context.Cause(inner) != ErrSlow {
		return f
	}
	f = fail(model.ErrUnavailable, ErrSlow.Error(), "")
	f.Again = true
	return f
}

// Open returns the body that open found. limit bounds redirects, tokens and headers, and not the body, which is governed
// by ctx alone; broken makes the failures of reading it. The caller closes the body.
func Open(ctx context.Context, limit time.Duration, fail Fail, broken func(ctx context.Context, host string, err error) *Failure,
	open func(context.Context) (source.Body, *Failure)) (source.Body, *Failure) {
	inner, stop := context.WithCancelCause(ctx)
	timer := time.AfterFunc(limit, func() { stop(ErrSlow) })
	body, f := open(inner)
	if !timer.Stop() && f == nil {
		_ = body.Close() // the timer was faster than its being stopped, and has cancelled the body
		f = fail(model.ErrUnavailable, ErrSlow.Error(), "")
	}
	if f != nil {
		f = Slow(ctx, inner, fail, f)
		stop(nil)
		return source.Body{}, f
	}
	body.ReadCloser = NewStream(body.ReadCloser, body.Length, func(err error) error { return broken(ctx, body.Host, err) }, func() { stop(nil) })
	return body, nil
}

// Body checks the answer of a host to the window. final is false when the answer says that its URL does not serve, so
// that another one may; status makes the failure of an unwanted status. Body closes what it does not return.
func (w Window) Body(resp *http.Response, host string, fail Fail, status func() *Failure) (b source.Body, f *Failure, final bool) {
	mismatch := func(err error) *Failure { return fail(errors.Unwrap(err), host+" "+err.Error(), "") }
	if resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusPartialContent {
		offset, length, err := w.Accept(resp)
		if err != nil {
			_ = resp.Body.Close()
			return source.Body{}, mismatch(err), true
		}
		return source.Body{ReadCloser: resp.Body, Offset: offset, Length: length, Host: host}, nil, true
	}
	defer Drain(resp.Body)
	f = status()
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		if err := w.Short(resp); err != nil {
			f = mismatch(err)
		}
		return source.Body{}, f, false
	}
	busy, _ := KindOf(resp.StatusCode)
	return source.Body{}, f, busy
}
