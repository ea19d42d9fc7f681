package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFile(t *testing.T) {
	const size = 1<<20 + 12345 // five spans, the last one short and unaligned
	tests := []struct {
		name  string
		spoil func(request, offset int64, a *answer)
		kind  error // of the expected failure; nil when the blob must arrive
		// sent is the most bytes that may be transferred, in percent of the blob; 0 means 100.
		sent int64
	}{
		{name: "clean"},
		{name: "every first answer refused", spoil: func(r, _ int64, a *answer) {
			if r%2 == 1 {
				a.err = errAway
			}
		}},
		{name: "reset in the middle", spoil: func(r, _ int64, a *answer) {
			if r <= 4 {
				a.body, a.fail = a.body[:len(a.body)/2], errors.New("connection reset by peer")
			}
		}},
		{name: "reset after one byte", spoil: func(r, _ int64, a *answer) {
			if r <= 3 {
				a.body, a.fail = a.body[:1], errors.New("connection reset by peer")
			}
		}},
		{name: "reset before the last byte", spoil: func(r, _ int64, a *answer) {
			if r <= 3 && len(a.body) > 1 {
				a.body, a.fail = a.body[:len(a.body)-1], errors.New("connection reset by peer")
			}
		}},
		{name: "short answer", spoil: func(r, _ int64, a *answer) {
			if r <= 3 && len(a.body) > 10 {
				a.body = a.body[:10]
			}
		}},
		{name: "no ranges", sent: 600, spoil: whole},
		{name: "no ranges and no length", sent: 600, spoil: func(r, o int64, a *answer) {
			whole(r, o, a)
			a.length = -1
		}},
		{name: "no ranges and resets", sent: 900, spoil: func(r, o int64, a *answer) {
			whole(r, o, a)
			if r%2 == 0 {
				a.body, a.fail = a.body[:len(a.body)*int(min(r, 9))/10], errors.New("connection reset by peer")
			}
		}},
		{name: "ranges refused after a while", sent: 600, spoil: func(r, o int64, a *answer) {
			if r > 2 {
				whole(r, o, a)
			}
		}},
		{name: "wrong range", sent: 600, spoil: func(_, o int64, a *answer) {
			if o > 0 {
				a.offset = o + 7
			}
		}},
		{name: "range error", sent: 600, spoil: func(_, o int64, a *answer) {
			if len(a.body) < len(a.full) {
				a.err = fmt.Errorf("%w: %w", ErrNoRanges, errAway)
			}
		}},
		{name: "stall", spoil: func(r, _ int64, a *answer) {
			if r <= 2 {
				a.pause = time.Hour
			}
		}},
		{name: "trickle", spoil: func(r, _ int64, a *answer) {
			if r <= 2 {
				a.pause = 150 * time.Millisecond
			}
		}},
		{name: "asked to wait", spoil: func(r, _ int64, a *answer) {
			if r <= 2 {
				a.err = &model.RetryAfterError{After: 10 * time.Millisecond, Err: errAway}
			}
		}},
		{name: "one byte differs", kind: model.ErrCorrupt, spoil: func(_, o int64, a *answer) {
			if o == 0 {
				a.body = bytes.Clone(a.body)
				a.body[len(a.body)-1] ^= 1
			}
		}},
		{name: "too long", kind: model.ErrCorrupt, spoil: func(_, _ int64, a *answer) {
			a.body, a.length = append(bytes.Clone(a.body), 'x'), -1
		}, sent: 700},
		{name: "another length announced", kind: model.ErrCorrupt, spoil: func(_, _ int64, a *answer) { a.length++ }},
		{name: "gone", kind: model.ErrNotFound, spoil: func(_, _ int64, a *answer) { a.err = model.ErrNotFound }},
		{name: "denied in the middle", kind: model.ErrDenied, spoil: func(r, _ int64, a *answer) {
			if r == 3 {
				a.err = model.ErrDenied
			}
		}},
	}
	data := content(size, 1)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := &server{data: data, spoil: tt.spoil}
			f := newMemoryFile(size)
			var progress atomic.Int64
			job := Job{Blob: blobOf(data), Host: "h", Open: s.open, Progress: func(n int64) { progress.Add(n) }}
			err := testEngine(t).File(t.Context(), job, f)
			if !errors.Is(err, tt.kind) {
				t.Fatalf("error %v, want %v", err, tt.kind)
			}
			if f.committed != (tt.kind == nil) {
				t.Fatalf("committed: %v", f.committed)
			}
			if tt.kind != nil {
				return
			}
			if !bytes.Equal(f.data, data) {
				t.Fatal("other bytes arrived")
			}
			if limit := max(tt.sent, 100) * size / 100; s.sent.Load() > limit {
				t.Errorf("%d bytes were sent for a blob of %d", s.sent.Load(), size)
			}
			if progress.Load() != size {
				t.Errorf("progress ends at %d of %d", progress.Load(), size)
			}
		})
	}
}

