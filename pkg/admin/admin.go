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
	Pulls   []pull.Progress `json:"pulls"`
	Grants  int             `json:"grants"`
}

// Daemon is what the server asks.
type Daemon interface {
	Status() (Status, error)
	Evict(ctx context.Context, want store.Room) (store.Evicted, error)
}

// Server answers on the admin socket.
type Server struct {
	root   string
	daemon Daemon
	log    *slog.Logger
}

// NewServer returns a server for the state root.
func NewServer(root string, d Daemon, log *slog.Logger) *Server {
	return &Server{root: root, daemon: d, log: log}
}

// Run serves until ctx ends. The state root's lock says that no other process has the socket.
func (s *Server) Run(ctx context.Context) error {
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
	mux.HandleFunc("POST /v1/cache/gc", func(w http.ResponseWriter, r *http.Request) {
		var want store.Room
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&want); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		evicted, err := s.daemon.Evict(r.Context(), want)
		s.answer(w, evicted, err)
	})
	return mux
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

func (c *Client) do(ctx context.Context, method, path string, body, into any) error {
	payload, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://node"+path, bytes.NewReader(payload))
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("no daemon answers for state root %s; is \"model-csi node --root %s\" running? (%w): %w", c.root, c.root, err, model.ErrUnavailable)
	}
	if errors.Is(err, unix.EACCES) {
		return fmt.Errorf("the daemon of state root %s talks to root only: %w", c.root, model.ErrDenied)
	}
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	const maxAnswer = 64 << 20
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the daemon says: %s", bytes.TrimSpace(data))
	}
	return json.Unmarshal(data, into)
}
