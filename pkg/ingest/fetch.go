package ingest

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
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
	buf, err := f.e.buffers.get(ctx, span, &f.host.buffers)
	if err != nil {
		return false, contextError(ctx, err)
	}
	defer func() {
		if err != nil || !more {
			f.e.buffers.put(buf)
		}
	}()
	span = min(span, int64(len(buf)))
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
