// Package flight shares work between callers and lets it outlive them.
//
// A caller whose context ends leaves; the work goes on for those who stay, and for a while after the last one has
// left, because callers of a Kubernetes node plugin time out and ask again. A failure that nobody waited for is kept
// for the next caller, so that it is seen.
package flight

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Group shares the calls that have the same key. Use NewGroup.
type Group[K comparable, V any] struct {
	base   context.Context
	linger time.Duration

	wg sync.WaitGroup

	mu    sync.Mutex // guards calls and the fields of each call but done
	calls map[K]*call[V]
}

type call[V any] struct {
	cancel  context.CancelFunc
	done    chan struct{} // closed after value and err are set
	waiters int
	timer   *time.Timer // runs while nobody waits
	value   V
	err     error
}

// NewGroup returns a group whose work is cancelled when base ends, or when nobody has waited for it during linger.
func NewGroup[K comparable, V any](base context.Context, linger time.Duration) *Group[K, V] {
	return &Group[K, V]{base: base, linger: linger, calls: make(map[K]*call[V])}
}

// Do joins the running call of key, or starts fn, and waits for its end or the end of ctx, whose cause it then returns.
// fn gets a context of the group, not the caller's.
func (g *Group[K, V]) Do(ctx context.Context, key K, fn func(context.Context) (V, error)) (V, error) {
	c := g.join(key, fn)
	select {
	case <-c.done:
		g.leave(key, c)
		return c.value, c.err
	case <-ctx.Done():
		g.leave(key, c)
		var zero V
		return zero, context.Cause(ctx)
	}
}

// Wait returns when no call runs any more. The caller has cancelled the base context.
func (g *Group[K, V]) Wait() { g.wg.Wait() }

// Running reports whether a call of key is under way.
func (g *Group[K, V]) Running(key K) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	c, ok := g.calls[key]
	if !ok {
		return false
	}
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

func (g *Group[K, V]) join(key K, fn func(context.Context) (V, error)) *call[V] {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c, ok := g.calls[key]; ok {
		c.waiters++
		if c.timer != nil {
			c.timer.Stop()
			c.timer = nil
		}
		return c
	}
	ctx, cancel := context.WithCancel(g.base)
	c := &call[V]{cancel: cancel, done: make(chan struct{}), waiters: 1}
	g.calls[key] = c
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		value, err := guarded(ctx, fn)
		cancel()
		g.finish(key, c, value, err)
	}()
	return c
}

// guarded turns a panic into an error: the work reads what strangers wrote, and one bad input must not end everybody's.
func guarded[V any](ctx context.Context, fn func(context.Context) (V, error)) (value V, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return fn(ctx)
}

func (g *Group[K, V]) finish(key K, c *call[V], value V, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.value, c.err = value, err
	close(c.done)
	if c.waiters > 0 || err == nil {
		// Those who wait have the result; whoever comes next starts anew and finds what was made.
		g.forget(key, c)
	}
	// Otherwise the running timer forgets the failure, unless somebody comes for it before.
}

func (g *Group[K, V]) leave(key K, c *call[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c.waiters--
	if c.waiters > 0 || g.calls[key] != c {
		return
	}
	select {
	case <-c.done:
		g.forget(key, c)
		return
	default:
	}
	c.timer = time.AfterFunc(g.linger, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if c.waiters > 0 || c.timer == nil {
			return // somebody joined while the timer fired
		}
		c.cancel()
		select {
		case <-c.done:
			g.forget(key, c)
		default:
			// Whoever asks from now on starts anew once the cancelled work has ended; see join.
			c.timer = nil
			g.abandon(key, c)
		}
	})
}

// abandon lets the cancelled call end by itself. Its key stays taken until then, so that two calls of a key never
// write the same files; a caller that joins it meanwhile gets context.Canceled and tries again.
func (g *Group[K, V]) abandon(key K, c *call[V]) {
	go func() {
		<-c.done
		g.mu.Lock()
		defer g.mu.Unlock()
		g.forget(key, c)
	}()
}

func (g *Group[K, V]) forget(key K, c *call[V]) {
	if c.timer != nil {
		c.timer.Stop()
	}
	if g.calls[key] == c {
		delete(g.calls, key)
	}
}
