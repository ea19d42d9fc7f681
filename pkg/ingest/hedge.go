package ingest

import (
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// A range that takes much longer than others, and of which nothing has come lately, is asked for a second time, on another
// connection; whichever is complete first counts. It is for the one connection that has died without saying so, or leads to the one slow server behind a
// name, while the host as a whole is well. It must not add to the load of a host that has too much of it.
const (
	// hedgeAfter is how long any range may take before it can be asked for again.
	hedgeAfter = 3 * time.Second
	// hedgeSlower is how much longer than nearly all others it has to take.
	hedgeSlower = 3
	// hedgeLook is how often a range that has taken so long is looked at.
	hedgeLook = time.Second
	// hedgeCalm is how long nothing is asked twice of a host that has refused something.
	hedgeCalm = 30 * time.Second
	// hedgeShare is the part of what a host has delivered that may be asked for twice, and hedgeFree comes on top, in
	// bytes, so that small models are helped, too.
	hedgeShare = 0.02
	hedgeFree  = maxSpan
	// paceSamples is how many of the last responses are compared with, and paceKnown how many that takes at least.
	paceSamples = 64
	paceKnown   = 2
	// paceUnit is what samples are about, in bytes. Shorter responses than half of it are no samples: their time is mostly
	// waiting, and says nothing about a host that is slow by the byte.
	paceUnit = 1 << 20
)

// pace is what is known about how long a host's responses take.
type pace struct {
	samples   [paceSamples]float64 // seconds for paceUnit, the last ones in turn
	count     int
	delivered int64 // bytes
	hedged    int64 // bytes that were asked for twice
	hedging   bool  // a second request is under way
	refused   time.Time
}

func (p *pace) took(n int, d time.Duration) {
	if n < paceUnit/2 {
		return
	}
	p.samples[p.count%paceSamples] = d.Seconds() * paceUnit / float64(n)
	p.count++
}

// slow reports whether n bytes that have taken so long are overdue: that nearly all responses were much faster.
func (p *pace) slow(n int, elapsed time.Duration) bool {
	if p.count < paceKnown || elapsed < hedgeAfter {
		return false
	}
	known := slices.Sorted(slices.Values(p.samples[:min(p.count, paceSamples)]))
	p95 := known[(len(known)*95-1)/100]
	return elapsed.Seconds() > hedgeSlower*p95*float64(max(n, paceUnit))/paceUnit
}

// allows reports whether n bytes may be asked for twice now.
func (p *pace) allows(n int64, now time.Time) bool {
	return !p.hedging && now.Sub(p.refused) >= hedgeCalm &&
		p.hedged+n <= hedgeFree+int64(hedgeShare*float64(p.delivered))
}

// beginHedge takes the right to ask for n bytes of a range a second time, if that is due.
func (h *host) beginHedge(whole int, rest int64, elapsed time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.pace.slow(whole, elapsed) || !h.pace.allows(rest, time.Now()) {
		return false
	}
	h.pace.hedging = true
	return true
}

func (h *host) endHedge(bytes int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pace.hedging = false
	h.pace.hedged += bytes
}

// hedge is the second request for the rest of a range.
type hedge struct {
	begun atomic.Bool
	done  chan struct{} // closed when nothing of the hedge runs any more
	// What follows is valid once done is closed.
	won  bool
	from int    // offset in the range
	buf  []byte // what came; nil if there was no second request
}

// attempt is read with a second request when the first one takes too long.
func (c *connection) attempt(ctx context.Context, off int64, buf []byte) (int, error) {
	if c.f.serial {
		return c.read(ctx, off, buf)
	}
	second, endSecond := context.WithCancel(ctx)
	defer endSecond()
	first, endFirst := context.WithCancel(ctx)
	c.endAttempt = endFirst // the response lives until fill has finished it
	h := &hedge{done: make(chan struct{})}
	timer := time.AfterFunc(hedgeAfter, func() {
		defer close(h.done)
		h.run(second, c, off, buf, endFirst)
	})
	n, err := c.read(first, off, buf)
	if timer.Stop() {
		return n, err // nothing was started: nearly always
	}
	if err == nil || !h.begun.Load() {
		endSecond()
	}
	<-h.done
	if h.buf != nil {
		defer c.f.e.buffers.put(h.buf)
	}
	if err == nil || !h.won {
		return n, err
	}
	c.close()
	copy(buf[n:], h.buf[n-h.from:])
	c.f.job.progress(int64(len(buf) - n))
	return len(buf), nil
}

// run waits until the range is overdue, and fetches its rest into a buffer of its own. When that is complete it ends the
// first request. Once begun it goes on even if the first request fails meanwhile.
func (h *hedge) run(ctx context.Context, c *connection, off int64, buf []byte, endFirst context.CancelFunc) {
	f := c.f
	if !h.due(ctx, c, len(buf)) {
		return
	}
	h.begun.Store(true)
	n, rest := 0, len(buf)-h.from
	defer func() { f.host.endHedge(int64(n)) }()
	b := f.e.buffers.extra(int64(rest), &f.host.buffers)
	if b == nil {
		return
	}
	h.buf = b[:rest]
	f.e.log.Debug("range takes long, asking a second time", "host", f.job.Host, "blob", f.job.Blob.Digest, "offset", off)
	if n = f.second(ctx, off+int64(h.from), h.buf); n == rest {
		h.won = true
		endFirst()
	}
}

// due waits until the range has to be asked for a second time, and reports false when that never came.
func (h *hedge) due(ctx context.Context, c *connection, length int) bool {
	tick := time.NewTicker(hedgeLook)
	defer tick.Stop()
	still := time.Duration(0) // for how long nothing has come
	if c.got.Load() == 0 {
		still = hedgeAfter
	}
	for elapsed := hedgeAfter; ; elapsed += hedgeLook {
		before := h.from
		h.from = int(c.got.Load())
		if h.from != before {
			still = 0
		}
		// Bytes that keep coming, however slowly, would come no faster to somebody else: the link or a quota sets the pace.
		if rest := length - h.from; rest > 0 && still >= hedgeAfter && c.f.host.beginHedge(length, int64(rest), elapsed) {
			return true
		}
		still += hedgeLook
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
}

// second reads a range without any further attempt, and returns how much came.
func (f *fetch) second(ctx context.Context, off int64, buf []byte) int {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watch := newWatch(cancel, f.e.opts.IdleTimeout, f.e.opts.MinRate)
	defer watch.stop()
	body, err := f.job.Open(ctx, off, int64(len(buf)))
	if err != nil {
		return 0
	}
	defer func() { _ = body.Close() }() // all that counts was read
	if body.Offset != off || body.Length >= 0 && body.Length != int64(len(buf)) {
		return 0
	}
	n := 0
	for n < len(buf) {
		k, err := body.Read(buf[n:])
		n += k
		watch.saw(k)
		f.host.delivered(k)
		if err != nil {
			break
		}
	}
	return n
}
