package pull

import (
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// treeCache keeps the trees of recent pulls, so that a warm publish of a model with thousands of files parses nothing.
type treeCache struct {
	mu    sync.Mutex // guards what follows
	trees map[string]cachedTree
	order []string // oldest first
	files int
}

type cachedTree struct {
	tree   model.Tree
	digest digest.Digest
}

// maxCachedFiles bounds the memory of the cache: an entry of a tree takes about 300 bytes.
const maxCachedFiles = 20_000

func (c *treeCache) get(key string) (cachedTree, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.trees[key]
	return t, ok
}

func (c *treeCache) put(key string, t cachedTree) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.trees[key]; ok || len(t.tree) > maxCachedFiles {
		return
	}
	if c.trees == nil {
		c.trees = make(map[string]cachedTree)
	}
	c.trees[key] = t
	c.order = append(c.order, key)
	for c.files += len(t.tree); c.files > maxCachedFiles; c.order = c.order[1:] {
		c.files -= len(c.trees[c.order[0]].tree)
		delete(c.trees, c.order[0])
	}
}
