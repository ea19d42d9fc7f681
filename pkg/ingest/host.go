package ingest

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
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
	max    int
	memory int64 // that one host may hold, in bytes

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
		h.byName[name] = &host{limit: min(firstConnections, h.max), max: h.max, wake: make(chan struct{}), buffers: semaphore.NewWeighted(h.memory)}
	}
	return h.byName[name]
}

// host limits the requests under way to one server. The limit grows while growing brings throughput, and is halved
// when the server says that it is too much. A pause that the server asked for holds back everybody's next request.
type host struct {
	max int

	mu       sync.Mutex // guards what follows
	limit    int
	active   int
	starved  bool // somebody had to wait since the last measurement
	until    time.Time
	wake     chan struct{} // closed and replaced when a place may have become free
	noRanges time.Time     // until when the server is not asked for ranges
	bytes    int64
	since    time.Time
	best     float64
	buffers  *semaphore.Weighted // what the host may hold of the memory, in bytes
	rate     float64             // bytes a second of one response, smoothed; 0 while unknown
}

// acquire waits for a place. Give it back with release.
func (h *host) acquire(ctx context.Context) error {
	for {
		h.mu.Lock()
		pause := time.Until(h.until)
		if pause <= 0 && h.active < h.limit {
			h.active++
			h.mu.Unlock()
			return nil
		}
		h.starved = true
		wake := h.wake
		h.mu.Unlock()
		var timer <-chan time.Time
		if pause > 0 {
			timer = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-wake:
		case <-timer:
		}
	}
}

func (h *host) release() {
	h.mu.Lock()
	h.active--
	h.broadcast()
	h.mu.Unlock()
}

func (h *host) broadcast() {
	close(h.wake)
	h.wake = make(chan struct{})
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
	elapsed := now.Sub(h.since)
	if elapsed < measureEvery {
		return
	}
	rate := float64(h.bytes) / elapsed.Seconds()
	if h.starved && rate > h.best*growth && h.limit < h.max {
		h.best = rate
		h.limit = min(h.limit*2, h.max)
		h.broadcast()
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
	if n < minSpan {
		return // says more about the latency than about the speed
	}
	rate := float64(n) / max(d.Seconds(), 1e-6)
	h.mu.Lock()
	defer h.mu.Unlock()
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
