package ingest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// idleRelease is how long unused buffers are kept for the next blob before the kernel gets them back.
const idleRelease = 2 * time.Second

// hugePage is the size from which on a buffer is worth huge pages: fewer faults, fewer pages to pin for direct I/O.
const hugePage = 2 << 20

// pool hands out page-aligned buffers within a budget. The memory comes from mmap, not from the garbage collector:
// direct I/O needs the alignment, and a collector that sees 128 MiB of garbage a second would keep twice of it.
//
// The budget is shared by hosts as fits says: each new one finds something left, whatever the others hold and never give
// back. Beside it there is one spare buffer for a range that is asked for a second time, which must not wait for memory
// that the stuck one holds up.
type pool struct {
	total int64

	mu      sync.Mutex // guards what follows, and the shares
	left    int64      // of the total
	waiting []*wish    // oldest first
	free    map[int][][]byte
	owners  map[*byte]owner // of the buffers that are out
	spare   bool            // the spare buffer is out
	mapped  int64
	idle    *time.Timer
}

// share is what one host holds, in bytes.
type share struct{ held int64 }

// owner says what a buffer that is out counts for: a share, or nothing when it is the spare one.
type owner struct{ of *share }

// wish is somebody who waits for memory.
type wish struct {
	want int64
	of   *share // nil for memory that is no buffer, of exactly the size that is wanted
	got  int64
	done chan struct{} // closed when got is set
}

func newPool(total int64) *pool {
	return &pool{total: total, left: total, free: make(map[int][][]byte), owners: make(map[*byte]owner)}
}

// class rounds a size up to a power of two between minSpan and maxSpan.
func class(size int64) int {
	c := minSpan
	for int64(c) < size && c < maxSpan {
		c <<= 1
	}
	return c
}

// fits decides how much of what is left a host may have that holds something already; 0 means that it waits. It may hold
// as much as remains for all others: one host gets half of the budget at most, two a third each, and whoever comes last
// half of what is left. A host that holds nothing is content with less than it wants, so that it always goes on.
func fits(want, held, left int64) int64 {
	if held+want <= left-want {
		return want
	}
	if held > 0 {
		return 0
	}
	for want > minSpan && want > left/2 {
		want /= 2
	}
	if want > left/2 {
		return 0
	}
	return want
}

// get waits for room and returns a buffer of the class of size, or a smaller one. Give it back with put.
func (p *pool) get(ctx context.Context, size int64, of *share) ([]byte, error) {
	got, err := p.wait(ctx, &wish{want: int64(class(size)), of: of, done: make(chan struct{})})
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	b, err := p.find(int(got))
	if err != nil {
		p.returned(of, got)
		return nil, err
	}
	p.owners[&b[0]] = owner{of}
	return b, nil
}

// extra returns a buffer without waiting: of the budget if it has enough, otherwise the spare one. It returns nil when
// that is out as well.
func (p *pool) extra(size int64, of *share) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := int64(class(size))
	fromBudget := len(p.waiting) == 0 && fits(c, of.held, p.left) == c
	if !fromBudget && p.spare {
		return nil
	}
	b, err := p.find(int(c))
	if err != nil {
		return nil
	}
	if !fromBudget {
		p.spare = true
		p.owners[&b[0]] = owner{}
		return b
	}
	p.left -= c
	of.held += c
	p.owners[&b[0]] = owner{of}
	return b
}

// reserve waits for bytes of the budget that are used otherwise than as buffers, and returns how to give them back.
func (p *pool) reserve(ctx context.Context, bytes int64) (free func(), err error) {
	if _, err := p.wait(ctx, &wish{want: bytes, done: make(chan struct{})}); err != nil {
		return nil, err
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.returned(nil, bytes)
	}, nil
}

func (p *pool) wait(ctx context.Context, w *wish) (int64, error) {
	p.mu.Lock()
	p.waiting = append(p.waiting, w)
	p.grant()
	p.mu.Unlock()
	select {
	case <-w.done:
		return w.got, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.got > 0 { // at the same time
		p.returned(w.of, w.got)
	} else if i := slices.Index(p.waiting, w); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		p.grant()
	}
	return 0, context.Cause(ctx)
}

// grant gives what is left to those who wait, in order. Whoever does not fit lets others pass; only memory that is no
// buffer, which comes in large pieces, makes those wait that hold something. The caller holds mu.
func (p *pool) grant() {
	blocked := false
	p.waiting = slices.DeleteFunc(p.waiting, func(w *wish) bool {
		got := int64(0)
		switch {
		case w.of == nil && w.want <= p.left:
			got = w.want
		case w.of == nil:
			blocked = true
		case !blocked || w.of.held == 0:
			got = fits(w.want, w.of.held, p.left)
		}
		if got == 0 {
			return false
		}
		p.left -= got
		if w.of != nil {
			w.of.held += got
		}
		w.got = got
		close(w.done)
		return true
	})
}

// returned gives bytes back to the budget. The caller holds mu.
func (p *pool) returned(of *share, bytes int64) {
	p.left += bytes
	if of != nil {
		of.held -= bytes
	}
	p.grant()
}

// find takes a free buffer of the class, or maps one. The caller holds mu.
func (p *pool) find(c int) ([]byte, error) {
	if p.idle != nil {
		p.idle.Stop()
		p.idle = nil
	}
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
		adviseHuge(b)
	}
	p.mapped += int64(c)
	return b, nil
}

// put takes a buffer back, at any length that it was cut to.
func (p *pool) put(b []byte) {
	b = b[:cap(b)]
	p.mu.Lock()
	defer p.mu.Unlock()
	from := p.owners[&b[0]]
	delete(p.owners, &b[0])
	p.free[len(b)] = append(p.free[len(b)], b)
	if from.of == nil {
		p.spare = false
	} else {
		p.returned(from.of, int64(len(b)))
	}
	if len(p.owners) == 0 {
		p.idle = time.AfterFunc(idleRelease, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if len(p.owners) == 0 {
				p.trim()
			}
		})
	}
}

// trim gives all free buffers back to the kernel. The caller holds mu.
func (p *pool) trim() {
	for c, list := range p.free {
		for _, b := range list {
			_ = unix.Munmap(b)
			p.mapped -= int64(c)
		}
		delete(p.free, c)
	}
}
