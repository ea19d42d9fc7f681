package ingest

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// stream passes buffers to two readers, the archive's hash and its splitter, and gives each back after both.
type stream struct {
	ctx  context.Context //nolint:containedctx // it is the lifetime of this one transfer
	pool *pool

	hash  chan *shared
	split chan *shared
	close sync.Once

	quit  chan struct{} // closed by abort
	abort func()        // makes Read fail; may be called more than once

	now  *shared // what Read is in the middle of
	at   int
	read atomic.Int64 // bytes that Read returned
}

type shared struct {
	buf  []byte
	uses atomic.Int32
	pool *pool
}

func (s *shared) release() {
	if s.uses.Add(-1) == 0 {
		s.pool.put(s.buf)
	}
}

func newStream(ctx context.Context, p *pool) *stream {
	quit := make(chan struct{})
	return &stream{ctx: ctx, pool: p, hash: make(chan *shared), split: make(chan *shared),
		quit: quit, abort: sync.OnceFunc(func() { close(quit) })}
}

// push hands a buffer to both readers.
func (s *stream) push(buf []byte) error {
	b := &shared{buf: buf, pool: s.pool}
	b.uses.Store(2)
	if err := s.send(s.hash, b); err != nil {
		b.release()
		return err
	}
	return s.send(s.split, b)
}

func (s *stream) send(to chan *shared, b *shared) error {
	select {
	case to <- b:
		return nil
	case <-s.ctx.Done():
		b.release()
		return context.Cause(s.ctx)
	}
}

// end says that no buffer follows.
func (s *stream) end() {
	s.close.Do(func() { close(s.hash); close(s.split) })
}

// Read implements io.Reader for the splitter. After an early end it fails with the reason.
func (s *stream) Read(p []byte) (int, error) {
	for s.now == nil {
		select {
		case b, ok := <-s.split:
			if !ok {
				if s.ctx.Err() != nil {
					return 0, context.Cause(s.ctx)
				}
				return 0, io.EOF
			}
			s.now, s.at = b, 0
		case <-s.ctx.Done():
			return 0, context.Cause(s.ctx)
		case <-s.quit:
			return 0, errAborted
		}
	}
	n := copy(p, s.now.buf[s.at:])
	s.at += n
	s.read.Add(int64(n))
	if s.at == len(s.now.buf) {
		s.now.release()
		s.now = nil
	}
	return n, nil
}

var errAborted = errors.New("the archive's reader stopped")

// drain gives back what the splitter has not read. Nobody reads afterwards.
func (s *stream) drain() {
	if s.now != nil {
		s.now.release()
		s.now = nil
	}
	for {
		select {
		case b, ok := <-s.split:
			if !ok {
				return
			}
			b.release()
		default:
			return
		}
	}
}

const (
	// chunkSize is the unit in which members are written and hashed.
	chunkSize = 1 << 20
	// chunkCount is how many chunks of one archive are on their way.
	chunkCount = 4
	// commitsAtOnce bounds the files of one archive whose sync is waited for; the store syncs them in batches.
	commitsAtOnce = 128
)

// memberWriter copies members from an archive: one goroutine reads chunks, one hashes them, one writes them.
type memberWriter struct {
	engine  *Engine
	group   *errgroup.Group
	ctx     context.Context //nolint:containedctx // it is the lifetime of this one archive
	commits *errgroup.Group
	free    chan []byte
	jobs    chan chunk

	mu   sync.Mutex // guards open and what done callbacks write
	open map[*memberFile]bool
}

type chunk struct {
	buf  []byte
	off  int64
	file *memberFile
	last bool
}

// memberFile is a member on its way.
type memberFile struct {
	member Member
	hash   digest.Digester
	size   int64
	done   func(model.Blob)
}

func newMemberWriter(ctx context.Context, e *Engine) *memberWriter {
	group, ctx := errgroup.WithContext(ctx)
	w := &memberWriter{engine: e, group: group, ctx: ctx, commits: &errgroup.Group{},
		free: make(chan []byte, chunkCount), jobs: make(chan chunk, chunkCount), open: make(map[*memberFile]bool)}
	w.commits.SetLimit(commitsAtOnce)
	for range chunkCount {
		w.free <- make([]byte, chunkSize)
	}
	group.Go(w.store)
	return w
}

// write reads size bytes of r, or everything when size is -1, into the member, which is committed later. In any case it
// is closed before close returns.
func (w *memberWriter) write(r io.Reader, size int64, m Member, done func(model.Blob)) error {
	f := &memberFile{member: m, hash: digest.SHA256.Digester(), done: done}
	w.mu.Lock()
	w.open[f] = true
	w.mu.Unlock()
	for off := int64(0); ; {
		var buf []byte
		select {
		case buf = <-w.free:
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
		want := buf
		if size >= 0 {
			want = buf[:min(size-off, chunkSize)]
		}
		n, ended, err := readFull(r, want)
		if err == nil && ended && size >= 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			w.free <- buf
			return err
		}
		last := ended || off+int64(n) == size
		f.size = off + int64(n)
		select {
		case w.jobs <- chunk{buf: buf[:n], off: off, file: f, last: last}:
		case <-w.ctx.Done():
			return context.Cause(w.ctx)
		}
		if off += int64(n); last {
			return nil
		}
	}
}

// readFull reads until p is full or r has ended. Unlike io.ReadFull it tells the end from a reader that breaks off.
func readFull(r io.Reader, p []byte) (n int, ended bool, err error) {
	for n < len(p) {
		k, err := r.Read(p[n:])
		n += k
		if errors.Is(err, io.EOF) && n < len(p) {
			return n, true, nil
		}
		if err != nil && n < len(p) {
			return n, false, err
		}
	}
	return n, false, nil
}

// store writes and hashes the chunks, both at once.
func (w *memberWriter) store() error {
	for c := range w.jobs {
		written := make(chan error, 1)
		go func() {
			_, err := c.file.member.WriteAt(c.buf, c.off)
			written <- err
		}()
		_, _ = c.file.hash.Hash().Write(c.buf)
		err := <-written
		w.free <- c.buf[:cap(c.buf)]
		if err != nil {
			return err
		}
		if c.last {
			w.commit(c.file)
		}
	}
	return nil
}

func (w *memberWriter) commit(f *memberFile) {
	w.mu.Lock()
	delete(w.open, f)
	w.mu.Unlock()
	w.commits.Go(func() error {
		b := model.Blob{Digest: f.hash.Digest(), Size: f.size}
		if err := f.member.Commit(b); err != nil {
			return err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		f.done(b)
		return nil
	})
}

// close waits until everything is committed, and drops the members that an early end left unfinished.
func (w *memberWriter) close() error {
	close(w.jobs)
	err := w.group.Wait()
	err = errors.Join(err, w.commits.Wait())
	for f := range w.open {
		err = errors.Join(err, f.member.Close())
	}
	return err
}
