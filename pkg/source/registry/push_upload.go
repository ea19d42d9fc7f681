package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// blobUpload is the transfer of one blob, through its broken attempts.
type blobUpload struct {
	pusher  *Pusher
	client  *client
	subject subject
	blob    model.Blob
	open    func(int64) (io.ReadCloser, error)
	sent    func(int64)

	// location is where the registry wants the next bytes; nil before an upload was begun. offset of the blob have
	// arrived there.
	location *url.URL
	offset   int64
	// broken says that an attempt failed, so that the registry has to be asked where it stands.
	broken bool
	// chunk is the most that one request sends; 0 is all.
	chunk int64

	// mu guards unreadable, which net/http's own goroutines set: why our content cannot be read.
	mu         sync.Mutex
	unreadable error
}

// attempt goes on from where the upload is, to its end.
func (u *blobUpload) attempt(ctx context.Context) *failure {
	if u.broken {
		// The answer to the last request may be all that was lost.
		there, f := u.pusher.exists(ctx, u.client, u.blob)
		if f != nil {
			return f
		}
		if there {
			u.sent(u.blob.Size)
			return nil
		}
		u.resume(ctx)
	}
	if u.location == nil {
		done, f := u.begin(ctx)
		if f != nil || done {
			return f
		}
	}
	u.broken = false
	whole := u.offset == 0 && (u.chunk == 0 || u.blob.Size <= u.chunk)
	for !whole && u.offset < u.blob.Size {
		if f := u.patch(ctx); f != nil {
			return f
		}
	}
	return u.commit(ctx)
}

// begin opens an upload. done says that the registry has the blob already.
func (u *blobUpload) begin(ctx context.Context) (done bool, f *failure) {
	u.offset = 0
	resp, f := u.client.do(ctx, u.subject, http.MethodPost, u.client.url(u.pusher.ref.Repository, "blobs", "uploads/"), http.Header{}, nil)
	if f != nil {
		return false, f
	}
	defer wire.Drain(resp.Body)
	switch resp.StatusCode {
	case http.StatusCreated:
		u.sent(u.blob.Size)
		return true, nil
	case http.StatusAccepted:
		location, err := uploadLocation(resp)
		if err != nil {
			return false, u.subject.fail(model.ErrUnavailable, fmt.Sprintf("%s opens an upload, but %v", resp.url.Host, err), "")
		}
		if least, err := strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64); err == nil && u.chunk > 0 {
			u.chunk = max(u.chunk, least)
		}
		u.location = location
		return false, nil
	}
	return false, u.subject.status(resp.reply())
}

// resume asks the registry how much has arrived (distribution-spec, "Resuming an upload"). Where it does not say, the
// upload is begun again: the distribution registry, for one, cannot find an upload that broke within a request.
func (u *blobUpload) resume(ctx context.Context) {
	location := u.location
	u.location, u.offset = nil, 0
	if location == nil {
		return
	}
	resp, f := u.client.do(ctx, u.subject, http.MethodGet, location, http.Header{}, nil)
	if f != nil {
		return
	}
	defer wire.Drain(resp.Body)
	end, ok := rangeEnd(resp.Header.Get("Range"))
	next, err := uploadLocation(resp)
	// "0-0" is what registries say of an upload that is empty, and of one with a single byte.
	if resp.StatusCode != http.StatusNoContent || !ok || end == 0 || end >= u.blob.Size {
		return
	}
	if err != nil {
		next = location
	}
	u.location, u.offset = next, end+1
	u.sent(u.offset)
}

// patch sends one chunk, or all the rest.
func (u *blobUpload) patch(ctx context.Context) *failure {
	n := u.blob.Size - u.offset
	if u.chunk > 0 {
		n = min(n, u.chunk)
	}
	header := http.Header{
		"Content-Type":  {"application/octet-stream"},
		"Content-Range": {fmt.Sprintf("%d-%d", u.offset, u.offset+n-1)},
	}
	resp, f := u.client.do(ctx, u.subject, http.MethodPatch, u.location, header, u.body(n))
	if f != nil {
		return u.local(f)
	}
	defer wire.Drain(resp.Body)
	if resp.StatusCode != http.StatusAccepted {
		return u.refused(resp)
	}
	location, err := uploadLocation(resp)
	if err != nil {
		return u.subject.fail(model.ErrUnavailable, fmt.Sprintf("%s accepts a chunk, but %v", resp.url.Host, err), "")
	}
	u.location = location
	if end, ok := rangeEnd(resp.Header.Get("Range")); ok && end+1 != u.offset+n {
		f := u.subject.fail(model.ErrUnavailable, fmt.Sprintf("%s has %d bytes where it should have %d", resp.url.Host, end+1, u.offset+n), "")
		f.Again = true
		return f
	}
	u.offset += n
	return nil
}