// TestFileBoundaries ends answers at every kind of place: before and after the first and the last byte, and around what
// disks and buffers are aligned to. Each way for a server to end one is tried for each of its first answers.
func TestFileBoundaries(t *testing.T) {
	data := content(4*minSpan+4097, 11)
	ways := map[string]func(a *answer, cut int){
		"reset": func(a *answer, cut int) { a.body, a.fail = a.body[:cut], errors.New("connection reset by peer") },
		"end":   func(a *answer, cut int) { a.body = a.body[:cut] },
		"stall": func(a *answer, cut int) { a.body, a.stall = a.body[:cut], true },
		"end without a length": func(a *answer, cut int) {
			if a.offset > 0 { // from the start it would be a server without ranges
				a.length = -1
			}
			a.body = a.body[:cut]
		},
	}
	for name, end := range ways {
		for _, at := range []int{0, 1, 4095, 4096, 4097, minSpan - 4096, minSpan - 1, minSpan} {
			for request := int64(1); request <= 6; request++ {
				synctest.Test(t, func(t *testing.T) {
					s := &server{data: data, spoil: func(r, _ int64, a *answer) {
						if r == request {
							end(a, min(at, len(a.body)))
						}
					}}
					f := newMemoryFile(int64(len(data)))
					e := New(Options{Connections: 3})
					if err := e.File(t.Context(), Job{Blob: blobOf(data), Host: "h", Open: s.open}, f); err != nil {
						t.Fatalf("%s of answer %d after %d bytes: %v", name, request, at, err)
					}
					if !bytes.Equal(f.data, data) || !f.committed {
						t.Fatalf("%s of answer %d after %d bytes: other bytes arrived", name, request, at)
					}
					if extra := s.sent.Load() - int64(len(data)); extra > 0 && name != "stall" {
						t.Errorf("%s of answer %d after %d bytes: %d bytes came twice", name, request, at, extra)
					}
					checkIdle(t, e)
				})
			}
		}
	}
}

// whole answers a range with everything, as HTTP 200 does.
func whole(_, _ int64, a *answer) {
	a.body, a.offset, a.length = a.full, 0, int64(len(a.full))
}

func TestFileSizes(t *testing.T) {
	for _, size := range []int{0, 1, 4095, 4096, minSpan - 1, minSpan, minSpan + 1, 4 * minSpan, 4*minSpan + 1} {
		data := content(size, 2)
		s := &server{data: data}
		f := newMemoryFile(int64(size))
		if err := testEngine(t).File(t.Context(), Job{Blob: blobOf(data), Open: s.open}, f); err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		if !bytes.Equal(f.data, data) || !f.committed {
			t.Fatalf("%d bytes: other bytes arrived", size)
		}
	}
}

func TestFileResumes(t *testing.T) {
	data := content(40<<20, 3)
	blob := blobOf(data)
	h, err := resumeHash(blob.Digest, nil)
	if err != nil {
		t.Fatal(err)
	}
	const durable = 25<<20 + 4096
	_, _ = h.Write(data[:durable])
	state, err := h.(interface{ MarshalBinary() ([]byte, error) }).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	f := newMemoryFile(blob.Size)
	copy(f.data, data[:durable])
	f.offset, f.state = durable, state
	s := &server{data: data}
	if err := testEngine(t).File(t.Context(), Job{Blob: blob, Open: s.open}, f); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.data, data) {
		t.Fatal("other bytes arrived")
	}
	if want := blob.Size - durable; s.sent.Load() != want {
		t.Errorf("%d bytes were sent, %d were missing", s.sent.Load(), want)
	}
	t.Run("damaged state", func(t *testing.T) {
		f := newMemoryFile(blob.Size)
		f.offset, f.state = durable, []byte("nonsense")
		if err := testEngine(t).File(t.Context(), Job{Blob: blob, Open: s.open}, f); !errors.Is(err, model.ErrCorrupt) {
			t.Fatalf("error %v", err)
		}
	})
}

