package wire

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
)

func fail(kind error, why, _ string) *Failure { return &Failure{Kind: kind, Text: why} }

func broken(_ context.Context, _ string, err error) *Failure {
	return fail(model.ErrUnavailable, err.Error(), "")
}

// closed is a body that notes its end.
type closed struct {
	io.Reader
	ended bool
}

func (c *closed) Close() error { c.ended = true; return nil }

func TestOpenIsSlow(t *testing.T) {
	for name, test := range map[string]struct {
		answer  time.Duration // how long open takes
		patient time.Duration // when the caller gives up
		want    string
		again   bool
	}{
		"no answer":           {answer: time.Hour, patient: time.Hour, want: ErrSlow.Error(), again: true},
		"the caller leaves":   {answer: time.Hour, patient: time.Second, want: "the context ended"},
		"in the last instant": {answer: time.Minute, patient: time.Hour, want: ErrSlow.Error(), again: true},
		"in time":             {answer: time.Second, patient: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.patient)
				defer cancel()
				content := &closed{Reader: strings.NewReader("abc")}
				body, f := Open(ctx, time.Minute, fail, broken, func(ctx context.Context) (source.Body, *Failure) {
					if test.answer > time.Minute {
						<-ctx.Done()
						return source.Body{}, fail(model.ErrUnavailable, "the context ended", "")
					}
					time.Sleep(test.answer)
					synctest.Wait() // the timer has run, where its time has come
					return source.Body{ReadCloser: content, Length: 3}, nil
				})
				if test.want != "" {
					if f == nil || f.Text != test.want || f.Again != test.again {
						t.Fatalf("%+v, want %q, again %t", f, test.want, test.again)
					}
					if test.answer <= time.Minute && !content.ended {
						t.Error("the body is left open")
					}
					return
				}
				if f != nil {
					t.Fatal(f)
				}
				time.Sleep(2 * time.Minute) // the limit is not one of the body
				if text, err := io.ReadAll(body); string(text) != "abc" || err != nil {
					t.Errorf("%q, %v", text, err)
				}
				if err := body.Close(); err != nil || !content.ended {
					t.Errorf("closed: %t, %v", content.ended, err)
				}
			})
		})
	}
}

func TestWindowBody(t *testing.T) {
	w, err := NewWindow(model.Blob{Digest: digest.FromString("0123456789"), Size: 10}, 2, 4)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		status   int
		contents string // Content-Range
		kind     error  // nil where there is a body
		final    bool
	}{
		"the range":         {status: 206, contents: "bytes 2-5/10", final: true},
		"another range":     {status: 206, contents: "bytes 3-6/10", kind: source.ErrRange, final: true},
		"a shorter blob":    {status: 416, contents: "bytes */3", kind: model.ErrCorrupt},
		"no ranges":         {status: 416, kind: model.ErrConflict},
		"an expired link":   {status: 403, kind: model.ErrConflict},
		"a server too busy": {status: 503, kind: model.ErrConflict, final: true},
	} {
		content := &closed{Reader: strings.NewReader("2345")}
		resp := &http.Response{StatusCode: test.status, Header: http.Header{"Content-Range": {test.contents}}, Body: content, ContentLength: 4}
		body, f, final := w.Body(resp, "host", fail, func() *Failure { return fail(model.ErrConflict, "the status says so", "") })
		if final != test.final || (f == nil) != (test.kind == nil) || f != nil && !errors.Is(f, test.kind) {
			t.Errorf("%s: %v, final %t", name, f, final)
		}
		if content.ended == (test.kind == nil) {
			t.Errorf("%s: closed: %t", name, content.ended)
		}
		if test.kind == nil && (body.Offset != 2 || body.Length != 4 || body.Host != "host") {
			t.Errorf("%s: %+v", name, body)
		}
	}
}
