// Package registry runs the CNCF distribution registry in the process of a test, over TLS on an address that pods
// reach, and packs models into it. Every request is counted; blobs can be throttled and corrupted.
package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd" // Options.User
	"github.com/distribution/distribution/v3/registry/handlers"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // Options.Dir
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/time/rate"
)

// Options describe a registry.
type Options struct {
	Address string      // host:port to listen on; a port of 0 is replaced by a free one
	TLS     *tls.Config // the server's certificate
	Dir     string      // where blobs are kept
	// User and Password are asked for with HTTP Basic authentication; an empty user admits everybody.
	User, Password string
	// Want is a header that requests for blobs must have, as mirrors of several registries ask for; others get 404.
	Want http.Header
}

// Registry is a running registry.
type Registry struct {
	Options
	server *http.Server
	app    http.Handler

	mu       sync.Mutex // guards all below
	blobs    map[string]Traffic
	corrupt  map[string]bool
	limiters map[string]*rate.Limiter // by repository
}

// Traffic is what a registry sent of one blob.
type Traffic struct {
	Requests int   // GET requests
	Bytes    int64 // of their bodies
}

// Start starts a registry; the caller closes it.
func Start(o Options) (*Registry, error) {
	config := &configuration.Configuration{
		Version: "0.1",
		Storage: configuration.Storage{
			"filesystem": {"rootdirectory": o.Dir},
			"delete":     {"enabled": true},
		},
	}
	// Its warnings are the refusals that tests ask for, and reach the client.
	logrus.SetLevel(logrus.FatalLevel)
	config.Log.AccessLog.Disabled = true
	config.HTTP.Secret = "end-to-end"
	config.Catalog.MaxEntries = 1000
	if o.User != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(o.Password), bcrypt.MinCost)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(o.Dir, "htpasswd")
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, fmt.Appendf(nil, "%s:%s\n", o.User, hash), 0o600); err != nil {
			return nil, err
		}
		config.Auth = configuration.Auth{"htpasswd": {"realm": "models", "path": file}}
	}
	listener, err := tls.Listen("tcp", o.Address, o.TLS)
	if err != nil {
		return nil, fmt.Errorf("listen for the registry: %w", err)
	}
	o.Address = listener.Addr().String()
	r := &Registry{
		Options: o, app: handlers.NewApp(context.Background(), config),
		blobs: map[string]Traffic{}, corrupt: map[string]bool{}, limiters: map[string]*rate.Limiter{},
	}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(discard{}, "", 0)}
	go func() {
		if err := r.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Println("registry:", err)
		}
	}()
	return r, nil
}

// Close ends the registry and every connection to it.
func (r *Registry) Close() error { return r.server.Close() }

// Reference names a model of this registry.
func (r *Registry) Reference(repository, tag string) string {
	return r.Address + "/" + repository + ":" + tag
}

// Throttle limits what is sent of a repository's blobs, all connections together. Zero lifts the limit, also for answers
// that are on their way.
func (r *Registry) Throttle(repository string, bytesPerSecond int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old := r.limiters[repository]; old != nil {
		old.SetLimit(rate.Inf)
		delete(r.limiters, repository)
	}
	if bytesPerSecond > 0 {
		r.limiters[repository] = rate.NewLimiter(rate.Limit(bytesPerSecond), chunk)
	}
}

// Corrupt makes every later answer with the blob differ from it in one byte.
func (r *Registry) Corrupt(digest string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.corrupt[digest] = true
}

// Blob is what was sent of a blob so far.
func (r *Registry) Blob(digest string) Traffic {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blobs[digest]
}

// Total is what was sent of several blobs so far.
func (r *Registry) Total(digests []string) (t Traffic) {
	for _, d := range digests {
		b := r.Blob(d)
		t.Requests += b.Requests
		t.Bytes += b.Bytes
	}
	return t
}

// ServeHTTP counts and spoils what the distribution registry answers.
func (r *Registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	path, isAPI := strings.CutPrefix(q.URL.Path, "/v2/")
	repository, digest, isBlob := strings.Cut(path, "/blobs/")
	if !isAPI || !isBlob || q.Method != http.MethodGet || strings.HasPrefix(digest, "uploads/") {
		r.app.ServeHTTP(w, q)
		return
	}
	for name := range r.Want {
		if q.Header.Get(name) != r.Want.Get(name) {
			http.NotFound(w, q)
			return
		}
	}
	r.mu.Lock()
	t := r.blobs[digest]
	t.Requests++
	r.blobs[digest] = t
	sender := &blobWriter{ResponseWriter: w, ctx: q.Context(), registry: r, digest: digest,
		corrupt: r.corrupt[digest], limiter: r.limiters[repository]}
	r.mu.Unlock()
	r.app.ServeHTTP(sender, q)
}

// chunk is the most that is written at once, so that a throttled connection trickles rather than bursts.
const chunk = 16 << 10

// blobWriter sends a blob's body. It hides the ResponseWriter's other interfaces, which would go around Write.
type blobWriter struct {
	http.ResponseWriter
	ctx      context.Context
	registry *Registry
	digest   string
	corrupt  bool
	limiter  *rate.Limiter
	failed   bool // an answer that carries no blob
}

func (w *blobWriter) WriteHeader(status int) {
	w.failed = status >= http.StatusMultipleChoices
	w.ResponseWriter.WriteHeader(status)
}

func (w *blobWriter) Write(p []byte) (n int, err error) {
	if w.failed {
		return w.ResponseWriter.Write(p)
	}
	for n < len(p) && err == nil {
		part := p[n:min(len(p), n+chunk)]
		if w.corrupt {
			part = append([]byte{part[0] ^ 1}, part[1:]...)
		}
		if w.limiter != nil {
			if err := w.limiter.WaitN(w.ctx, len(part)); err != nil {
				return n, err
			}
		}
		var m int
		m, err = w.ResponseWriter.Write(part)
		n += m
		w.registry.mu.Lock()
		t := w.registry.blobs[w.digest]
		t.Bytes += int64(m)
		w.registry.blobs[w.digest] = t
		w.registry.mu.Unlock()
	}
	return n, err
}

// discard swallows the server's notes about clients that hung up or trust another authority.
type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
