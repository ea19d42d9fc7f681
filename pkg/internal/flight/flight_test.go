package flight

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const linger = time.Minute

// work returns a function for Do that runs until its context ends or d has passed.
func work(d time.Duration, value int, err error, runs *atomic.Int32) func(context.Context) (int, error) {
	return func(ctx context.Context) (int, error) {
		runs.Add(1)
		select {
		case <-time.After(d):
			return value, err
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

func patience(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup[string, int](t.Context(), linger)
		var runs atomic.Int32
		results := make(chan int)
		for range 100 {
			go func() {
				v, err := g.Do(t.Context(), "k", work(time.Hour, 7, nil, &runs))
				if err != nil {
					t.Error(err)
				}
				results <- v
			}()
		}
		for range 100 {
			if v := <-results; v != 7 {
				t.Errorf("value %d", v)
			}
		}
		if runs.Load() != 1 {
			t.Errorf("%d runs", runs.Load())
		}
		if _, err := g.Do(t.Context(), "k", work(0, 7, nil, &runs)); err != nil || runs.Load() != 2 {
			t.Errorf("after the end: %v, %d runs", err, runs.Load())
		}
		if _, err := g.Do(t.Context(), "other", work(0, 7, nil, &runs)); err != nil || runs.Load() != 3 {
			t.Errorf("another key: %v, %d runs", err, runs.Load())
		}
	})
}

// TestKubelet tells the story that the package is for: the caller times out, asks again, and finds the work done.
func TestKubelet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup[string, int](t.Context(), linger)
		var runs atomic.Int32
		do := func(patient time.Duration) (int, error) {
			return g.Do(patience(t, patient), "k", work(100*time.Second, 7, nil, &runs))
		}
		if _, err := do(40 * time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("first call: %v", err)
		}
		time.Sleep(30 * time.Second)
		if !g.Running("k") {
			t.Fatal("the work ended with its first caller")
		}
		if v, err := do(40 * time.Second); err != nil || v != 7 {
			t.Fatalf("second call: %d, %v", v, err)
		}
		if runs.Load() != 1 || g.Running("k") {
			t.Errorf("%d runs, running %v", runs.Load(), g.Running("k"))
		}
	})
}

func TestCancelledWhenNobodyReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup[string, int](t.Context(), linger)
		var runs atomic.Int32
		start := time.Now()
		var ended time.Duration
		_, err := g.Do(patience(t, time.Second), "k", func(ctx context.Context) (int, error) {
			_, err := work(time.Hour, 7, nil, &runs)(ctx)
			ended = time.Since(start)
			return 0, err
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		time.Sleep(2 * linger)
		synctest.Wait()
		if ended != time.Second+linger {
			t.Errorf("the work ended after %s", ended)
		}
		if v, err := g.Do(t.Context(), "k", work(0, 8, nil, &runs)); err != nil || v != 8 {
			t.Errorf("afterwards: %d, %v", v, err)
		}
	})
}

func TestFailureIsKeptForTheNextCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup[string, int](t.Context(), linger)
		var runs atomic.Int32
		broken := errors.New("broken")
		do := func() error {
			_, err := g.Do(patience(t, time.Second), "k", work(10*time.Second, 0, broken, &runs))
			return err
		}
		if err := do(); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Second)
		if err := do(); !errors.Is(err, broken) || runs.Load() != 1 {
			t.Fatalf("second caller: %v, %d runs", err, runs.Load())
		}
		if err := do(); !errors.Is(err, context.DeadlineExceeded) || runs.Load() != 2 {
			t.Fatalf("third caller: %v, %d runs", err, runs.Load())
		}
		time.Sleep(2 * linger)
		if err := do(); !errors.Is(err, context.DeadlineExceeded) || runs.Load() != 3 {
			t.Fatalf("long after: %v, %d runs", err, runs.Load())
		}
		time.Sleep(2 * linger)
	})
}

func TestOneCallerLeaving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGroup[string, int](t.Context(), 0)
		var runs atomic.Int32
		stays := make(chan error)
		go func() {
			_, err := g.Do(t.Context(), "k", work(time.Hour, 7, nil, &runs))
			stays <- err
		}()
		synctest.Wait()
		if _, err := g.Do(patience(t, time.Second), "k", work(time.Hour, 7, nil, &runs)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if err := <-stays; err != nil || runs.Load() != 1 {
			t.Fatalf("the one who stayed: %v, %d runs", err, runs.Load())
		}
	})
}

func TestPanic(t *testing.T) {
	g := NewGroup[string, int](t.Context(), linger)
	_, err := g.Do(t.Context(), "k", func(context.Context) (int, error) { panic("hostile input") })
	if err == nil || !strings.Contains(err.Error(), "hostile input") {
		t.Fatalf("error %v", err)
	}
}

func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		base, stop := context.WithCancel(t.Context())
		g := NewGroup[string, int](base, linger)
		var runs atomic.Int32
		if _, err := g.Do(patience(t, time.Second), "k", work(time.Hour, 7, nil, &runs)); err == nil {
			t.Fatal("no error")
		}
		stop()
		g.Wait()
		time.Sleep(2 * linger)
	})
}
