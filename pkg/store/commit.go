package store

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/internal/atomicfile"
)

// syncsAtOnce is how many files of a batch are synced at a time. Two at once share a write of the journal, or at least the
// time that a disk takes; beyond some tens nothing is gained.
const syncsAtOnce = 32

// committer makes finished files durable and visible, many at a time. The files of a batch are synced side by side: a
// filesystem with a journal writes it for all that wait, and one without has them all under way, so that two thousand
// small files cost a few rounds of the disk and not two thousand; a lone large file is committed as it always was. The
// order for each file is the safe one: its bytes are synced, then it is renamed, then the directory is synced, then its
// caller is told.
type committer struct {
	mu      sync.Mutex // guards queue and running
	queue   []*commit
	running bool
}

type commit struct {
	file     *os.File
	from, to string
	done     chan error
}

// publish syncs the file, moves it from one path to the other, and returns when both are durable.
func (c *committer) publish(f *os.File, from, to string) error {
	item := &commit{file: f, from: from, to: to, done: make(chan error, 1)}
	c.mu.Lock()
	c.queue = append(c.queue, item)
	if !c.running {
		c.running = true
		go c.run()
	}
	c.mu.Unlock()
	return <-item.done
}

func (c *committer) run() {
	for {
		c.mu.Lock()
		batch := c.queue
		c.queue = nil
		if len(batch) == 0 {
			c.running = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		commitBatch(batch)
	}
}

func commitBatch(batch []*commit) {
	if len(batch) > 1 {
		for _, item := range batch {
			// Only a hint that starts the writing of all files at once; the sync below is what counts.
			startWriteback(item.file, 0, 0)
		}
	}
	errs := make([]error, len(batch))
	var syncs errgroup.Group
	syncs.SetLimit(syncsAtOnce)
	for i, item := range batch {
		syncs.Go(func() error {
			if errs[i] = item.file.Sync(); errs[i] == nil {
				errs[i] = item.move()
			}
			return nil
		})
	}
	_ = syncs.Wait() // each error belongs to one file
	directories := make(map[string]error)
	for i, item := range batch {
		if errs[i] == nil {
			directories[filepath.Dir(item.to)] = nil
		}
	}
	for dir := range directories {
		directories[dir] = atomicfile.SyncDir(dir)
	}
	for i, item := range batch {
		if errs[i] == nil {
			errs[i] = directories[filepath.Dir(item.to)]
		}
		item.done <- errs[i]
	}
}

// move gives the file its final name. A blob that is there already stays: views link to it. Only one that has another
// size, which is damage, gives way.
func (c *commit) move() error {
	err := renameNoReplace(c.from, c.to)
	switch {
	case errors.Is(err, unix.EEXIST):
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS): // not on every filesystem
		if _, err := os.Lstat(c.to); errors.Is(err, os.ErrNotExist) {
			return os.Rename(c.from, c.to)
		}
	default:
		return err
	}
	there, err := os.Lstat(c.to)
	if err != nil {
		return err
	}
	mine, err := os.Lstat(c.from)
	if err != nil {
		return err
	}
	if there.Size() == mine.Size() {
		return os.Remove(c.from)
	}
	return os.Rename(c.from, c.to)
}
