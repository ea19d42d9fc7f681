package driver

import (
	"context"
	"sync"
)

// keyedLock is a lock for each key that is in use. The zero value is ready.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]*keyHolder // guarded by mu
}

type keyHolder struct {
	token chan struct{} // holds one value while somebody has the key
	users int           // who has the key or waits for it, guarded by keyedLock.mu
}

// lock waits for the key until ctx ends. The caller calls unlock once when it got the key, and never otherwise.
func (l *keyedLock) lock(ctx context.Context, key string) (unlock func(), err error) {
	l.mu.Lock()
	h := l.held[key]
	if h == nil {
		h = &keyHolder{token: make(chan struct{}, 1)}
		if l.held == nil {
			l.held = make(map[string]*keyHolder)
		}
		l.held[key] = h
	}
	h.users++
	l.mu.Unlock()

	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if h.users--; h.users == 0 {
			delete(l.held, key)
		}
	}
	select {
	case h.token <- struct{}{}:
		return func() { <-h.token; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}