// commit ends the upload, with all of the content where nothing was sent yet.
func (u *blobUpload) commit(ctx context.Context) *failure {
	at := *u.location
	at.RawQuery = withQuery(&at, url.Values{"digest": {u.blob.Digest.String()}})
	header, body := http.Header{}, (*payload)(nil)
	if u.offset < u.blob.Size {
		header.Set("Content-Type", "application/octet-stream")
		body = u.body(u.blob.Size)
	}
	resp, f := u.client.do(ctx, u.subject, http.MethodPut, &at, header, body)
	if f != nil {
		return u.local(f)
	}
	defer wire.Drain(resp.Body)
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusOK {
		return u.refused(resp)
	}
	u.offset = u.blob.Size
	u.sent(u.blob.Size)
	return nil
}

// refused turns an unwanted answer into a failure, and decides whether another attempt may do better.
func (u *blobUpload) refused(resp *answer) *failure {
	f := u.subject.status(resp.reply())
	switch resp.StatusCode {
	case http.StatusRequestEntityTooLarge:
		if u.chunk == 0 || u.chunk > u.pusher.fallback {
			u.chunk, u.location, f.Again = u.pusher.fallback, nil, true
		}
	case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable:
		f.Again = true // the upload is lost, or stands elsewhere
	}
	return f
}

// local tells a failure to read our own content from one of the network, which it looks like.
func (u *blobUpload) local(f *failure) *failure {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.unreadable == nil {
		return f
	}
	kind := model.ErrInvalid
	if errors.Is(u.unreadable, model.ErrConflict) {
		kind = model.ErrConflict
	}
	return u.subject.fail(kind, strings.TrimSuffix(u.unreadable.Error(), ": "+kind.Error()), "")
}

func (u *blobUpload) note(err error) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unreadable = err
	return err
}

// body is the content of one request: length bytes from the offset on.
func (u *blobUpload) body(length int64) *payload {
	from := u.offset
	return &payload{length: length, open: func() (io.ReadCloser, error) {
		r, err := u.open(from)
		if err != nil {
			return nil, u.note(err)
		}
		// net/http reads past the length of a request to see that nothing follows, so a file must end with it.
		if f, ok := r.(*os.File); ok && from+length == u.blob.Size {
			return newSentFile(f, from, u.sent)
		}
		return &sentReader{ReadCloser: r, upload: u, left: length, total: from}, nil
	}}
}

// sentReader counts what a request has taken of its body.
type sentReader struct {
	io.ReadCloser
	upload      *blobUpload
	left, total int64
}

func (r *sentReader) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.ReadCloser.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if n > 0 {
		r.total += int64(n)
		r.upload.sent(r.total)
	}
	switch {
	case errors.Is(err, io.EOF) && r.left > 0:
		err = r.upload.note(fmt.Errorf("the content ends %d bytes early: it changed while it was sent: %w", r.left, model.ErrConflict))
	case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrClosed): // net/http closes what it does not need any more
		err = r.upload.note(err)
	}
	return n, err
}

// sentFile is the rest of a file as the body of a request. It still is a file to net/http, which without TLS lets the
// kernel send it; so progress is not seen in reads, and is told by where the file's position is.
type sentFile struct {
	*os.File
	stop func()
}

// progressEvery is how often the position of a file that is being sent is looked at.
const progressEvery = 200 * time.Millisecond

func newSentFile(f *os.File, from int64, sent func(int64)) (io.ReadCloser, error) {
	start, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	ended, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-ended:
				return
			case <-tick.C:
				if at, err := f.Seek(0, io.SeekCurrent); err == nil {
					sent(from + at - start)
				}
			}
		}
	}()
	return &sentFile{File: f, stop: sync.OnceFunc(func() {
		close(ended)
		<-gone
	})}, nil
}

// Close ends the file, and what watches it.
func (f *sentFile) Close() error {
	f.stop()
	return f.File.Close()
}

// uploadLocation reads where an upload goes on. Registries send paths as well as URLs, and may lead to another host.
func uploadLocation(resp *answer) (*url.URL, error) {
	location := resp.Header.Get("Location")
	if location == "" {
		return nil, errors.New("does not say where")
	}
	u, err := resp.url.Parse(location)
	if err == nil && u.Scheme == "http" && resp.url.Scheme == "https" && u.Hostname() == resp.url.Hostname() {
		// A registry that does not know of the TLS in front of it. Nothing is sent without TLS because of that.
		u.Scheme, u.Host = resp.url.Scheme, resp.url.Host
		location = u.String()
	}
	return wire.RedirectTarget(resp.url, location)
}

// rangeEnd reads the header "Range: 0-END" of an upload, which is not the Range of RFC 9110.
func rangeEnd(value string) (int64, bool) {
	from, to, ok := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(value, "bytes="), "bytes "), "-")
	end, err := strconv.ParseInt(strings.TrimSpace(to), 10, 64)
	return end, ok && err == nil && strings.TrimSpace(from) == "0" && end >= 0
}

func opener(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}
