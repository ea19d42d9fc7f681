package ingest

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// TestHostQueue gives places in the order in which they were asked for, to those who still want one.
func TestHostQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHosts(1, maxSpan).get("h")
		if err := h.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone := errors.New("gone")
		var order []int
		for i := range 4 {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			go func() {
				err := h.acquire(ctx)
				switch {
				case err == nil:
					order = append(order, i) // one has the place at a time
				case i != 2 || !errors.Is(err, gone):
					t.Errorf("%d: %v", i, err)
				}
			}()
			synctest.Wait()
			if i == 2 {
				cancel(gone)
			}
		}
		for range 4 {
			h.release()
			synctest.Wait()
		}
		if !slices.Equal(order, []int{0, 1, 3}) || h.active != 0 || len(h.queue) != 0 {
			t.Fatalf("served in the order %v, %d active, %d wait", order, h.active, len(h.queue))
		}

		// A pause holds everybody back, also one that is made longer while it lasts.
		began := time.Now()
		h.refused(time.Second)
		go func() {
			time.Sleep(500 * time.Millisecond)
			h.refused(2 * time.Second)
		}()
		if err := h.acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != 2500*time.Millisecond {
			t.Errorf("the place came after %s", took)
		}
		h.release()
	})
}

// slowFile takes its time for each write, as a disk does that is slower than the network.
type slowFile struct {
	*memoryFile
	written atomic.Int64
}

func (f *slowFile) WriteAt(p []byte, off int64) (int, error) {
	time.Sleep(time.Second)
	f.written.Add(int64(len(p)))
	return f.memoryFile.WriteAt(p, off)
}

// TestSlowDisk keeps to the budget however far the network is ahead of the disk.
func TestSlowDisk(t *testing.T) {
	data := content(40<<20, 12)
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{Memory: 2 * maxSpan})
		s := &server{data: data}
		files := []*slowFile{{memoryFile: newMemoryFile(int64(len(data)))}, {memoryFile: newMemoryFile(int64(len(data)))}}
		done := make(chan error)
		for _, f := range files {
			go func() { done <- e.File(t.Context(), Job{Blob: blobOf(data), Host: "h", Open: s.open}, f) }()
		}
		for left := len(files); left > 0; {
			select {
			case err := <-done:
				if left--; err != nil {
					t.Error(err)
				}
			case <-time.After(100 * time.Millisecond):
				e.buffers.mu.Lock()
				mapped, out := e.buffers.mapped, e.buffers.total-e.buffers.left
				e.buffers.mu.Unlock()
				ahead := s.sent.Load() - files[0].written.Load() - files[1].written.Load()
				if mapped > 2*maxSpan || out > 2*maxSpan || ahead > 2*maxSpan {
					t.Fatalf("%d bytes are mapped and %d given out, %d were received and not written", mapped, out, ahead)
				}
			}
		}
		checkIdle(t, e)
	})
}

// TestConnectionsFollowThroughput gives a host the connections that bring something, and no more.
func TestConnectionsFollowThroughput(t *testing.T) {
	const each = 100e6 // what one connection brings
	tests := []struct {
		name string
		rate func(connections int) float64
		idle bool // nobody waits
		want []int
	}{
		{"each connection is limited", func(n int) float64 { return each * float64(n) }, false, []int{8, 16, 16, 16, 16}},
		{"the link is limited", func(int) float64 { return each }, false, []int{8, 8, 4, 4, 4}},
		{"the link is limited above eight", func(n int) float64 { return each * float64(min(n, 8)) }, false, []int{8, 16, 16, 8, 8}},
		{"nobody wants more", func(n int) float64 { return each * float64(n) }, true, []int{4, 4, 4, 4}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			h := newHosts(16, 64<<20).get("h")
			now := time.Now()
			var got []int
			for range tc.want {
				h.starved = !tc.idle
				now = now.Add(measureAfter)
				h.measured(tc.rate(h.limit), now)
				got = append(got, h.limit)
			}
			if !slices.Equal(got, tc.want) {
				t.Fatalf("limits are %v, want %v", got, tc.want)
			}
			if tc.idle {
				return
			}
			// What brought nothing is tried again after a while, and given up again soon.
			before := h.limit
			h.starved = true
			h.measured(tc.rate(h.limit), now.Add(tryAgain))
			if want := min(2*before, 16); h.limit != want {
				t.Errorf("after a while the limit is %d, want %d", h.limit, want)
			}
		})
	}
}

// TestSpansShareTheMemory lets as many ranges be under way at once as there are connections.
func TestSpansShareTheMemory(t *testing.T) {
	h := newHosts(64, 64<<20).get("h")
	if got := h.span(); got != firstSpan {
		t.Errorf("the first span has %d bytes", got)
	}
	h.rate = 1e9
	if got := h.span(); got != 8<<20 {
		t.Errorf("as long as more connections are tried a span has %d bytes", got)
	}
	h.settled = true
	for limit, want := range map[int]int64{1: maxSpan, 4: maxSpan, 8: 8 << 20, 16: 4 << 20, 64: slowSpan} {
		if h.limit = limit; h.span() != want {
			t.Errorf("with %d connections a span has %d bytes, want %d", limit, h.span(), want)
		}
	}
	if h.limit, h.rate = 4, 10; h.span() != slowSpan {
		t.Errorf("of a slow host a span has %d bytes", h.span())
	}
}

// paced delivers zeros as one connection of a registry does that limits each of them.
type paced struct {
	left int64
	rate int64 // bytes a second
}

func (p *paced) Read(b []byte) (int, error) {
	n := min(int64(len(b)), 256<<10, p.left)
	if n == 0 {
		return 0, io.EOF
	}
	clear(b[:n])
	p.left -= n
	time.Sleep(time.Duration(n) * time.Second / time.Duration(p.rate))
	return int(n), nil
}

func (p *paced) Close() error { return nil }

// TestConnectionsOvercomeTheirLimit is at least six times as fast as one connection that is limited, from the first byte
// on, for what takes one of them ten seconds.
func TestConnectionsOvercomeTheirLimit(t *testing.T) {
	const rate, size = 50 << 20, 500 << 20
	h := sha256.New()
	for range size / len(zeros) {
		h.Write(zeros)
	}
	blob := model.Blob{Digest: digest.NewDigest(digest.SHA256, h), Size: size}
	for _, latency := range []time.Duration{0, 20 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			e := New(Options{})
			began := time.Now()
			err := e.File(t.Context(), Job{Blob: blob, Host: "h", Open: func(_ context.Context, offset, length int64) (Body, error) {
				time.Sleep(latency)
				return Body{ReadCloser: &paced{length, rate}, Offset: offset, Length: length}, nil
			}}, nowhere{})
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > 10*time.Second/6 {
				t.Errorf("with a latency of %s it took %s, by %d connections at last", latency, took, e.hosts.get("h").limit)
			}
			checkIdle(t, e)
		})
	}
}

var zeros = make([]byte, 1<<20)
