package store

import (
	"runtime"
	"sync"
	"time"
)

// CachePolicy says whether the large blocks that are written stay in the page cache for whoever reads the file next.
// It is about speed alone.
type CachePolicy int

const (
	// CacheAll writes through the page cache.
	CacheAll CachePolicy = iota
	// CacheNone bypasses it where the filesystem can: the least work for the processors, and the first read is from disk.
	CacheNone
	// CacheCheap writes as much through the page cache as costs little processor time that somebody else wants, and
	// bypasses it with the rest. Where the network limits a transfer, that is everything; where the processors do, it is
	// little or nothing.
	CacheCheap
)

const (
	// copyShare is the part of the machine's processors that copying into the page cache may take while it is written
	// with CacheCheap. Hashing and receiving need the rest: a copy that a processor has no time for makes the transfer
	// longer, and the transfer is what a pod waits for first.
	copyShare = 1.0 / 4
	// copyBurst is how long that part may be saved up.
	copyBurst = 500 * time.Millisecond
	// copyIdle is the part of the processors that must have had nothing to do lately for a copy to be made at all.
	copyIdle = 1.0 / 2
	// idleEvery is how often that is looked at.
	idleEvery = 200 * time.Millisecond
)

// copyBudget is the processor time that copying into the page cache may take, of all writers together: it fills with
// time and is drawn from by what each copy really took.
type copyBudget struct {
	cores int
	now   func() time.Time
	// ticks counts what the machine's processors have done since its start, and how much of it was nothing.
	ticks func() (all, idle int64)

	mu     sync.Mutex // guards what follows
	left   time.Duration
	at     time.Time
	looked time.Time
	all    int64
	idle   int64
	busy   bool
}

func newCopyBudget() *copyBudget {
	// GOMAXPROCS knows the processors that a container may use.
	return &copyBudget{cores: runtime.GOMAXPROCS(0), now: time.Now, ticks: processorTicks}
}

// allows reports whether a copy may be made now.
func (b *copyBudget) allows() bool {
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = refill(b.left, now.Sub(b.at), b.cores)
	b.at = now
	if now.Sub(b.looked) >= idleEvery {
		all, idle := b.ticks()
		b.busy = float64(idle-b.idle) < copyIdle*float64(all-b.all)
		b.all, b.idle, b.looked = all, idle, now
	}
	return b.left > 0 && !b.busy
}

// took draws what a copy took. The budget may fall below zero, which the next copies wait out.
func (b *copyBudget) took(d time.Duration) {
	b.mu.Lock()
	b.left -= d
	b.mu.Unlock()
}

// refill is what is left after some time has passed.
func refill(left, passed time.Duration, cores int) time.Duration {
	most := time.Duration(copyShare * float64(cores) * float64(copyBurst))
	passed = min(max(passed, 0), time.Hour) // the first time comes after centuries
	return min(left+time.Duration(copyShare*float64(cores)*float64(passed)), most)
}
