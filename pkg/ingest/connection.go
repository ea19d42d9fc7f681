package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

// connection fills buffers from responses. In serial mode one response serves many buffers.
type connection struct {
	f    *fetch
	body Body
	stop context.CancelFunc
	at   int64 // offset of the next byte of body
	open bool
	got  atomic.Int64 // bytes that the read under way has got
	// endAttempt ends the context of a response in ranges; nil if there is none.
	endAttempt context.CancelFunc
}

func (c *connection) close() {
	if c.open {
		c.open = false
		_ = c.body.Close()
		c.stop()
	}
	if c.endAttempt != nil {
		c.endAttempt()
		c.endAttempt = nil
	}
}

// fill reads buf from the blob at off, trying again from the byte where an attempt ended.
func (c *connection) fill(ctx context.Context, off int64, buf []byte) (err error) {
	done, attempt := 0, 0
	defer func() {
		if err != nil {
			c.f.job.progress(-int64(done))
		}
	}()
	for {
		n, err := c.attempt(ctx, off+int64(done), buf[done:])
		if done += n; n > 0 {
			attempt = 0
		}
		if err == nil {
			if !c.f.serial || off+int64(done) == c.f.job.Blob.Size {
				err = c.finish()
			}
			if err == nil {
				return nil
			}
		}
		c.close()
		if ctx.Err() != nil {
			return contextError(ctx, err)
		}
		attempt++
		if err := c.f.again(ctx, attempt, err); err != nil {
			return err
		}
	}
}

// wrongRanges is how often in a row a server may answer with a wrong range before it is asked for none.
const wrongRanges = 3

// again decides whether a failed attempt is followed by another, and waits until its time.
func (f *fetch) again(ctx context.Context, attempt int, err error) error {
	// One wrong range may be one broken cache among many; three are a server that cannot do better.
	if !f.serial && (err == ErrNoRanges || errors.Is(err, ErrNoRanges) && attempt >= wrongRanges) { //nolint:errorlint // the bare error says that the server sent everything
		return ErrNoRanges
	}
	if !errors.Is(err, model.ErrUnavailable) {
		return err
	}
	if silent := time.Since(time.Unix(0, f.lastByte.Load())); silent > f.e.opts.GiveUp {
		return fmt.Errorf("nothing arrived for %s: %w", silent.Round(time.Second), err)
	}
	f.job.trouble(err)
	pause := backoff(attempt)
	var told *model.RetryAfterError
	if errors.As(err, &told) {
		pause = max(pause, told.After)
		f.host.refused(told.After) // nobody else begins anything there meanwhile
	}
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// read makes sure that a response delivers bytes from off on, and reads until buf is full or the response fails.
func (c *connection) read(ctx context.Context, off int64, buf []byte) (int, error) {
	began := time.Now()
	c.got.Store(0)
	if !c.open || c.at != off {
		if c.open { // it is no response to a range, whose context is fresh
			c.close()
		}
		if err := c.request(ctx, off, int64(len(buf))); err != nil {
			return 0, err
		}
	}
	f := c.f
	watch := newWatch(c.stop, f.e.opts.IdleTimeout, f.e.opts.MinRate)
	defer watch.stop()
	n := 0
	for n < len(buf) {
		k, err := c.body.Read(buf[n:])
		if k > 0 {
			n += k
			c.at += int64(k)
			c.got.Store(int64(n))
			f.lastByte.Store(time.Now().UnixNano())
			f.job.progress(int64(k))
			f.host.delivered(k)
			watch.saw(k)
		}
		if err == nil || n == len(buf) {
			continue
		}
		switch {
		case watch.fired():
			err = fmt.Errorf("less than %d bytes a second arrived during %s: %w", f.e.opts.MinRate, f.e.opts.IdleTimeout, model.ErrUnavailable)
		case errors.Is(err, io.EOF):
			err = fmt.Errorf("response ended %d bytes early: %w", len(buf)-n, model.ErrUnavailable)
		case ctx.Err() == nil:
			err = fmt.Errorf("response broke off: %w (%w)", model.ErrUnavailable, err)
		}
		return n, err
	}
	f.host.took(n, time.Since(began))
	return n, nil
}

// request opens a response that starts at off, skipping what a server without ranges sends before.
func (c *connection) request(ctx context.Context, off, length int64) error {
	f := c.f
	from := off
	if f.serial {
		from, length = 0, -1 // a server that has ignored a range is not asked for one again
	}
	ctx, stop := context.WithCancel(ctx)
	body, err := f.job.Open(ctx, from, length)
	if err != nil {
		if errors.Is(err, model.ErrUnavailable) && ctx.Err() == nil {
			f.host.refused(0) // it may have too much to do
		}
		stop()
		return err
	}
	c.body, c.stop, c.open, c.at = body, stop, true, body.Offset
	if f.serial {
		if body.Offset != 0 {
			return fmt.Errorf("the whole blob was asked for and the answer starts at %d: %w", body.Offset, model.ErrUnavailable)
		}
		if err := f.checkLength(0, -1, body.Length); err != nil {
			return err
		}
		return c.skip(off)
	}
	size := f.job.Blob.Size
	if body.Offset != off || length < size && off == 0 && (body.Length < 0 || body.Length == size) {
		return ErrNoRanges
	}
	return f.checkLength(off, length, body.Length)
}

// checkLength refuses a response whose length says that the server has other content than the manifest describes.
func (f *fetch) checkLength(off, asked, got int64) error {
	want := asked
	if asked < 0 {
		want = f.job.Blob.Size - off
	}
	if got >= 0 && got != want {
		return fmt.Errorf("blob %s: the registry sends %d bytes from offset %d where the manifest says %d: %w",
			f.job.Blob.Digest, got, off, want, model.ErrCorrupt)
	}
	return nil
}

func (c *connection) skip(off int64) error {
	watch := newWatch(c.stop, c.f.e.opts.IdleTimeout, c.f.e.opts.MinRate)
	defer watch.stop()
	for c.at < off {
		n, err := io.CopyN(io.Discard, c.body, min(off-c.at, minSpan))
		c.at += n
		watch.saw(int(n))
		if err != nil {
			return fmt.Errorf("response ended before offset %d: %w (%w)", off, model.ErrUnavailable, err)
		}
	}
	return nil
}

// finish reads the end of a response, so that its connection can be used again, and refuses bytes behind it.
func (c *connection) finish() error {
	if !c.open {
		return nil
	}
	watch := newWatch(c.stop, c.f.e.opts.IdleTimeout, 0)
	defer watch.stop()
	var one [1]byte
	if n, _ := c.body.Read(one[:]); n > 0 {
		c.close()
		return fmt.Errorf("blob %s: more bytes arrived than the manifest says (%d): %w", c.f.job.Blob.Digest, c.f.job.Blob.Size, model.ErrCorrupt)
	}
	c.close()
	return nil
}
