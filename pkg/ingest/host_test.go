package ingest

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestHostQueue gives places in the order in which they were asked for, to those who still want one.
func TestHostQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHosts(1).get("h")
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
