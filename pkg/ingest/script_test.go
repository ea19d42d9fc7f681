package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// content returns n reproducible bytes that do not compress.
func content(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

func blobOf(b []byte) model.Blob {
	return model.Blob{Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// server answers OpenFunc from memory and lets a test spoil the answers.
type server struct {
	data     []byte
	requests atomic.Int64
	sent     atomic.Int64
	// spoil sees each answer before it is given; request counts from 1.
	spoil func(request int64, offset int64, b *answer)
}

type answer struct {
	body   []byte // what is sent
	full   []byte // the whole blob
	offset int64
	length int64
	err    error         // instead of an answer
	fail   error         // after the body
	pause  time.Duration // before each byte
	delay  time.Duration // before the first byte
	stall  bool          // instead of an end
}

func (s *server) open(ctx context.Context, offset, length int64) (Body, error) {
	request := s.requests.Add(1)
	end := int64(len(s.data))
	if length >= 0 {
		end = min(end, offset+length)
	}
	a := &answer{body: s.data[offset:end], full: s.data, offset: offset, length: end - offset}
	if s.spoil != nil {
		s.spoil(request, offset, a)
	}
	if a.err != nil {
		return Body{}, a.err
	}
	return Body{ReadCloser: &reader{ctx: ctx, s: s, a: a}, Offset: a.offset, Length: a.length}, nil
}

type reader struct {
	ctx context.Context
	s   *server
	a   *answer
}

func (r *reader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, r.ctx.Err()
	}
	if r.a.delay > 0 {
		select {
		case <-time.After(r.a.delay):
			r.a.delay = 0
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
	if len(r.a.body) == 0 && r.a.stall {
		<-r.ctx.Done()
		return 0, r.ctx.Err()
	}
	if r.a.pause > 0 {
		select {
		case <-time.After(r.a.pause):
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
		p = p[:1]
	}
	if len(r.a.body) == 0 {
		if r.a.fail != nil {
			return 0, r.a.fail
		}
		return 0, io.EOF
	}
	n := copy(p, r.a.body)
	r.a.body = r.a.body[n:]
	r.s.sent.Add(int64(n))
	return n, nil
}

func (r *reader) Close() error { return nil }

// memoryFile is a File that remembers what became durable.
type memoryFile struct {
	mu        sync.Mutex
	data      []byte
	offset    int64
	state     []byte
	committed bool
	writes    int
}

func newMemoryFile(size int64) *memoryFile { return &memoryFile{data: make([]byte, size)} }

func (f *memoryFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writes++
	return copy(f.data[off:], p), nil
}

func (f *memoryFile) Resume() (int64, []byte) { return f.offset, f.state }

func (f *memoryFile) Checkpoint(offset int64, state []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.offset, f.state = offset, state
	return nil
}

func (f *memoryFile) Commit() error {
	f.committed = true
	return nil
}

// memberStore collects the members of an archive.
type memberStore struct {
	mu    sync.Mutex
	blobs map[digest.Digest][]byte
	open  int
}

type memoryMember struct {
	store *memberStore
	buf   []byte
	done  bool
}

func (s *memberStore) create(int64, bool) (Member, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	return &memoryMember{store: s}, nil
}

func (m *memoryMember) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(m.buf) {
		m.buf = append(m.buf, make([]byte, need-len(m.buf))...)
	}
	return copy(m.buf[off:], p), nil
}

func (m *memoryMember) Commit(b model.Blob) error {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	if digest.FromBytes(m.buf) != b.Digest || int64(len(m.buf)) != b.Size {
		return errors.New("the engine computed another digest")
	}
	m.store.blobs[b.Digest] = bytes.Clone(m.buf)
	m.store.open--
	m.done = true
	return nil
}

func (m *memoryMember) Close() error {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	if !m.done {
		m.store.open--
		m.done = true
	}
	return nil
}

// testEngine has small limits, so that small blobs exercise many spans.
func testEngine(t *testing.T) *Engine {
	t.Helper()
	e := New(Options{IdleTimeout: 200 * time.Millisecond, MinRate: 20})
	t.Cleanup(func() { checkIdle(t, e) })
	return e
}

// checkIdle expects that the engine has everything back.
func checkIdle(t *testing.T, e *Engine) {
	t.Helper()
	e.buffers.mu.Lock()
	defer e.buffers.mu.Unlock()
	if out := len(e.buffers.owners); out != 0 || e.buffers.left != e.buffers.total || len(e.buffers.waiting) != 0 {
		t.Errorf("%d buffers were not given back, %d bytes are left of %d, %d wait", out, e.buffers.left, e.buffers.total, len(e.buffers.waiting))
	}
	for name, h := range e.hosts.byName {
		h.mu.Lock()
		if h.active != 0 || len(h.queue) != 0 || h.buffers.held != 0 || h.pace.hedging {
			t.Errorf("host %s has %d places taken and %d bytes, %d wait", name, h.active, h.buffers.held, len(h.queue))
		}
		h.mu.Unlock()
	}
}

var errAway = fmt.Errorf("scripted: %w", model.ErrUnavailable)
