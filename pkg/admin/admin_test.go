package admin

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pull"
	"github.com/model-csi/model-csi/pkg/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type daemon struct {
	wanted store.Room
	asked  []string
	err    error
	// silent is how many pieces Has says nothing of.
	silent int
	// evicting is closed by an eviction that then does not end by itself.
	evicting chan struct{}
}

func (d *daemon) Status() (Status, error) {
	return Status{Version: "v1", Node: "n", Volumes: []store.Lease{{VolumeID: "csi-1", Reference: "r.io/m:1"}}}, d.err
}

func (d *daemon) Evict(ctx context.Context, want store.Room) (store.Evicted, error) {
	d.wanted = want
	if d.evicting != nil {
		close(d.evicting)
		<-ctx.Done()
		return store.Evicted{}, context.Cause(ctx)
	}
	return store.Evicted{Views: 1, Room: store.Room{Bytes: 7}}, d.err
}

func (d *daemon) Models() ([]store.Model, error) {
	return []store.Model{{References: []string{"r.io/m:1"}, Bytes: 7}}, d.err
}

func (d *daemon) Has(pieces []pull.Piece) (out []bool) {
	for _, p := range pieces[:max(0, len(pieces)-d.silent)] {
		out = append(out, p.Archive)
	}
	return out
}

func (d *daemon) Remove(_ context.Context, name string) (store.Evicted, error) {
	d.asked = append(d.asked, "rm "+name)
	return store.Evicted{Blobs: 2}, d.err
}

func (d *daemon) GiveUp(reference string) error {
	d.asked = append(d.asked, "unpin "+reference)
	return d.err
}

func (d *daemon) Fetch(ctx context.Context, f Fetch, report func(Progress)) (Fetched, error) {
	d.asked = append(d.asked, "fetch "+f.Reference)
	report(Progress{Done: 1, Total: 2, Text: "half"})
	if f.Reference == "endless" {
		<-ctx.Done()
		return Fetched{}, context.Cause(ctx)
	}
	return Fetched{Reference: f.Reference, Files: 3}, d.err
}

func (d *daemon) Mount(_ context.Context, m Mount, _ func(Progress)) error {
	d.asked = append(d.asked, "mount "+m.Attributes["reference"]+" at "+m.Directory)
	return d.err
}

func (d *daemon) Unmount(_ context.Context, directory string) error {
	d.asked = append(d.asked, "unmount "+directory)
	return d.err
}

func (d *daemon) Verify(_ context.Context, rate int64, report func(Progress)) (Verified, error) {
	report(Progress{Done: rate})
	return Verified{Blobs: 5}, d.err
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
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if info, err := os.Stat(filepath.Join(root, socketName)); err == nil && info.Mode().Perm() == 0o600 {
			return root
		}
		if time.Now().After(deadline) {
			t.Fatal("there is no socket that only its owner can open")
		}
	}
}

func TestHas(t *testing.T) {
	d := &daemon{}
	c := NewClient(start(t, d))
	pieces := make([]pull.Piece, 50_000) // an artifact of many files
	for i := range pieces {
		pieces[i] = pull.Piece{Blob: model.Blob{Digest: digest.FromString(strconv.Itoa(i)), Size: int64(i)}, Archive: i%3 == 0}
	}
	has, err := c.Has(t.Context(), pieces)
	if err != nil || len(has) != len(pieces) || !has[0] || has[1] || !has[3] {
		t.Errorf("%d answers, %v", len(has), err)
	}
	if has, err := c.Has(t.Context(), nil); err != nil || len(has) != 0 {
		t.Errorf("nothing: %v, %v", has, err)
	}
	d.silent = 1
	if _, err := c.Has(t.Context(), pieces[:2]); err == nil || !strings.Contains(err.Error(), "1 of 2") {
		t.Errorf("an answer that is too short: %v", err)
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

// TestStop stops the server during a request that does not end by itself; start's cleanup finds out how it ends.
func TestStop(t *testing.T) {
	d := &daemon{evicting: make(chan struct{})}
	var asking sync.WaitGroup
	t.Cleanup(asking.Wait)
	c := NewClient(start(t, d))
	asking.Go(func() {
		if _, err := c.Evict(context.WithoutCancel(t.Context()), store.Everything); err == nil {
			t.Error("the eviction did not end early")
		}
	})
	<-d.evicting
}

func TestRequests(t *testing.T) {
	d := &daemon{}
	c := NewClient(start(t, d))
	if m, err := c.Models(t.Context()); err != nil || len(m) != 1 || m[0].Bytes != 7 {
		t.Errorf("models %+v, %v", m, err)
	}
	if e, err := c.Remove(t.Context(), "r.io/m:1"); err != nil || e.Blobs != 2 {
		t.Errorf("removed %+v, %v", e, err)
	}
	var seen []Progress
	f, err := c.Fetch(t.Context(), Fetch{Reference: "r.io/m:2"}, func(p Progress) { seen = append(seen, p) })
	if err != nil || f.Files != 3 || len(seen) != 1 || seen[0] != (Progress{Done: 1, Total: 2, Text: "half"}) {
		t.Errorf("fetched %+v with %+v, %v", f, seen, err)
	}
	if v, err := c.Verify(t.Context(), 9, func(p Progress) { seen = append(seen, p) }); err != nil || v.Blobs != 5 || seen[1].Done != 9 {
		t.Errorf("verified %+v with %+v, %v", v, seen, err)
	}
	err = errors.Join(c.GiveUp(t.Context(), "r.io/m:1"),
		c.Mount(t.Context(), Mount{Directory: "/mnt/m", Attributes: map[string]string{"reference": "r.io/m:1"}}, nil), c.Unmount(t.Context(), "/mnt/m"))
	if got, want := strings.Join(d.asked, ", "), "rm r.io/m:1, fetch r.io/m:2, unpin r.io/m:1, mount r.io/m:1 at /mnt/m, unmount /mnt/m"; err != nil || got != want {
		t.Errorf("asked for %s, %v", got, err)
	}
	d.err = errors.New("no space")
	if _, err := c.Fetch(t.Context(), Fetch{Reference: "x"}, nil); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("a failing fetch: %v", err)
	}
}

// A request that takes long neither outlives its client nor holds up the end of the daemon.
func TestLongRequestsEnd(t *testing.T) {
	d := &daemon{}
	ctx, cancel := context.WithCancel(t.Context())
	c := NewClient(start(t, d))
	began := make(chan struct{})
	go func() { <-began; cancel() }()
	if _, err := c.Fetch(ctx, Fetch{Reference: "endless"}, func(Progress) { close(began) }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	ended := make(chan error)
	began = make(chan struct{})
	go func() {
		_, err := c.Fetch(context.Background(), Fetch{Reference: "endless"}, func(Progress) { close(began) })
		ended <- err
	}()
	<-began // start's clean-up stops the server: it reports an error if the request holds it up
	t.Cleanup(func() {
		if err := <-ended; err == nil {
			t.Error("the request succeeded")
		}
	})
}

func TestNoDaemon(t *testing.T) {
	if _, err := NewClient(t.TempDir()).Status(t.Context()); !errors.Is(err, model.ErrUnavailable) || !strings.Contains(err.Error(), "model-csi node") {
		t.Errorf("error %v", err)
	}
}
