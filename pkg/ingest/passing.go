package ingest

import (
	"context"
	"hash"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Passing is a blob that is read in order and stored nowhere. It may be opened again at an earlier byte, as an upload
// does that broke off; one reader is open at a time.
type Passing struct {
	engine *Engine
	job    Job

	mu     sync.Mutex // guards what follows
	hash   hash.Hash
	hashed int64
}

// Pass prepares reading a blob in order. It does no I/O.
func (e *Engine) Pass(job Job) *Passing {
	return &Passing{engine: e, job: job, hash: job.Blob.Digest.Algorithm().Hash()}
}

// Open returns the bytes from offset on, fetched ahead in ranges as those of File are. The last of them is handed out only
// if all that were read since the first Open(0) have the blob's digest; otherwise reading fails with model.ErrCorrupt. ctx
// governs the whole life of the reader. The caller closes it.
func (p *Passing) Open(ctx context.Context, offset int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	r, w := io.Pipe()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		err := p.engine.run(ctx, p.job, offset, nil, func(off int64, buf []byte) error {
			defer p.engine.buffers.put(buf)
			if err := p.verify(off, buf); err != nil {
				return err
			}
			_, err := w.Write(buf)
			return err
		})
		_ = w.CloseWithError(err) // nil is the end of the blob
	}()
	return &passingReader{PipeReader: r, stop: func() {
		cancel(errAborted)
		_ = r.CloseWithError(errAborted)
		<-gone
	}}, nil
}

// verify hashes what was not hashed before, and looks at the digest before the blob's end passes.
func (p *Passing) verify(off int64, buf []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	end := off + int64(len(buf))
	if off > p.hashed || end <= p.hashed {
		return nil
	}
	_, _ = p.hash.Write(buf[p.hashed-off:]) // a hash never fails
	p.hashed = end
	if end < p.job.Blob.Size {
		return nil
	}
	if got := digest.NewDigest(p.job.Blob.Digest.Algorithm(), p.hash); got != p.job.Blob.Digest {
		return wrongDigest(p.job.Blob, got)
	}
	return nil
}

// passingReader is a pipe whose end ends the transfer.
type passingReader struct {
	*io.PipeReader
	stop func()
}

// Close ends the transfer and returns when nothing of it is left.
func (r *passingReader) Close() error {
	r.stop()
	return nil
}
