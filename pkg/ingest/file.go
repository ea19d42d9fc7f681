package ingest

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

const (
	// A checkpoint costs a sync, and its lack costs fetching again: one in 64 of the blob, within these bounds.
	minCheckpoint = 64 << 20
	maxCheckpoint = 1 << 30
)

// File fetches the blob into f, verifies it, and commits it. What f had from before is not fetched again. It fails with
// model.ErrCorrupt when the bytes do not have the digest; f then has to be discarded.
func (e *Engine) File(ctx context.Context, job Job, f File) error {
	offset, state := f.Resume()
	h, err := resumeHash(job.Blob.Digest, state)
	if err != nil {
		return fmt.Errorf("blob %s: checkpoint: %w (%w)", job.Blob.Digest, model.ErrCorrupt, err)
	}
	job.progress(offset)
	c := &checkpoints{file: f, hash: h, last: offset, every: checkpointInterval(job.Blob.Size)}
	land := func(off int64, buf []byte) error {
		_, err := f.WriteAt(buf, off)
		return err
	}
	consume := func(off int64, buf []byte) error {
		_, _ = h.Write(buf) // a hash never fails
		end := off + int64(len(buf))
		e.buffers.put(buf)
		return c.reached(end)
	}
	err = e.run(ctx, job, offset, land, consume)
	if err = errors.Join(err, c.wait()); err != nil {
		return err
	}
	if got := digest.NewDigest(job.Blob.Digest.Algorithm(), h); got != job.Blob.Digest {
		return wrongDigest(job.Blob, got)
	}
	return f.Commit()
}

func wrongDigest(b model.Blob, got digest.Digest) error {
	return fmt.Errorf("blob %s: the bytes that the registry sent have the digest %s: %w", b.Digest, got, model.ErrCorrupt)
}

func checkpointInterval(size int64) int64 {
	return max(minCheckpoint, min(size/64, maxCheckpoint))
}

func resumeHash(d digest.Digest, state []byte) (hash.Hash, error) {
	h := d.Algorithm().Hash()
	if len(state) == 0 {
		return h, nil
	}
	u, ok := h.(encoding.BinaryUnmarshaler)
	if !ok {
		return nil, fmt.Errorf("the state of %s cannot be restored", d.Algorithm())
	}
	return h, u.UnmarshalBinary(state)
}

// checkpoints writes one checkpoint at a time beside the fetching. When one takes longer than an interval the next is
// left out: hashing must not wait for a disk's sync.
type checkpoints struct {
	file  File
	hash  hash.Hash
	last  int64
	every int64

	busy atomic.Bool
	done chan error
}

func (c *checkpoints) reached(offset int64) error {
	if offset-c.last < c.every || c.busy.Load() {
		return nil
	}
	if err := c.wait(); err != nil {
		return err
	}
	m, ok := c.hash.(encoding.BinaryMarshaler)
	if !ok {
		return nil
	}
	state, err := m.MarshalBinary()
	if err != nil {
		return err
	}
	c.last = offset
	c.busy.Store(true)
	c.done = make(chan error, 1)
	go func(done chan<- error) {
		err := c.file.Checkpoint(offset, state)
		c.busy.Store(false)
		done <- err
	}(c.done)
	return nil
}

// wait returns when no checkpoint is being written.
func (c *checkpoints) wait() error {
	if c.done == nil {
		return nil
	}
	err := <-c.done
	c.done = nil
	return err
}
