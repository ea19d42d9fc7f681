// Package admin is what root on the node may ask of the running daemon, over a socket in the state root that only root
// can open. The [Server] answers HTTP with JSON; the [Client] is what the command line uses.
package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/internal/serve"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pull"
	"github.com/model-csi/model-csi/pkg/store"
)

// socketName is the name of the socket in the state root.
const socketName = "admin.sock"

// Status is what the node holds and does.
type Status struct {
	Version string          `json:"version"`
	Node    string          `json:"node"`
	Cache   store.Usage     `json:"cache"`
	Volumes []store.Lease   `json:"volumes"`
	Waiting []model.Attempt `json:"waiting"`
	Pulls   []pull.Progress `json:"pulls"`
	Grants  int             `json:"grants"`
}

// Fetch asks for a model to be in the cache before a pod wants it.
type Fetch struct {
	Reference string   `json:"reference"`
	Variant   string   `json:"variant,omitempty"`
	Include   []string `json:"include,omitempty"`
	Exclude   []string `json:"exclude,omitempty"`
	// Keep protects the model from eviction until it is given up.
	Keep bool `json:"keep,omitempty"`
	// Username and Password are tried in addition to what the node has for the reference's registry.
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
}

// Fetched is what came of a Fetch.
type Fetched struct {
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"`
	Format    string        `json:"format"`
	Files     int           `json:"files"`
	Bytes     int64         `json:"bytes"`
	// Warm says that nothing had to be transferred.
	Warm bool `json:"warm"`
}

// Verified is what a look at every cached byte found.
type Verified struct {
	Blobs int   `json:"blobs"`
	Bytes int64 `json:"bytes"`
	// Damaged blobs were taken out of the cache; the next pod that wants one has it fetched again.
	Damaged []digest.Digest `json:"damaged"`
}

// Mount asks for a model at a directory of the node, as kubelet does for a pod.
type Mount struct {
	Directory string `json:"directory"`
	// Attributes are those of a volume; "reference" is among them.
	Attributes map[string]string `json:"attributes"`
	Username   string            `json:"username,omitempty"`
	Password   string            `json:"password,omitempty"`
}

// Progress of a long request. Total is 0 while it is not known.
type Progress struct {
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
	Text  string `json:"text,omitempty"`
}

// Daemon is what the server asks. Methods that take long end when the context does; report may be called from any
// goroutine.
type Daemon interface {
	Status() (Status, error)
	Evict(ctx context.Context, want store.Room) (store.Evicted, error)
	// Models lists what the cache holds.
	Models() ([]store.Model, error)
	// Has reports of each piece of an artifact whether the cache has all of it.
	Has(pieces []pull.Piece) []bool
	// Remove drops the cached models of a reference, or of a digest, that nobody uses.
	Remove(ctx context.Context, name string) (store.Evicted, error)
	// GiveUp lets eviction have what a Fetch with Keep protected.
	GiveUp(reference string) error
	Fetch(ctx context.Context, f Fetch, report func(Progress)) (Fetched, error)
	// Mount mounts a model until Unmount, across restarts of the daemon.
	Mount(ctx context.Context, m Mount, report func(Progress)) error
	Unmount(ctx context.Context, directory string) error
	// Verify reads the whole cache, at most rate bytes a second (0: as fast as the disk), and quarantines what is damaged.
	Verify(ctx context.Context, rate int64, report func(Progress)) (Verified, error)
}

// Server answers on the admin socket.
type Server struct {
	root   string
	daemon Daemon
	log    *slog.Logger
	// stopping ends with Run: long requests shall not hold it up.
	stopping context.Context //nolint:containedctx // the server's own life
}

// NewServer returns a server for the state root.
func NewServer(root string, d Daemon, log *slog.Logger) *Server {
	return &Server{root: root, daemon: d, log: log, stopping: context.Background()}
}

// Run serves until ctx ends. The state root's lock says that no other process has the socket.
func (s *Server) Run(ctx context.Context) error {
	s.stopping = ctx
	path := filepath.Join(s.root, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("admin socket: %w", err)
	}
	listener, err := listen(path)
	if err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	if err := serve.HTTP(ctx, listener, s.handler()); err != nil {
		return fmt.Errorf("admin socket: %w", err)
	}
	return nil
}

