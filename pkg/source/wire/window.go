package wire

import (
	"fmt"
	"io"
	"net/http"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
)

// Window is the part of a blob that is asked for. Use NewWindow.
type Window struct {
	Blob model.Blob
	// First is the position of the first byte.
	First int64
	// Length in bytes; -1 for up to an unknown end.
	Length int64
	// Whole says that no range is asked for.
	Whole bool
}

// NewWindow checks the arguments of source.Repository.ReadRange; it fails with model.ErrInvalid for what is not a part
// of the blob.
func NewWindow(blob model.Blob, offset, length int64) (Window, error) {
	if _, err := model.ParseDigest(blob.Digest.String()); err != nil {
		return Window{}, err
	}
	if offset < 0 || length < -1 || (blob.Size > 0 && (offset > blob.Size || length > blob.Size-offset)) {
		return Window{}, fmt.Errorf("%d bytes from %d on are not a part of its %d bytes: %w", length, offset, blob.Size, model.ErrInvalid)
	}
	w := Window{Blob: blob, First: offset, Length: length, Whole: offset == 0 && length == -1}
	if length == -1 && blob.Size > 0 {
		w.Length = blob.Size - offset
	}
	return w, nil
}

// Last is the position of the last byte; -1 for an unknown end.
func (w Window) Last() int64 {
	if w.Length < 0 {
		return -1
	}
	return w.First + w.Length - 1
}

// Header asks for the window. Content codings are ruled out: digests are of the stored bytes.
func (w Window) Header() http.Header {
	h := http.Header{"Accept": {"*/*"}, "Accept-Encoding": {"identity"}}
	switch {
	case w.Whole:
	case w.Length < 0:
		h.Set("Range", fmt.Sprintf("bytes=%d-", w.First))
	default:
		h.Set("Range", fmt.Sprintf("bytes=%d-%d", w.First, w.Last()))
	}
	return h
}

// MismatchError says why an answer is not the window that was asked for. It unwraps to source.ErrRange or
// model.ErrCorrupt.
type MismatchError struct {
	Kind error
	// Why continues a sentence that begins with the server's name.
	Why string
}

func (e *MismatchError) Error() string { return e.Why }
func (e *MismatchError) Unwrap() error { return e.Kind }

// Accept checks an answer with status 200 or 206 against the window and returns where its body begins in the blob and
// how long it is, -1 where the server does not say. It fails with *MismatchError.
func (w Window) Accept(resp *http.Response) (offset, length int64, err error) {
	if resp.StatusCode == http.StatusOK {
		if resp.ContentLength >= 0 && w.Blob.Size > 0 && resp.ContentLength != w.Blob.Size {
			return 0, 0, &MismatchError{model.ErrCorrupt, fmt.Sprintf("has %d bytes, the manifest says %d", resp.ContentLength, w.Blob.Size)}
		}
		return 0, resp.ContentLength, nil
	}
	cr, err := ParseContentRange(resp.Header.Get("Content-Range"))
	switch {
	case err != nil:
		return 0, 0, &MismatchError{source.ErrRange, "sent a part without saying which: " + Bounded(resp.Header.Get("Content-Range"))}
	case cr.Total >= 0 && w.Blob.Size > 0 && cr.Total != w.Blob.Size:
		// The total is what the server says of the blob itself: no other range will be right.
		return 0, 0, &MismatchError{model.ErrCorrupt, fmt.Sprintf("has %d bytes, the manifest says %d", cr.Total, w.Blob.Size)}
	case w.Whole || cr.First != w.First || (w.Length >= 0 && cr.Last != w.Last()):
		return 0, 0, &MismatchError{source.ErrRange, fmt.Sprintf("sent the bytes %d-%d instead of %d-%d", cr.First, cr.Last, w.First, w.Last())}
	}
	length = cr.Last - cr.First + 1
	if resp.ContentLength >= 0 && resp.ContentLength != length {
		return 0, 0, &MismatchError{source.ErrRange, fmt.Sprintf("sent %d bytes for a part of %d", resp.ContentLength, length)}
	}
	return w.First, length, nil
}

// Short reads an answer with status 416: it returns the *MismatchError of a blob that is shorter than the window needs,
// or nil where the server merely refuses ranges.
func (w Window) Short(resp *http.Response) error {
	cr, err := ParseContentRange(resp.Header.Get("Content-Range"))
	if err == nil && cr.Total >= 0 && cr.Total <= w.Last() {
		return &MismatchError{model.ErrCorrupt, fmt.Sprintf("has only %d bytes, the manifest says %d", cr.Total, w.Blob.Size)}
	}
	return nil
}

// Stream is the body of a blob. It turns errors into those of the source and ends where the answer should.
type Stream struct {
	body io.ReadCloser
	// left is what is still to come of expected bytes; both are negative when that is not known.
	left, expected int64
	fail           func(error) error
	stop           func()
}

// NewStream wraps a body of length bytes, or -1. fail makes the errors, and stop is called after the body is closed.
func NewStream(body io.ReadCloser, length int64, fail func(error) error, stop func()) *Stream {
	return &Stream{body: body, left: length, expected: length, fail: fail, stop: stop}
}

// Read implements io.Reader. Bytes go from the connection into p, without a copy in between.
func (b *Stream) Read(p []byte) (int, error) {
	if b.expected >= 0 && int64(len(p)) > b.left {
		if b.left == 0 {
			return 0, io.EOF
		}
		p = p[:b.left]
	}
	n, err := b.body.Read(p)
	if b.expected >= 0 {
		b.left -= int64(n)
	}
	switch {
	case err == nil:
		return n, nil
	case err == io.EOF && b.left > 0:
		return n, b.fail(io.ErrUnexpectedEOF)
	case err == io.EOF:
		return n, io.EOF
	}
	return n, b.fail(err)
}

// Close implements io.Closer.
func (b *Stream) Close() error {
	err := b.body.Close()
	b.stop()
	return err
}