func TestFileCheckpoints(t *testing.T) {
	data := content(minCheckpoint+20<<20, 4)
	s := &server{data: data}
	f := newMemoryFile(int64(len(data)))
	if err := testEngine(t).File(t.Context(), Job{Blob: blobOf(data), Open: s.open}, f); err != nil {
		t.Fatal(err)
	}
	if f.offset < minCheckpoint || f.state == nil {
		t.Fatalf("the checkpoint is at %d", f.offset)
	}
	h, err := resumeHash(blobOf(data).Digest, f.state)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := resumeHash(blobOf(data).Digest, nil)
	_, _ = want.Write(data[:f.offset])
	if !bytes.Equal(h.Sum(nil), want.Sum(nil)) {
		t.Fatal("the state is not that of the bytes before the checkpoint")
	}
}

func TestFileCancelled(t *testing.T) {
	data := content(1<<20, 5)
	s := &server{data: data, spoil: func(r, _ int64, a *answer) {
		if r == 2 {
			a.pause = time.Hour
		}
	}}
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("nobody wants it")
	time.AfterFunc(50*time.Millisecond, func() { cancel(reason) })
	f := newMemoryFile(int64(len(data)))
	err := New(Options{}).File(ctx, Job{Blob: blobOf(data), Open: s.open}, f)
	if !errors.Is(err, reason) || f.committed {
		t.Fatalf("error %v, committed %v", err, f.committed)
	}
}

func TestGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // elsewhere the time could be over before the first attempt is
		e := New(Options{GiveUp: 50 * time.Millisecond})
		s := &server{data: content(100, 6), spoil: func(_, _ int64, a *answer) { a.err = errAway }}
		var troubles atomic.Int64
		job := Job{Blob: blobOf(s.data), Open: s.open, Trouble: func(error) { troubles.Add(1) }}
		if err := e.File(t.Context(), job, newMemoryFile(100)); !errors.Is(err, model.ErrUnavailable) {
			t.Fatalf("error %v", err)
		}
		if troubles.Load() == 0 {
			t.Error("nobody was told about the trouble")
		}
	})
}

// TestBudget holds the memory of many blobs at once to the budget and the requests to the limit.
func TestBudget(t *testing.T) {
	e := New(Options{Memory: 2 * maxSpan, Connections: 3})
	data := content(40<<20, 7)
	var now, most atomic.Int64
	s := &server{data: data}
	open := func(ctx context.Context, off, n int64) (Body, error) {
		if c := now.Add(1); c > most.Load() {
			most.Store(c)
		}
		defer now.Add(-1)
		time.Sleep(time.Millisecond)
		return s.open(ctx, off, n)
	}
	done := make(chan error)
	const blobs = 6
	for range blobs {
		go func() {
			f := newMemoryFile(int64(len(data)))
			err := e.File(t.Context(), Job{Blob: blobOf(data), Host: "h", Open: open}, f)
			if err == nil && !bytes.Equal(f.data, data) {
				err = errors.New("other bytes arrived")
			}
			done <- err
		}()
	}
	for range blobs {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if most.Load() > 3 {
		t.Errorf("%d requests at once, 3 allowed", most.Load())
	}
	e.buffers.mu.Lock() // on a slow machine what idles is being given back by now
	defer e.buffers.mu.Unlock()
	if e.buffers.mapped > 2*maxSpan {
		t.Errorf("%d bytes are mapped, the budget is %d", e.buffers.mapped, 2*maxSpan)
	}
}

// TestBrokenHostLeavesRoom has four large blobs of a host that answers at first and then asks everybody to wait.
func TestBrokenHostLeavesRoom(t *testing.T) {
	e := New(Options{Memory: 4 * maxSpan})
	ctx, cancel := context.WithCancel(t.Context())
	broken := &server{data: content(40<<20, 9), spoil: func(r, _ int64, a *answer) {
		if r > 2 {
			a.err = &model.RetryAfterError{After: time.Hour, Err: errAway}
		}
	}}
	ended := make(chan error)
	for range 4 {
		go func() {
			ended <- e.File(ctx, Job{Blob: blobOf(broken.data), Host: "broken", Open: broken.open}, newMemoryFile(40<<20))
		}()
	}
	for broken.requests.Load() < 3 {
		time.Sleep(time.Millisecond)
	}
	sound := &server{data: content(64<<20, 10)}
	if err := e.File(t.Context(), Job{Blob: blobOf(sound.data), Host: "sound", Open: sound.open}, newMemoryFile(64<<20)); err != nil {
		t.Fatal(err)
	}
	cancel()
	for range 4 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("broken blob: %v", err)
		}
	}
}