// listen makes the socket in a directory that only root can enter, so that its mode is never wider for a moment.
func listen(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		status, err := s.daemon.Status()
		s.answer(w, status, err)
	})
	mux.HandleFunc("GET /v1/cache/models", func(w http.ResponseWriter, _ *http.Request) {
		models, err := s.daemon.Models()
		s.answer(w, models, err)
	})
	handle(s, mux, "POST /v1/cache/has", func(_ *http.Request, pieces []pull.Piece) (any, error) {
		return s.daemon.Has(pieces), nil
	})
	handle(s, mux, "POST /v1/cache/gc", func(r *http.Request, want store.Room) (any, error) {
		return s.daemon.Evict(r.Context(), want)
	})
	handle(s, mux, "POST /v1/cache/rm", func(r *http.Request, name string) (any, error) {
		return s.daemon.Remove(r.Context(), name)
	})
	handle(s, mux, "POST /v1/cache/unpin", func(_ *http.Request, reference string) (any, error) {
		return struct{}{}, s.daemon.GiveUp(reference)
	})
	stream(s, mux, "POST /v1/cache/verify", func(r *http.Request, rate int64, report func(Progress)) (any, error) {
		return s.daemon.Verify(r.Context(), rate, report)
	})
	handle(s, mux, "POST /v1/unmount", func(r *http.Request, directory string) (any, error) {
		return struct{}{}, s.daemon.Unmount(r.Context(), directory)
	})
	stream(s, mux, "POST /v1/mount", func(r *http.Request, m Mount, report func(Progress)) (any, error) {
		return struct{}{}, s.daemon.Mount(r.Context(), m, report)
	})
	stream(s, mux, "POST /v1/prefetch", func(r *http.Request, f Fetch, report func(Progress)) (any, error) {
		return s.daemon.Fetch(r.Context(), f, report)
	})
	return mux
}

// maxRequest is far above what the client sends: the pieces of an artifact with a hundred thousand of them.
const maxRequest = 16 << 20

// untilStopped ends a request's context with the server too: what takes long, such as an eviction, shall not hold up the
// daemon's end. The caller calls end.
func (s *Server) untilStopped(r *http.Request) (_ *http.Request, end func()) {
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(s.stopping, cancel)
	return r.WithContext(ctx), func() {
		stop()
		cancel()
	}
}

// receive decodes the JSON body of a request and calls do, with a context that ends with the server too.
func receive[T any](s *Server, mux *http.ServeMux, pattern string, do func(http.ResponseWriter, *http.Request, T)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		var in T
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r, end := s.untilStopped(r)
		defer end()
		do(w, r, in)
	})
}

// handle serves a request at once.
func handle[T any](s *Server, mux *http.ServeMux, pattern string, do func(*http.Request, T) (any, error)) {
	receive(s, mux, pattern, func(w http.ResponseWriter, r *http.Request, in T) {
		out, err := do(r, in)
		s.answer(w, out, err)
	})
}

