package ingest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestPassing(t *testing.T) {
	data := content(3<<20+17, 7)
	unavailable := fmt.Errorf("reset: %w", model.ErrUnavailable)
	tests := map[string]struct {
		spoil func(request, offset int64, a *answer)
		kind  error
	}{
		"as it is": {},
		"interrupted": {spoil: func(request, _ int64, a *answer) {
			if request == 2 {
				a.body, a.fail = a.body[:min(1000, len(a.body))], unavailable
			}
		}},
		"without ranges": {spoil: func(_, _ int64, a *answer) { a.body, a.offset, a.length = a.full, 0, int64(len(a.full)) }},
		"wrong bytes": {kind: model.ErrCorrupt, spoil: func(_, offset int64, a *answer) {
			if offset == 0 {
				a.body = append([]byte("x"), a.body[1:]...)
			}
		}},
		"refused": {kind: model.ErrDenied, spoil: func(_, _ int64, a *answer) { a.err = model.ErrDenied }},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := &server{data: data, spoil: tt.spoil}
			r, err := testEngine(t).Pass(Job{Blob: blobOf(data), Host: "h", Open: s.open}).Open(t.Context(), 0)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if !errors.Is(err, tt.kind) || tt.kind == nil && !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if tt.kind != nil && len(got) == len(data) {
				t.Error("the last bytes were handed out")
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// An upload that broke off reads again from where it was; the digest is of all that was read.
func TestPassingAgain(t *testing.T) {
	data := content(5<<20, 8)
	for _, wrong := range []bool{false, true} {
		s := &server{data: data, spoil: func(_, offset int64, a *answer) {
			if wrong && offset == 0 {
				a.body = append([]byte("x"), a.body[1:]...)
			}
		}}
		p := testEngine(t).Pass(Job{Blob: blobOf(data), Host: "h", Open: s.open})
		first, err := p.Open(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, first, 2<<20); err != nil {
			t.Fatal(err)
		}
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
		const offset = 1<<20 + 5
		again, err := p.Open(t.Context(), offset)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(again)
		if wrong != errors.Is(err, model.ErrCorrupt) || !wrong && (err != nil || !bytes.Equal(got, data[offset:])) {
			t.Errorf("wrong %v: %d bytes, %v", wrong, len(got), err)
		}
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Whoever stops reading leaves nothing behind, and whoever's context ends is told.
func TestPassingEnds(t *testing.T) {
	data := content(5<<20, 9)
	s := &server{data: data, spoil: func(_, _ int64, a *answer) { a.body, a.stall = a.body[:min(100, len(a.body))], true }}
	ctx, cancel := context.WithCancel(t.Context())
	r, err := testEngine(t).Pass(Job{Blob: blobOf(data), Host: "h", Open: s.open}).Open(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	r, err = testEngine(t).Pass(Job{Blob: blobOf(data), Host: "h", Open: s.open}).Open(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
