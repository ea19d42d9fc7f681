package ingest

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

// TestAnHourOfRefusals: a registry that has too much to do for an hour, and says so in several ways, delays a pull and does
// not end it.
func TestAnHourOfRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := &server{data: content(3*minSpan, 9)}
		s.spoil = func(request, _ int64, a *answer) {
			if time.Since(began) > time.Hour {
				return
			}
			a.err = fmt.Errorf("too many requests: %w", model.ErrUnavailable)
			if request%3 == 0 {
				a.err = &model.RetryAfterError{After: time.Minute, Err: a.err}
			}
		}
		f := newMemoryFile(int64(len(s.data)))
		if err := New(Options{}).File(t.Context(), Job{Blob: blobOf(s.data), Host: "h", Open: s.open}, f); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < time.Hour || took > 2*time.Hour {
			t.Errorf("it took %s", took)
		}
		// Patience is not pestering: pauses grow to half a minute.
		if n := s.requests.Load(); n < 10 || n > 2000 {
			t.Errorf("%d requests", n)
		}
	})
}
