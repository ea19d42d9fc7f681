package ingest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// idleRelease is how long unused buffers are kept for the next blob before the kernel gets them back.
const idleRelease = 2 * time.Second

// hugePage is the size from which on a buffer is worth huge pages: fewer faults, fewer pages to pin for direct I/O.
const hugePage = 2 << 20

// pool hands out page-aligned buffers within a budget. The memory comes from mmap, not from the garbage collector:
// direct I/O needs the alignment, and a collector that sees 128 MiB of garbage a second would keep twice of it.
type pool struct {
	budget *semaphore.Weighted
	total  int64

	mu     sync.Mutex // guards what follows
	free   map[int][][]byte
	quotas map[*byte]*semaphore.Weighted // of whom each buffer that is out counts
	mapped int64
	out    int
	idle   *time.Timer
}

func newPool(total int64) *pool {
	return &pool{budget: semaphore.NewWeighted(total), total: total, free: make(map[int][][]byte), quotas: make(map[*byte]*semaphore.Weighted)}
}

// class rounds a size up to a power of two between minSpan and maxSpan.
func class(size int64) int {
	c := minSpan
	for int64(c) < size && c < maxSpan {
		c <<= 1
	}
	return c
}

// get waits for room in the quota of a host and in the budget of all, and returns a buffer of the class of size. Give it
// back with put.
func (p *pool) get(ctx context.Context, size int64, quota *semaphore.Weighted) ([]byte, error) {
	c := class(size)
	if err := quota.Acquire(ctx, int64(c)); err != nil {
		return nil, err
	}
	if err := p.budget.Acquire(ctx, int64(c)); err != nil {
		quota.Release(int64(c))
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := p.find(c)
	if err != nil {
		p.budget.Release(int64(c))
		quota.Release(int64(c))
		return nil, err
	}
	p.out++
	if p.idle != nil {
		p.idle.Stop()
		p.idle = nil
	}
	p.quotas[&b[0]] = quota
	return b, nil
}

// find takes a free buffer of the class, or maps one.
func (p *pool) find(c int) ([]byte, error) {
	if list := p.free[c]; len(list) > 0 {
		p.free[c] = list[:len(list)-1]
		return list[len(list)-1], nil
	}
	if p.mapped+int64(c) > p.total {
		p.trim() // free buffers of other classes must not add up to several budgets
	}
	b, err := unix.Mmap(-1, 0, c, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("buffer of %d bytes: %w", c, err)
	}
	if c >= hugePage {
		_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // a hint
	}
	p.mapped += int64(c)
	return b, nil
}

// put takes a buffer back, at any length that it was cut to.
func (p *pool) put(b []byte) {
	b = b[:cap(b)]
	p.mu.Lock()
	quota := p.quotas[&b[0]]
	delete(p.quotas, &b[0])
	p.free[len(b)] = append(p.free[len(b)], b)
	if p.out--; p.out == 0 {
		p.idle = time.AfterFunc(idleRelease, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.out == 0 {
				p.trim()
			}
		})
	}
	p.mu.Unlock()
	p.budget.Release(int64(len(b)))
	quota.Release(int64(len(b)))
}

// trim gives all free buffers back to the kernel.
func (p *pool) trim() {
	for c, list := range p.free {
		for _, b := range list {
			_ = unix.Munmap(b)
			p.mapped -= int64(c)
		}
		delete(p.free, c)
	}
}
