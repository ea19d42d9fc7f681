package registry

import (
	"net/url"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// routeLife is how long the target of a redirect is used without asking the registry again. Signed URLs live for ten
// minutes at the least where registries leave the default; a shorter time here lets a revoked permission end a pull.
const routeLife = 5 * time.Minute

// routes remembers, for the life of a repository, where blobs are: which URL the registry redirected to, which mirrors
// do not have them, and which have sent bytes.
type routes struct {
	mu      sync.Mutex
	targets map[routeKey]target
	missing map[routeKey]bool
	served  map[routeKey]bool
}

type routeKey struct {
	client *client
	digest digest.Digest
}

type target struct {
	url   *url.URL
	until time.Time
}

func newRoutes() *routes {
	return &routes{targets: map[routeKey]target{}, missing: map[routeKey]bool{}, served: map[routeKey]bool{}}
}

func (r *routes) target(c *client, d digest.Digest) *url.URL {
	r.mu.Lock()
	defer r.mu.Unlock()
	if t, ok := r.targets[routeKey{c, d}]; ok && time.Now().Before(t.until) {
		return t.url
	}
	return nil
}

func (r *routes) learn(c *client, d digest.Digest, u *url.URL) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.targets[routeKey{c, d}] = target{u, time.Now().Add(routeLife)}
}

// forget drops the target u, unless another request has already replaced it.
func (r *routes) forget(c *client, d digest.Digest, u *url.URL) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.targets[routeKey{c, d}].url == u {
		delete(r.targets, routeKey{c, d})
	}
}

func (r *routes) lacks(c *client, d digest.Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.missing[routeKey{c, d}]
}

// lose notes that a mirror does not have the blob, or does not give it.
func (r *routes) lose(c *client, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missing[routeKey{c, d}] = true
}

// serve notes that a mirror sends bytes of the blob.
func (r *routes) serve(c *client, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.served[routeKey{c, d}] = true
}

// distrust loses all mirrors that have sent bytes of the blob, and returns them.
func (r *routes) distrust(d digest.Digest) []*client {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*client
	for key := range r.served {
		if key.digest == d {
			r.missing[key] = true
			delete(r.served, key)
			out = append(out, key.client)
		}
	}
	return out
}
