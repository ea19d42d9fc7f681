package pull

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/model-csi/model-csi/pkg/model"
)

// Unpack is Tree, and keeps all files of the archives in the store: what Stream reads is then either there or a layer.
func (a *Artifact) Unpack(ctx context.Context) (model.Tree, error) {
	for _, l := range a.Layers() {
		if !unpacked(l) || a.puller.present(l) {
			continue
		}
		if err := a.read(ctx, l, func(model.Blob) bool { return true }); err != nil {
			return nil, err
		}
	}
	return a.Tree(ctx)
}

// Stream prepares reading a regular file in order, from any offset and any number of times. A file that is a layer passes
// from its source, fetched ahead in parallel and stored nowhere; its last bytes come only if the digest is right, or
// reading fails with model.ErrCorrupt. ctx governs the life of the readers, which the caller closes one before the next.
func (a *Artifact) Stream(f model.File) func(ctx context.Context, offset int64) (io.ReadCloser, error) {
	l, raw := a.raw(f)
	if raw && !a.puller.opts.Store.Has(f.Blob) {
		return a.puller.opts.Engine.Pass(a.puller.work(a.job, l, &counter{})).Open
	}
	return func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		local, err := a.local(ctx, f)
		if err != nil {
			return nil, err
		}
		if _, err := local.Seek(offset, io.SeekStart); err != nil {
			return nil, errors.Join(err, local.Close())
		}
		return local, nil
	}
}

// blockSize is what is fetched at once for somebody who reads a header in small pieces.
const blockSize = 256 << 10

// blocks reads ahead: whoever parses a header asks for it in small pieces.
type blocks struct {
	r    io.ReaderAt
	size int64

	mu    sync.Mutex // guards what follows
	at    int64
	block []byte
}

// ReadAt implements io.ReaderAt.
func (b *blocks) ReadAt(p []byte, off int64) (n int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for n < len(p) {
		at := off + int64(n)
		if at < b.at || at >= b.at+int64(len(b.block)) {
			if err := b.fetch(at); err != nil {
				return n, err
			}
		}
		n += copy(p[n:], b.block[at-b.at:])
	}
	return n, nil
}

func (b *blocks) fetch(at int64) error {
	if at < 0 || at >= b.size {
		return io.EOF
	}
	block := make([]byte, min(blockSize, b.size-at))
	n, err := b.r.ReadAt(block, at)
	if n < len(block) {
		return errors.Join(err, io.ErrUnexpectedEOF)
	}
	b.at, b.block = at, block
	return nil
}
