package ingest

import (
	"context"
	"encoding"
	"fmt"
	"hash"
	"log/slog"
	"sync"
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
	c := &checkpoints{file: f, log: e.log, hash: h, last: offset, every: checkpointInterval(job.Blob.Size)}
	land := func(off int64, buf []byte) error {
		_, err := f.WriteAt(buf, off)
		return err
	}
	consume := func(off int64, buf []byte) error {
		_, _ = h.Write(buf) // a hash never fails
		end := off + int64(len(buf))
		e.buffers.put(buf)
		c.reached(end)
		return nil
	}
	err = e.run(ctx, job, offset, land, consume)
	c.wait()
	if err != nil {
		return err
	}
	if got := digest.NewDigest(job.Blob.Digest.Algorithm(), h); got != job.Blob.Digest {
		return wrongDigest(job.Blob, got)
	}
	return f.Commit()
}

func wrongDigest(b model.Blob, got digest.Digest) error {
	return fmt.Errorf("blob %s: the bytes that the registry sent have the digest %s; push the artifact again, or repair the registry or mirror that serves it: %w",
		b.Digest, got, model.ErrCorrupt)
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
// left out: hashing must not wait for a disk's sync. One that fails costs only what would have to be fetched again.
type checkpoints struct {
	file  File
	log   *slog.Logger
	hash  hash.Hash
	last  int64
	every int64

	busy atomic.Bool
	done sync.WaitGroup
}

func (c *checkpoints) reached(offset int64) {
	if offset-c.last < c.every || c.busy.Load() {
		return
	}
	m, ok := c.hash.(encoding.BinaryMarshaler)
	if !ok {
		return
	}
	state, err := m.MarshalBinary()
	if err != nil {
		return
	}
	c.last = offset
	c.busy.Store(true)
	c.done.Go(func() {
		if err := c.file.Checkpoint(offset, state); err != nil {
			c.log.Warn("checkpoint of a transfer failed, an interruption would cost more", "error", err)
		}
		c.busy.Store(false)
	})
}

// wait returns when no checkpoint is being written.
func (c *checkpoints) wait() { c.done.Wait() }
