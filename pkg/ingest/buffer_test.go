package ingest

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestFits(t *testing.T) {
	const mib = 1 << 20
	tests := []struct {
		name             string
		want, held, left int64
		got              int64
	}{
		{"alone", 16 * mib, 0, 128 * mib, 16 * mib},
		{"alone, up to half", 16 * mib, 48 * mib, 80 * mib, 16 * mib},
		{"alone, more than half", 16 * mib, 64 * mib, 64 * mib, 0},
		{"second beside one that has half", 16 * mib, 0, 64 * mib, 16 * mib},
		{"second has a third", 16 * mib, 16 * mib, 48 * mib, 16 * mib},
		{"second, more than what is left", 16 * mib, 32 * mib, 32 * mib, 0},
		{"newcomer in a crowd", 16 * mib, 0, 8 * mib, 4 * mib},
		{"smallest budget", 16 * mib, 0, 32 * mib, 16 * mib},
		{"hardly anything left", 16 * mib, 0, 2 * minSpan, minSpan},
		{"nothing left", minSpan, 0, 2*minSpan - 1, 0},
	}
	for _, tt := range tests {
		if got := fits(tt.want, tt.held, tt.left); got != tt.got {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.got)
		}
	}
}

// TestFailingHostsLeaveRoom has hosts take all they can get, one after the other, and never give anything back.
func TestFailingHostsLeaveRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(128 << 20)
		ctx, cancel := context.WithCancel(t.Context())
		var taken [][]byte
		for host := range 6 {
			of := new(share)
			before := p.left
			for {
				waiting := make(chan []byte)
				one, stop := context.WithCancel(ctx)
				go func() {
					b, _ := p.get(one, maxSpan, of)
					waiting <- b
				}()
				synctest.Wait()
				stop()
				b := <-waiting
				if b == nil {
					break
				}
				taken = append(taken, b)
			}
			if of.held == 0 || of.held > before/2 {
				t.Fatalf("host %d has %d of the %d bytes that were left", host, of.held, before)
			}
		}
		for _, b := range taken {
			p.put(b)
		}
		cancel()
		if p.left != p.total || len(p.waiting) != 0 {
			t.Fatalf("%d of %d bytes are left, %d wait", p.left, p.total, len(p.waiting))
		}
		// Nothing is out: a piece of half the budget is there at once.
		free, err := p.reserve(t.Context(), p.total/2)
		if err != nil {
			t.Fatal(err)
		}
		free()
		if _, err := p.reserve(ctx, p.total+1); !errors.Is(err, context.Canceled) {
			t.Fatalf("more than there is: %v", err)
		}
	})
}

// TestSpare gets memory for a second request although everything is taken, once.
func TestSpare(t *testing.T) {
	p := newPool(2 * maxSpan)
	of := new(share)
	first, err := p.get(t.Context(), maxSpan, of)
	if err != nil {
		t.Fatal(err)
	}
	second := p.extra(maxSpan, of)
	if second == nil || p.extra(maxSpan, of) != nil {
		t.Fatal("there has to be exactly one spare buffer")
	}
	p.put(second)
	if of.held != maxSpan || p.left != maxSpan || p.spare {
		t.Fatalf("the host has %d bytes, %d are left", of.held, p.left)
	}
	p.put(first)
	fromBudget := p.extra(maxSpan, of)
	if of.held != maxSpan || p.spare {
		t.Fatal("the budget has enough, and the spare buffer was taken")
	}
	p.put(fromBudget)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle.Stop()
	p.trim()
	if p.mapped != 0 {
		t.Fatalf("%d bytes stay mapped", p.mapped)
	}
}
