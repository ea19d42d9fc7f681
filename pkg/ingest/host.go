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
	// measureEvery is how often the number of connections is reconsidered.
	measureEvery = time.Second
	// growth is how much more throughput a further connection must have brought for another one to be tried.
	growth = 1.05
	// forgetNoRanges is when a server that ignored a range is given another chance.
	forgetNoRanges = 10 * time.Minute
)

// hosts holds what was learned about each server.
type hosts struct {
	max int

	mu     sync.Mutex // guards byName
	byName map[string]*host
}

func newHosts(limit int) *hosts { return &hosts{max: limit, byName: make(map[string]*host)} }

func (h *hosts) get(name string) *host {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byName[name] == nil {
		h.byName[name] = &host{limit: min(firstConnections, h.max), max: h.max}
	}
	return h.byName[name]
}

// host limits the requests under way to one server. The limit grows while growing brings throughput, and is halved
// when the server says that it is too much. A pause that the server asked for holds back everybody's next request.
type host struct {
	max     int
	buffers share // guarded by the pool

	mu       sync.Mutex // guards what follows
	limit    int
	active   int
	starved  bool // somebody had to wait since the last measurement
	until    time.Time
	queue    []chan struct{} // those who wait for a place, oldest first; closed when they have it
	pausing  bool            // a timer runs for the end of the pause
	noRanges time.Time       // until when the server is not asked for ranges
	bytes    int64
	since    time.Time
	best     float64
	rate     float64 // bytes a second of one response, smoothed; 0 while unknown
	pace     pace
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

// delivered counts bytes that arrived and reconsiders the limit once a second.
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
	if elapsed < measureEvery {
		return
	}
	rate := float64(h.bytes) / elapsed.Seconds()
	if h.starved && rate > h.best*growth && h.limit < h.max {
		h.best = rate
		h.limit = min(h.limit*2, h.max)
		h.admit()
	}
	h.bytes, h.since, h.starved = 0, now, false
}

const (
	// firstSpan is asked for while a host's speed is unknown.
	firstSpan = 4 << 20
	// slowSpan is asked for from the slowest hosts.
	slowSpan = 1 << 20
)

// span is how much to ask for at once, in bytes: what one response delivers in about a second. So the memory that a
// host ties up follows its speed, and one that trickles takes little from the others.
func (h *host) span() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rate == 0 {
		return firstSpan
	}
	return max(slowSpan, int64(class(int64(min(h.rate, maxSpan)))))
}

// took notes how long one response needed for n bytes.
func (h *host) took(n int, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
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
	h.limit = max(1, h.limit/2)
	h.best = 0
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
