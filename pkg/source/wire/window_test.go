package wire

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
)

func blobOf(size int64) model.Blob { return model.Blob{Digest: digest.FromString("x"), Size: size} }

func TestWindow(t *testing.T) {
	for _, test := range []struct {
		size, offset, length int64
		header               string // "" for a whole blob
	}{
		{100, 0, -1, ""}, {100, 0, 100, "bytes=0-99"}, {100, 10, 5, "bytes=10-14"}, {100, 10, -1, "bytes=10-99"},
		{0, 10, -1, "bytes=10-"}, {0, 10, 5, "bytes=10-14"}, // a size of 0 is not known
	} {
		w, err := NewWindow(blobOf(test.size), test.offset, test.length)
		if err != nil {
			t.Errorf("%+v: %v", test, err)
			continue
		}
		if h := w.Header(); h.Get("Range") != test.header || h.Get("Accept-Encoding") != "identity" {
			t.Errorf("%+v: %v", test, h)
		}
	}
	for _, bad := range [][3]int64{{100, -1, 1}, {100, 0, -2}, {100, 0, 101}, {100, 101, -1}, {100, 100, 1}} {
		if _, err := NewWindow(blobOf(bad[0]), bad[1], bad[2]); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if _, err := NewWindow(model.Blob{Digest: "sha256:x"}, 0, -1); !errors.Is(err, model.ErrInvalid) {
		t.Errorf("no digest: %v", err)
	}
}

func TestWindowAccept(t *testing.T) {
	for name, test := range map[string]struct {
		offset, length     int64 // what is asked for, of 100 bytes
		status             int
		contentRange       string
		contentLength      int64
		wantOffset, wantLn int64
		kind               error
	}{
		"the part":            {10, 5, 206, "bytes 10-14/100", 5, 10, 5, nil},
		"without a length":    {10, 5, 206, "bytes 10-14/*", -1, 10, 5, nil},
		"the whole instead":   {10, 5, 200, "", 100, 0, 100, nil},
		"whole, length open":  {0, -1, 200, "", -1, 0, -1, nil},
		"whole, other size":   {0, -1, 200, "", 99, 0, 0, model.ErrCorrupt},
		"part, other size":    {10, 5, 206, "bytes 10-14/99", 5, 0, 0, model.ErrCorrupt},
		"another part":        {10, 5, 206, "bytes 11-15/100", 5, 0, 0, source.ErrRange},
		"a shorter part":      {10, 5, 206, "bytes 10-13/100", 4, 0, 0, source.ErrRange},
		"a part of the whole": {0, -1, 206, "bytes 0-99/100", 100, 0, 0, source.ErrRange},
		"lengths differ":      {10, 5, 206, "bytes 10-14/100", 6, 0, 0, source.ErrRange},
		"which part":          {10, 5, 206, "", 5, 0, 0, source.ErrRange},
	} {
		w, err := NewWindow(blobOf(100), test.offset, test.length)
		if err != nil {
			t.Fatal(err)
		}
		resp := &http.Response{StatusCode: test.status, ContentLength: test.contentLength, Header: http.Header{"Content-Range": {test.contentRange}}}
		offset, length, err := w.Accept(resp)
		if !errors.Is(err, test.kind) || offset != test.wantOffset || length != test.wantLn {
			t.Errorf("%s: %d bytes from %d, %v", name, length, offset, err)
		}
	}
}

func TestWindowShort(t *testing.T) {
	w, err := NewWindow(blobOf(100), 50, 10)
	if err != nil {
		t.Fatal(err)
	}
	for value, corrupt := range map[string]bool{"bytes */50": true, "bytes */59": true, "bytes */100": false, "": false, "bytes */*": false} {
		err := w.Short(&http.Response{Header: http.Header{"Content-Range": {value}}})
		if errors.Is(err, model.ErrCorrupt) != corrupt || (err != nil) != corrupt {
			t.Errorf("%q: %v", value, err)
		}
	}
}

func TestStream(t *testing.T) {
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		content string
		length  int64
		want    string
		err     error
	}{
		"as long as it said":   {"12345", 5, "12345", nil},
		"longer than it said":  {"1234567", 5, "12345", nil},
		"shorter than it said": {"123", 5, "123", broken},
		"said nothing":         {"123", -1, "123", nil},
		"empty":                {"", 0, "", nil},
	} {
		stopped := false
		s := NewStream(io.NopCloser(strings.NewReader(test.content)), test.length, func(error) error { return broken }, func() { stopped = true })
		got, err := io.ReadAll(s)
		if string(got) != test.want || !errors.Is(err, test.err) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if err := s.Close(); err != nil || !stopped {
			t.Errorf("%s: closed: %v, %t", name, err, stopped)
		}
	}
}

func TestFailure(t *testing.T) {
	for status, want := range map[int]struct {
		again bool
		kind  error
	}{
		401: {false, model.ErrUnauthenticated}, 403: {false, model.ErrDenied}, 451: {false, model.ErrDenied}, 404: {false, model.ErrNotFound},
		410: {false, model.ErrNotFound}, 408: {true, model.ErrUnavailable}, 429: {true, model.ErrUnavailable}, 503: {true, model.ErrUnavailable},
		407: {false, model.ErrUnavailable}, 400: {false, model.ErrInvalid}, 204: {false, model.ErrUnavailable},
	} {
		if again, kind := KindOf(status); again != want.again || !errors.Is(kind, want.kind) {
			t.Errorf("%d: %t, %v", status, again, kind)
		}
	}
	f := &Failure{Kind: model.ErrUnavailable, Cause: io.EOF, Text: "blob x: away"}
	var told *model.RetryAfterError
	if err := f.Err(); err.Error() != "blob x: away: unavailable" || !errors.Is(err, model.ErrUnavailable) || !errors.Is(err, io.EOF) || errors.As(err, &told) {
		t.Errorf("%v", err)
	}
	f.After = 7
	if err := f.Err(); !errors.As(err, &told) || told.After != 7 || !errors.Is(err, model.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}
