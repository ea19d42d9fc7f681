package admin

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type daemon struct {
	wanted store.Room
	err    error
}

func (d *daemon) Status() (Status, error) {
	return Status{Version: "v1", Node: "n", Volumes: []store.Lease{{VolumeID: "csi-1", Reference: "r.io/m:1"}}}, d.err
}

func (d *daemon) Evict(_ context.Context, want store.Room) (store.Evicted, error) {
	d.wanted = want
	return store.Evicted{Views: 1, Room: store.Room{Bytes: 7}}, d.err
}

func start(t *testing.T, d Daemon) (root string) {
	t.Helper()
	root, err := os.MkdirTemp("", "admin-") //nolint:usetesting // the paths of t.TempDir are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- NewServer(root, d, slog.New(slog.DiscardHandler)).Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, os.RemoveAll(root)); err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if info, err := os.Stat(filepath.Join(root, socketName)); err == nil && info.Mode().Perm() == 0o600 {
			return root
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no socket that only its owner can open")
		}
	}
}

func TestAdmin(t *testing.T) {
	d := &daemon{}
	c := NewClient(start(t, d))
	s, err := c.Status(t.Context())
	if err != nil || s.Version != "v1" || len(s.Volumes) != 1 || s.Volumes[0].Reference != "r.io/m:1" {
		t.Errorf("status %+v, %v", s, err)
	}
	e, err := c.Evict(t.Context(), store.Everything)
	if err != nil || e.Bytes != 7 || e.Views != 1 || d.wanted != store.Everything {
		t.Errorf("evicted %+v of %+v, %v", e, d.wanted, err)
	}
	d.err = errors.New("the mounts cannot be listed")
	if _, err := c.Evict(t.Context(), store.Room{}); err == nil || !strings.Contains(err.Error(), d.err.Error()) {
		t.Errorf("a failing daemon: %v", err)
	}
}

func TestNoDaemon(t *testing.T) {
	if _, err := NewClient(t.TempDir()).Status(t.Context()); !errors.Is(err, model.ErrUnavailable) || !strings.Contains(err.Error(), "model-csi node") {
		t.Errorf("error %v", err)
	}
}
