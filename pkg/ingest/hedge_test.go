package ingest

import (
	"bytes"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

// stalling is a server whose answer to one request, the nth for a range at offset or beyond, stops in its middle.
func stalling(data []byte, nth int64) *server {
	return &server{data: data, spoil: func(r, _ int64, a *answer) {
		if r == nth {
			a.body, a.stall = a.body[:len(a.body)/2], true
		}
	}}
}

// TestHedge has one of many ranges stop in its middle: it costs seconds, not the half minute after which a connection
// counts as dead.
func TestHedge(t *testing.T) {
	data := content(24<<20+123, 20)
	for _, nth := range []int64{1, 4, 7} {
		t.Run(fmt.Sprint("request ", nth), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := stalling(data, nth)
				f := newMemoryFile(int64(len(data)))
				e := New(Options{})
				began := time.Now()
				if err := e.File(t.Context(), Job{Blob: blobOf(data), Host: "h", Open: s.open}, f); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(f.data, data) {
					t.Fatal("other bytes arrived")
				}
				if took := time.Since(began); took > 6*time.Second {
					t.Errorf("it took %s", took)
				}
				if extra := s.sent.Load() - int64(len(data)); extra > maxSpan {
					t.Errorf("%d bytes came twice", extra)
				}
				checkIdle(t, e)
			})
		})
	}
}

// TestHedgeLoses has a slow first request overtake the second one.
func TestHedgeLoses(t *testing.T) {
	data := content(24<<20, 21)
	synctest.Test(t, func(t *testing.T) {
		s := &server{data: data, spoil: func(r, _ int64, a *answer) {
			switch {
			case r == 2:
				a.delay = 5 * time.Second
			case r > 7:
				a.delay = time.Minute // whatever is asked for a second time
			}
		}}
		f := newMemoryFile(int64(len(data)))
		e := New(Options{})
		began := time.Now()
		if err := e.File(t.Context(), Job{Blob: blobOf(data), Host: "h", Open: s.open}, f); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); !bytes.Equal(f.data, data) || took > 6*time.Second {
			t.Fatalf("after %s the bytes are right: %v", took, bytes.Equal(f.data, data))
		}
		checkIdle(t, e)
	})
}

// TestHedgeSparesRefusers stalls ranges of a host that said shortly before that it has too much to do.
func TestHedgeSparesRefusers(t *testing.T) {
	data := content(64<<20, 22)
	synctest.Test(t, func(t *testing.T) {
		s := &server{data: data, spoil: func(r, _ int64, a *answer) {
			switch r {
			case 1:
				a.err = &model.RetryAfterError{After: time.Second, Err: errAway}
			case 6:
				a.stall, a.body = true, a.body[:100]
			}
		}}
		f := newMemoryFile(int64(len(data)))
		e := New(Options{IdleTimeout: 10 * time.Second})
		began := time.Now()
		if err := e.File(t.Context(), Job{Blob: blobOf(data), Host: "h", Open: s.open}, f); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 10*time.Second {
			t.Errorf("the stalled range was asked for a second time after %s", took)
		}
		checkIdle(t, e)
	})
}

func TestPace(t *testing.T) {
	var quick pace
	for range 20 {
		quick.took(16<<20, 100*time.Millisecond)
	}
	var slow pace
	for range 20 {
		slow.took(4<<20, 10*time.Second)
	}
	now := time.Now()
	tests := []struct {
		name    string
		pace    pace
		bytes   int
		elapsed time.Duration
		slow    bool
	}{
		{"nothing known", pace{}, 1 << 20, time.Hour, false},
		{"not long enough for anybody", quick, 16 << 20, hedgeAfter - 1, false},
		{"overdue", quick, 16 << 20, hedgeAfter, true},
		{"all are slow", slow, 4 << 20, 20 * time.Second, false},
		{"slower than the slow", slow, 4 << 20, 31 * time.Second, true},
		{"small, with the patience for a large one", slow, 1000, 3 * time.Second, false},
	}
	for _, tt := range tests {
		if got := tt.pace.slow(tt.bytes, tt.elapsed); got != tt.slow {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	quick.delivered = 1 << 30
	most := hedgeFree + quick.delivered/50
	for _, tt := range []struct {
		name   string
		change func(*pace)
		bytes  int64
		allows bool
	}{
		{"within the share", func(*pace) {}, most, true},
		{"beyond the share", func(*pace) {}, most + 1, false},
		{"the share is used up", func(p *pace) { p.hedged = most }, 1, false},
		{"another one runs", func(p *pace) { p.hedging = true }, 1, false},
		{"refused just now", func(p *pace) { p.refused = now.Add(-hedgeCalm + 1) }, 1, false},
		{"refused a while ago", func(p *pace) { p.refused = now.Add(-hedgeCalm) }, 1, true},
	} {
		p := quick
		tt.change(&p)
		if got := p.allows(tt.bytes, now); got != tt.allows {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}
