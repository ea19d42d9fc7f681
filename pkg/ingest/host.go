package ingest

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// firstConnections is what a host gets before anything is known about it.
	firstConnections = 4
	// measureAfter is how long the throughput is measured at least before the number of connections is reconsidered, and
	// measureRounds how many responses on each of them that takes, unless they take longer than measureLatest.
	measureAfter  = 100 * time.Millisecond
	measureLatest = time.Second
	measureRounds = 2
	// growth is how much more throughput twice the connections must have brought to be kept.
	growth = 1.25
	// tryAgain is how long a host keeps its number of connections when twice as many have brought nothing.
	tryAgain = 10 * time.Second
	// forgetNoRanges is when a server that ignored a range is given another chance.
	forgetNoRanges = 10 * time.Minute
)

// hosts holds what was learned about each server.
type hosts struct {
	max    int
	memory int64 // what one host may hold, in bytes

	mu     sync.Mutex // guards byName
	byName map[string]*host
}

func newHosts(limit int, memory int64) *hosts {
	return &hosts{max: limit, memory: memory, byName: make(map[string]*host)}
}

func (h *hosts) get(name string) *host {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byName[name] == nil {
		h.byName[name] = &host{limit: min(firstConnections, h.max), max: h.max, memory: h.memory}
	}
	return h.byName[name]
}

// host limits the requests under way to one server. The limit is doubled while that brings throughput, goes back where it
// brought none, and is halved when the server says that it is too much. A pause that the server asked for holds back
// everybody's next request.
type host struct {
	max     int
	memory  int64
	buffers share // guarded by the pool

	mu       sync.Mutex // guards what follows
	limit    int
	active   int
	until    time.Time
	queue    []chan struct{} // those who wait for a place, oldest first; closed when they have it
	pausing  bool            // a timer runs for the end of the pause
	noRanges time.Time       // until when the server is not asked for ranges
	rate     float64         // bytes a second of one response, smoothed; 0 while unknown
	pace     pace

	// What is measured since the limit was last reconsidered.
	since     time.Time
	bytes     int64
	responses int
	starved   bool // somebody had to wait
	older     int  // responses under way that began under another limit: nothing counts before they have ended
	settled   bool // the limit that serves best was found once
	// What the limit is compared with.
	before  int       // the limit that was doubled to try the present one; 0 when none is tried
	best    float64   // bytes a second with that
	doubted bool      // the present one brought nothing the last time it was measured
	calm    time.Time // until when nothing is tried
}

// acquire waits for a place. Give it back with release.
func (h *host) acquire(ctx context.Context) error {
	h.mu.Lock()
	mine := make(chan struct{})
	h.queue = append(h.queue, mine)
	h.admit()
	h.mu.Unlock()
	select {
	case <-mine:
		return nil
	default:
	}
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.queue, mine); i >= 0 {
		h.queue = slices.Delete(h.queue, i, i+1)
	} else {
		h.active-- // it came at the same time
		h.admit()
	}
	return context.Cause(ctx)
}

func (h *host) release() {
	h.mu.Lock()
	h.active--
	h.admit()
	h.mu.Unlock()
}

// admit gives places to those who wait, or has itself called when the pause is over. The caller holds mu.
func (h *host) admit() {
	if len(h.queue) == 0 {
		return
	}
	if pause := time.Until(h.until); pause > 0 {
		h.starved = true
		if !h.pausing {
			h.pausing = true
			time.AfterFunc(pause, func() {
				h.mu.Lock()
				defer h.mu.Unlock()
				h.pausing = false
				h.admit()
			})
		}
		return
	}
	for len(h.queue) > 0 && h.active < h.limit {
		h.active++
		close(h.queue[0])
		h.queue = h.queue[1:]
	}
	h.starved = h.starved || len(h.queue) > 0
}

// delivered counts bytes that arrived, and reconsiders the limit when enough is known.
func (h *host) delivered(n int) {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.since.IsZero() {
		h.since = now
	}
	h.bytes += int64(n)
	h.pace.delivered += int64(n)
	elapsed := now.Sub(h.since)
	few := elapsed < measureAfter || h.older > 0 || h.responses < measureRounds*h.limit
	if few && elapsed < measureLatest {
		return
	}
	before := h.limit
	h.measured(float64(h.bytes)/elapsed.Seconds(), now)
	if h.older = 0; h.limit != before {
		h.older = h.active
	}
	h.measureAnew(now)
	h.admit()
}

func (h *host) measureAnew(now time.Time) {
	h.bytes, h.responses, h.since, h.starved = 0, 0, now, len(h.queue) > 0
}

// measured decides on the limit, given the bytes a second that came since the last decision. The caller holds mu.
func (h *host) measured(rate float64, now time.Time) {
	tried := h.before > 0
	switch {
	case !h.starved:
		h.before, h.settled = 0, true // nobody wanted more: it says nothing about what more would bring
	case tried && rate < h.best*growth && !h.doubted:
		h.doubted = true // the disk or a neighbour may have been in the way: it is measured once more
	case tried && rate < h.best*growth:
		h.limit, h.before, h.doubted, h.settled = h.before, 0, false, true
		h.calm = now.Add(tryAgain)
	case h.limit == h.max || !tried && now.Before(h.calm):
		h.before, h.settled = 0, true
	default:
		h.best, h.before, h.doubted = rate, h.limit, false
		h.limit = min(2*h.limit, h.max)
	}
}

const (
	// firstSpan is asked for while a host's speed is unknown.
	firstSpan = 4 << 20
	// slowSpan is asked for from the slowest hosts.
	slowSpan = 1 << 20
)

// span is how much to ask for at once, in bytes: what one response delivers in about a second, as far as all that are
// under way at once fit into memory. So the memory that a host ties up follows its speed, and one that trickles takes
// little from the others.
func (h *host) span() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rate == 0 {
		return firstSpan
	}
	span := int64(class(int64(min(h.rate, maxSpan))))
	connections := int64(h.limit)
	if !h.settled {
		connections *= 2 // there must be room to try more of them
	}
	for span > slowSpan && span*connections > h.memory {
		span /= 2
	}
	return max(slowSpan, span)
}

// took notes how long one response needed for n bytes.
func (h *host) took(n int, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.responses++
	if h.older > 0 {
		if h.older--; h.older == 0 {
			h.measureAnew(time.Now())
		}
	}
	h.pace.took(n, d)
	if n < minSpan {
		return // says more about the latency than about the speed
	}
	rate := float64(n) / max(d.Seconds(), 1e-6)
	if h.rate == 0 {
		h.rate = rate
	}
	const weight = 0.3
	h.rate += weight * (rate - h.rate)
}

// refused notes that the server has too much to do: fewer requests, and none before the pause is over.
func (h *host) refused(pause time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.limit, h.before = max(1, h.limit/2), 0
	h.pace.refused = time.Now()
	if until := time.Now().Add(pause); until.After(h.until) {
		h.until = until
	}
}

func (h *host) setNoRanges() {
	h.mu.Lock()
	h.noRanges = time.Now().Add(forgetNoRanges)
	h.mu.Unlock()
}

func (h *host) rangesRefused() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.noRanges)
}

// backoff is the pause before attempt n (from 1 on): doubling, with jitter over its upper half.
func backoff(n int) time.Duration {
	d := retryMax
	if n < 16 {
		d = min(retryBase<<(n-1), retryMax)
	}
	return d/2 + rand.N(d/2) //nolint:gosec // jitter needs no secrecy
}
