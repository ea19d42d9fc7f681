package registry

import (
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// Request is one request and its answer.
type Request struct {
	Time     time.Time
	Duration time.Duration
	Method   string
	Kind     Kind
	Path     string
	// Repository, and the Reference in it: a tag or a digest.
	Repository, Reference string
	// Range is the request's header.
	Range string
	// User of Basic authentication, also at the token service.
	User   string
	Agent  string
	Remote string
	Status int
	// Bytes of the body that were handed to the connection.
	Bytes int64
}

// Stats sums up what clients read.
type Stats struct {
	// BlobGets counts successful downloads by digest; a ranged read counts like any other.
	BlobGets map[digest.Digest]int
	// RangedGets counts those of them that were answered with 206.
	RangedGets int
	// BlobBytes were sent in downloads, the ones going on included.
	BlobBytes int64
	// ManifestGets and ManifestHeads count reads of manifests, whatever the answer was.
	ManifestGets, ManifestHeads int
	// Failures counts answers of 400 and above, challenges (401) excluded.
	Failures int
	// Requests counts everything that was answered.
	Requests int
	// Active requests, not answered yet. What they are about is complete in the other numbers when it is 0.
	Active int
}

type requestLog struct {
	active atomic.Int64

	mu  sync.Mutex
	now *period
}

// period is what was counted from one ResetStats to the next. A request belongs to that in which it began: its client may
// have all of an answer before the server has noted that it sent it.
type period struct {
	blobBytes atomic.Int64
	requests  []Request // guarded by the log's mu
}

func (l *requestLog) begin() *period {
	l.active.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

func (l *requestLog) end(p *period, q Request) {
	l.mu.Lock()
	p.requests = append(p.requests, q)
	l.mu.Unlock()
	l.active.Add(-1)
}

// Requests that came since the start or the last ResetStats and were answered, in the order of their ends. A request is
// answered once its handler has ended, which may be a moment after its client has everything: see [Stats.Active].
func (r *Registry) Requests() []Request {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	return slices.Clone(r.log.now.requests)
}

// ResetStats forgets all requests, those that are not answered yet as well.
func (r *Registry) ResetStats() {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.log.now = &period{}
}

// Stats since the start or the last ResetStats.
func (r *Registry) Stats() Stats {
	// Active is read first: where it is 0, what follows is complete.
	s := Stats{BlobGets: map[digest.Digest]int{}, Active: int(r.log.active.Load())}
	r.log.mu.Lock()
	requests := slices.Clone(r.log.now.requests)
	s.BlobBytes = r.log.now.blobBytes.Load()
	r.log.mu.Unlock()
	for _, q := range requests {
		s.Requests++
		if q.Status >= http.StatusBadRequest && q.Status != http.StatusUnauthorized {
			s.Failures++
		}
		switch {
		case q.Kind == KindManifest && q.Method == http.MethodGet:
			s.ManifestGets++
		case q.Kind == KindManifest && q.Method == http.MethodHead:
			s.ManifestHeads++
		case (q.Kind == KindBlob || q.Kind == KindCDN) && q.Method == http.MethodGet && (q.Status == http.StatusOK || q.Status == http.StatusPartialContent):
			s.BlobGets[digest.Digest(q.Reference)]++
			if q.Status == http.StatusPartialContent {
				s.RangedGets++
			}
		}
	}
	return s
}
