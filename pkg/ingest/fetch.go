package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/model-csi/model-csi/pkg/model"
)

// fetch is the delivery of one blob's bytes from an offset on: workers claim spans in order and fill buffers, and one
// consumer gets the buffers in order.
type fetch struct {
	e    *Engine
	job  Job
	host *host
	span int64
	// serial reads everything through one open-ended response: the server does not serve ranges, or the blob is small.
	serial bool
	// land is called by the workers with each full buffer, in any order; nil does nothing.
	land func(off int64, buf []byte) error
	// consume is called with each full buffer in order. It owns the buffer and puts it back.
	consume func(off int64, buf []byte) error

	lastByte atomic.Int64 // Unix nanoseconds of the last arrival, for GiveUp

	mu      sync.Mutex // guards what follows
	claimed int64
	turn    int64
	ready   map[int64][]byte
	arrived chan struct{} // has a token when ready changed
}

// ErrNoRanges is what an OpenFunc may fail with to say that the server does not serve ranges as it should. It ends a
// fetch in ranges, which is then done again in one stream.
var ErrNoRanges = errors.New("the server does not serve ranges")

// run delivers the bytes from offset to the blob's end.
func (e *Engine) run(ctx context.Context, job Job, offset int64, land, consume func(off int64, buf []byte) error) error {
	h := e.hosts.get(job.Host)
	for {
		f := &fetch{
			e: e, job: job, host: h, span: e.spanOf(job.Blob.Size), serial: h.rangesRefused(),
			land: land, consume: consume,
			claimed: offset, turn: offset,
			ready: make(map[int64][]byte), arrived: make(chan struct{}, 1),
		}
		f.lastByte.Store(time.Now().UnixNano())
		err := f.deliver(ctx)
		if !errors.Is(err, ErrNoRanges) {
			return err
		}
		offset = f.turn // what was consumed in order stands; the rest comes again
		h.setNoRanges()
		e.log.Info("registry serves no ranges, reading in one stream", "host", job.Host)
	}
}

// spanOf divides blobs of up to a few spans among several connections too.
func (e *Engine) spanOf(size int64) int64 {
	return int64(class(min(size/4, maxSpan)))
}

func (f *fetch) deliver(ctx context.Context) error {
	workers := 1
	if !f.serial {
		spans := (f.job.Blob.Size - f.claimed + f.span - 1) / f.span
		workers = int(max(1, min(spans, int64(f.e.opts.Connections))))
	}
	group, ctx := errgroup.WithContext(ctx)
	for range workers {
		group.Go(func() error { return f.work(ctx) })
	}
	group.Go(func() error { return f.inOrder(ctx) })
	err := group.Wait()
	for _, buf := range f.ready {
		f.e.buffers.put(buf)
		f.job.progress(-int64(len(buf)))
	}
	return err
}

// work claims spans until none is left. It takes a place at the host first, then a buffer, then the next span. So a
// slow host ties up no more buffers than it has places, and whoever holds the lowest span has all it needs to go on.
func (f *fetch) work(ctx context.Context) error {
	c := &connection{f: f}
	defer c.close()
	for {
		more, err := f.one(ctx, c)
		if err != nil || !more {
			return err
		}
	}
}

// one brings one span into its buffer and, where that is wanted, to the disk. It reports false when none is left.
func (f *fetch) one(ctx context.Context, c *connection) (more bool, err error) {
	if err := f.host.acquire(ctx); err != nil {
		return false, err
	}
	release := sync.OnceFunc(f.host.release)
	defer release()
	span := min(f.span, f.host.span())
	buf, err := f.e.buffers.get(ctx, span, f.host.buffers)
	if err != nil {
		return false, contextError(ctx, err)
	}
	defer func() {
		if err != nil || !more {
			f.e.buffers.put(buf)
		}
	}()
	f.mu.Lock()
	off := f.claimed
	n := min(span, f.job.Blob.Size-off)
	f.claimed += max(n, 0)
	f.mu.Unlock()
	if n <= 0 {
		return false, nil
	}
	full := buf[:n]
	if err := c.fill(ctx, off, full); err != nil {
		return false, err
	}
	release()
	if f.land != nil {
		if err := f.land(off, full); err != nil {
			f.job.progress(-n)
			return false, err
		}
	}
	f.mu.Lock()
	f.ready[off] = full
	f.mu.Unlock()
	select {
	case f.arrived <- struct{}{}:
	default:
	}
	return true, nil
}

func (f *fetch) inOrder(ctx context.Context) error {
	for f.turn < f.job.Blob.Size {
		f.mu.Lock()
		buf, ok := f.ready[f.turn]
		delete(f.ready, f.turn)
		f.mu.Unlock()
		if !ok {
			select {
			case <-f.arrived:
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		off, n := f.turn, int64(len(buf))
		if err := f.consume(off, buf); err != nil {
			return err
		}
		f.turn = off + n
	}
	return nil
}

// connection fills buffers from responses. In serial mode one response serves many buffers.
type connection struct {
	f    *fetch
	body Body
	stop context.CancelFunc
	at   int64 // offset of the next byte of body
	open bool
}

func (c *connection) close() {
	if c.open {
		c.open = false
		_ = c.body.Close()
		c.stop()
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
		n, err := c.read(ctx, off+int64(done), buf[done:])
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
	if !c.open || c.at != off {
		c.close()
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
		stop()
		if errors.Is(err, model.ErrUnavailable) && ctx.Err() == nil {
			f.host.refused(0) // it may have too much to do
		}
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

// contextError prefers the cause of a context's end over what it made fail.
func contextError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// watch ends a response that delivers too little: it looks once an interval.
type watch struct {
	bytes   atomic.Int64
	timer   *time.Timer
	expired atomic.Bool
}

func newWatch(stop context.CancelFunc, interval time.Duration, minRate int64) *watch {
	w := &watch{}
	least := max(1, int64(interval.Seconds()*float64(minRate)))
	var mu sync.Mutex
	mu.Lock() // the function must not run before timer is set
	defer mu.Unlock()
	w.timer = time.AfterFunc(interval, func() {
		mu.Lock()
		defer mu.Unlock()
		if w.bytes.Swap(0) >= least {
			w.timer.Reset(interval)
			return
		}
		w.expired.Store(true)
		stop()
	})
	return w
}

func (w *watch) saw(n int)   { w.bytes.Add(int64(n)) }
func (w *watch) fired() bool { return w.expired.Load() }
func (w *watch) stop()       { w.timer.Stop() }