// event is a line of the answer to a long request; the last one has a result or an error.
type event struct {
	Progress *Progress       `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    string          `json:"error,omitempty"`
}

// stream serves a request that takes long: its answer is a line of JSON for each step.
func stream[T any](s *Server, mux *http.ServeMux, pattern string, do func(*http.Request, T, func(Progress)) (any, error)) {
	receive(s, mux, pattern, func(w http.ResponseWriter, r *http.Request, in T) {
		w.Header().Set("Content-Type", "application/jsonl")
		var mu sync.Mutex // guards w
		send := func(e event) {
			mu.Lock()
			defer mu.Unlock()
			if err := json.NewEncoder(w).Encode(e); err != nil {
				s.log.Debug("admin answer not delivered", "error", err)
			}
			_ = http.NewResponseController(w).Flush() // a client that is gone is told by the context
		}
		out, err := do(r, in, func(p Progress) { send(event{Progress: &p}) })
		var last event
		if err == nil {
			last.Result, err = json.Marshal(out)
		}
		if err != nil {
			last.Error = err.Error()
		}
		send(last)
	})
}

func (s *Server) answer(w http.ResponseWriter, value any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(value); err != nil {
		s.log.Debug("admin answer not delivered", "error", err)
	}
}

// Client asks the daemon of a state root.
type Client struct {
	root string
	http *http.Client
}

// NewClient returns a client for the daemon that owns the state root.
func NewClient(root string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(root, socketName))
	}
	return &Client{root: root, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Status asks what the node holds and does.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	return s, c.do(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Evict asks to free room by removing what nobody uses.
func (c *Client) Evict(ctx context.Context, want store.Room) (store.Evicted, error) {
	var e store.Evicted
	return e, c.do(ctx, http.MethodPost, "/v1/cache/gc", want, &e)
}

// Models asks what the cache holds.
func (c *Client) Models(ctx context.Context) ([]store.Model, error) {
	var m []store.Model
	return m, c.do(ctx, http.MethodGet, "/v1/cache/models", nil, &m)
}

// Has asks which pieces of an artifact the cache has as a whole; the answer has one word for each.
func (c *Client) Has(ctx context.Context, pieces []pull.Piece) ([]bool, error) {
	var has []bool
	if err := c.do(ctx, http.MethodPost, "/v1/cache/has", pieces, &has); err != nil {
		return nil, err
	}
	if len(has) != len(pieces) {
		return nil, fmt.Errorf("the daemon answers for %d of %d layers; it is not of this version", len(has), len(pieces))
	}
	return has, nil
}

// Remove asks to drop the cached models of a reference or digest.
func (c *Client) Remove(ctx context.Context, name string) (store.Evicted, error) {
	var e store.Evicted
	return e, c.do(ctx, http.MethodPost, "/v1/cache/rm", name, &e)
}

// GiveUp asks to let eviction have what was kept.
func (c *Client) GiveUp(ctx context.Context, reference string) error {
	return c.do(ctx, http.MethodPost, "/v1/cache/unpin", reference, &struct{}{})
}

// Fetch asks to bring a model into the cache, and reports how far it is until it is there.
func (c *Client) Fetch(ctx context.Context, f Fetch, report func(Progress)) (Fetched, error) {
	var out Fetched
	return out, c.follow(ctx, "/v1/prefetch", f, report, &out)
}

// Mount asks for a model at a directory, and reports how far its pull is.
func (c *Client) Mount(ctx context.Context, m Mount, report func(Progress)) error {
	return c.follow(ctx, "/v1/mount", m, report, &struct{}{})
}

// Unmount asks to take a model away from a directory.
func (c *Client) Unmount(ctx context.Context, directory string) error {
	return c.do(ctx, http.MethodPost, "/v1/unmount", directory, &struct{}{})
}

// Verify asks to read the whole cache.
func (c *Client) Verify(ctx context.Context, rate int64, report func(Progress)) (Verified, error) {
	var out Verified
	return out, c.follow(ctx, "/v1/cache/verify", rate, report, &out)
}

// follow reads the answer to a long request.
func (c *Client) follow(ctx context.Context, path string, body any, report func(Progress), into any) error {
	resp, err := c.send(ctx, http.MethodPost, path, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	for d := json.NewDecoder(resp.Body); ; {
		var e event
		if err := d.Decode(&e); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("the daemon hung up before it was done, as it does when it is stopped: %w", err)
		}
		switch {
		case e.Error != "":
			return fmt.Errorf("the daemon says: %s", e.Error)
		case e.Result != nil:
			return json.Unmarshal(e.Result, into)
		case e.Progress != nil && report != nil:
			report(*e.Progress)
		}
	}
}

func (c *Client) do(ctx context.Context, method, path string, body, into any) error {
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

const maxAnswer = 64 << 20

// send makes a request and returns the answer if it is one of success; the caller closes its body.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	payload, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, bytes.NewReader(payload))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, fmt.Errorf("no daemon answers for state root %s; is \"model-csi node --root %s\" running? (%w): %w", c.root, c.root, err, model.ErrUnavailable)
	}
	if errors.Is(err, unix.EACCES) {
		return nil, fmt.Errorf("the daemon of state root %s talks to root only: %w", c.root, model.ErrDenied)
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		return nil, errors.Join(fmt.Errorf("the daemon says: %s", bytes.TrimSpace(text)), err, resp.Body.Close())
	}
	return resp, nil
}
