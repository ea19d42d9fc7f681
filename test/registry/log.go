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
	// Active requests, not answered yet.
	Active int
}

type requestLog struct {
	blobBytes atomic.Int64
	active    atomic.Int64

	mu       sync.Mutex
	requests []Request
}

func (l *requestLog) begin(Request) { l.active.Add(1) }

func (l *requestLog) end(q Request) {
	l.mu.Lock()
	l.requests = append(l.requests, q)
	l.mu.Unlock()
	l.active.Add(-1)
}

// Requests that were answered since the start or the last ResetStats, in the order of their ends.
func (r *Registry) Requests() []Request {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	return slices.Clone(r.log.requests)
}

// ResetStats forgets all requests.
func (r *Registry) ResetStats() {
	r.log.mu.Lock()
	defer r.log.mu.Unlock()
	r.log.requests = nil
	r.log.blobBytes.Store(0)
}

// Stats since the start or the last ResetStats.
func (r *Registry) Stats() Stats {
	s := Stats{BlobGets: map[digest.Digest]int{}, BlobBytes: r.log.blobBytes.Load(), Active: int(r.log.active.Load())}
	for _, q := range r.Requests() {
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
