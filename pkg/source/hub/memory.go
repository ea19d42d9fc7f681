package hub

import (
	"container/list"
	"context"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Keys carry the hub and the repository: what one repository says about a git object must not decide for another, and
// what was read from one must not be given out for another.
type (
	repositoryKey struct{ base, repository string }
	listingKey    struct {
		repositoryKey
		commit string
	}
	sumKey struct {
		repositoryKey
		oid  string
		size int64
	}
	contentKey struct {
		repositoryKey
		digest digest.Digest
	}
)

// lru is a map that forgets what was not used for the longest time once its values cost more than its limit.
type lru[K comparable, V any] struct {
	limit int64

	mu    sync.Mutex // guards what follows
	cost  int64
	order *list.List // of *lruEntry, most recently used first
	at    map[K]*list.Element
}

type lruEntry[K comparable, V any] struct {
	key   K
	value V
	cost  int64
}

func newLRU[K comparable, V any](limit int64) *lru[K, V] {
	return &lru[K, V]{limit: limit, order: list.New(), at: map[K]*list.Element{}}
}

func (l *lru[K, V]) get(k K) (V, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.at[k]
	if !ok {
		var none V
		return none, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*lruEntry[K, V]).value, true
}

func (l *lru[K, V]) put(k K, v V, cost int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.at[k]; ok {
		l.drop(e)
	}
	if cost > l.limit {
		return
	}
	l.at[k] = l.order.PushFront(&lruEntry[K, V]{k, v, cost})
	for l.cost += cost; l.cost > l.limit; {
		l.drop(l.order.Back())
	}
}

func (l *lru[K, V]) remove(k K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.at[k]; ok {
		l.drop(e)
	}
}

func (l *lru[K, V]) drop(e *list.Element) {
	entry := l.order.Remove(e).(*lruEntry[K, V])
	delete(l.at, entry.key)
	l.cost -= entry.cost
}

// keyed lets one caller at a time do what a key names. Unlike shared work, each caller does it as himself: what one
// identity is refused says nothing about the next.
type keyed struct {
	mu   sync.Mutex // guards held
	held map[listingKey]chan struct{}
}

// lock waits for its turn or for the end of ctx.
func (k *keyed) lock(ctx context.Context, key listingKey) (unlock func(), err error) {
	for {
		k.mu.Lock()
		busy, ok := k.held[key]
		if !ok {
			if k.held == nil {
				k.held = map[listingKey]chan struct{}{}
			}
			mine := make(chan struct{})
			k.held[key] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
