package integration

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/model-csi/model-csi/test/hubtest"
	"github.com/model-csi/model-csi/test/registry"
)

// until waits for something that takes seconds at most, wherever a machine has them to spare.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("it does not happen that %s", what)
			return
		}
	}
}

// nothingSoon is nothingOf for a call whose caller went away before the answer: the daemon may not be done with it.
func (w *world) nothingSoon(id string) {
	w.t.Helper()
	until(w.t, "nothing is left of "+id, func() bool {
		left, err := w.leftOf(id)
		return err == nil && len(left) == 0
	})
}

// ingested checks that no part of a blob is kept, of those whose files match. Work may end just after its answer.
func (w *world) ingested(pattern string) {
	w.t.Helper()
	until(w.t, "nothing is in ingest", func() bool {
		left, err := filepath.Glob(filepath.Join(w.node.Root(), "ingest", pattern))
		return err == nil && len(left) == 0
	})
}

// quiet waits until the registry has noticed that its clients are gone or have everything, so that what it has counted is
// all there is, and what it counts from now on is new.
func (w *world) quiet() {
	w.t.Helper()
	until(w.t, "the registry has served all requests", func() bool { return w.registry.Stats().Active == 0 })
}

// stats are those of the registry once it is quiet.
func (w *world) stats() registry.Stats {
	w.t.Helper()
	w.quiet()
	return w.registry.Stats()
}

// sentBy is what a hub has sent once it serves nobody any more.
func sentBy(t *testing.T, h *hubtest.Server) int64 {
	t.Helper()
	until(t, "the hub has served all requests", func() bool { return h.Active() == 0 })
	return h.Sent()
}

// during calls do whenever count has grown by step, until the returned function is called, which tells how often that was.
func during(step int64, count func() int64, do func()) (stop func() int) {
	end, ended := make(chan struct{}), make(chan int)
	go func() {
		times := 0
		for next := count() + step; ; {
			select {
			case <-end:
				ended <- times
				return
			case <-time.After(5 * time.Millisecond):
			}
			if n := count(); n >= next {
				do()
				next = n + step
				times++
			}
		}
	}()
	return func() int {
		close(end)
		return <-ended
	}
}