// TestSlowHostLeavesRoom has four large blobs of a host that trickles beside one of a host that does not.
func TestSlowHostLeavesRoom(t *testing.T) {
	e := New(Options{Memory: 2 * maxSpan, IdleTimeout: time.Minute, MinRate: 1})
	ctx, cancel := context.WithCancel(t.Context())
	slow := &server{data: content(40<<20, 9), spoil: func(_, _ int64, a *answer) { a.pause = time.Millisecond }}
	ended := make(chan error)
	for range 4 {
		go func() {
			ended <- e.File(ctx, Job{Blob: blobOf(slow.data), Host: "slow", Open: slow.open}, newMemoryFile(40<<20))
		}()
	}
	for slow.requests.Load() < 4 {
		time.Sleep(time.Millisecond)
	}
	fast := &server{data: content(64<<20, 10)}
	f := newMemoryFile(64 << 20)
	began := time.Now()
	if err := e.File(t.Context(), Job{Blob: blobOf(fast.data), Host: "fast", Open: fast.open}, f); err != nil {
		t.Fatal(err)
	}
	t.Logf("64 MiB beside a host that trickles: %s", time.Since(began))
	cancel()
	for range 4 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("slow blob: %v", err)
		}
	}
}

// FuzzFile splits the answers as the fuzzer wants: whatever a server does, the right bytes arrive or there is an error.
func FuzzFile(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7})
	f.Add([]byte{2, 2, 2, 2, 2, 2, 6, 6, 6, 1, 1})
	f.Add([]byte{0x80, 0xc8, 0x80, 0, 0xf8})
	data := content(3*minSpan+77, 8)
	f.Fuzz(func(t *testing.T, script []byte) {
		s := &server{data: data, spoil: func(r, o int64, a *answer) {
			if r > int64(len(script)) || r > 12 {
				return
			}
			op := script[r-1]
			cut := len(a.body) * int(op>>3) / 32
			switch op & 7 {
			case 0:
				if op >= 0x80 {
					a.body, a.stall = a.body[:cut], true
				}
			case 1:
				a.body = a.body[:cut]
			case 2:
				a.body, a.offset, a.length = data, 0, int64(len(data))
			case 3:
				a.offset = int64(cut)
			case 4:
				a.err = &model.RetryAfterError{After: time.Millisecond, Err: errAway}
			case 5:
				a.body, a.fail = a.body[:cut], errors.New("reset")
			case 6:
				a.body = bytes.Clone(a.body)
				if len(a.body) > 0 {
					a.body[cut%len(a.body)] ^= 0x10
				}
			case 7:
				a.length = int64(cut)
			}
		}}
		// In a bubble the pauses between attempts take no time.
		synctest.Test(t, func(t *testing.T) {
			file := newMemoryFile(int64(len(data)))
			e := New(Options{IdleTimeout: 100 * time.Millisecond, GiveUp: time.Hour})
			err := e.File(t.Context(), Job{Blob: blobOf(data), Open: s.open}, file)
			if file.committed != (err == nil) {
				t.Fatalf("committed %v, error %v", file.committed, err)
			}
			if err == nil && !bytes.Equal(file.data, data) {
				t.Fatal("wrong bytes were committed")
			}
			checkIdle(t, e)
		})
	})
}
