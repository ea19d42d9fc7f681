package pull

import (
	"sync/atomic"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/store"
)

// WriteMode is how large blobs reach the disk.
type WriteMode string

// The write modes.
const (
	// WriteAuto leaves as much of a model in the page cache for its reader as costs little time of the processors, if the
	// model fits into memory, and bypasses the page cache with the rest.
	WriteAuto WriteMode = "auto"
	// WriteDirect bypasses the page cache: the least work for the processors, and the reader's first read is from disk.
	WriteDirect WriteMode = "direct"
	// WriteBuffered goes through the page cache, which keeps what fits for the reader.
	WriteBuffered WriteMode = "buffered"
)

const (
	// directFrom is the size in bytes below which a file's bytes may as well stay in the page cache.
	directFrom = 32 << 20
	// cacheShare is the part of the memory that a model may fill when it is written: pods need some for themselves, and
	// what is evicted before it is read was copied for nothing.
	cacheShare = 2
)

// cachePolicy decides how a pull writes its large files: bytes are to be fetched, and memory could be filled by page
// cache. Copying into the page cache costs the processors several times what writing past it does. Where they are what
// limits the pull, the pod would wait longer for its volume, so even in WriteAuto it is not done at any price.
func cachePolicy(mode WriteMode, bytes, memory int64) store.CachePolicy {
	switch {
	case mode == WriteBuffered:
		return store.CacheAll
	case mode == WriteDirect, bytes > memory/cacheShare:
		return store.CacheNone
	}
	return store.CacheCheap
}

// pageCache counts what running pulls may put into the page cache, so that two do not count on the same memory.
type pageCache struct {
	memory func() int64 // what could be filled, in bytes
	taken  atomic.Int64
}

// plan decides for a pull and returns what to call at its end.
func (c *pageCache) plan(mode WriteMode, layers []format.Layer) (store.CachePolicy, func()) {
	var bytes int64
	for _, l := range layers {
		bytes += expanded(l)
	}
	others := c.taken.Add(bytes) - bytes
	policy := cachePolicy(mode, bytes, c.memory()-others)
	if policy == store.CacheNone {
		c.taken.Add(-bytes)
		return policy, func() {}
	}
	return policy, func() { c.taken.Add(-bytes) }
}

// caching says how a file of a job is written.
func (j *job) caching(mode WriteMode, bytes int64) store.CachePolicy {
	if bytes < directFrom && mode != WriteDirect {
		return store.CacheAll
	}
	return j.cache
}
