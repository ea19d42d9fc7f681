package registry

import (
	"io"
	"log"
	"net/http"
	"os"
	"regexp"
	"time"

	"github.com/opencontainers/go-digest"
)

// Kind of a request.
type Kind string

// The kinds of requests that a client of a registry makes.
const (
	KindManifest Kind = "manifest"
	KindBlob     Kind = "blob"
	KindUpload   Kind = "upload"
	KindToken    Kind = "token"
	KindCDN      Kind = "cdn"
	KindOther    Kind = "other"
)

var (
	manifestPath = regexp.MustCompile(`^/v2/(.+)/manifests/([^/]+)$`)
	blobPathname = regexp.MustCompile(`^/v2/(.+)/blobs/([^/]+)$`)
	uploadPath   = regexp.MustCompile(`^/v2/(.+)/blobs/uploads/`)
)

// describe says what a request asks for, as far as its line and header tell.
func describe(q *http.Request) Request {
	out := Request{
		Time: time.Now(), Method: q.Method, Kind: KindOther, Path: q.URL.Path,
		Range: q.Header.Get("Range"), Agent: q.UserAgent(), Remote: q.RemoteAddr,
	}
	out.User, _, _ = q.BasicAuth()
	switch {
	case q.URL.Path == tokenPath:
		out.Kind = KindToken
	case uploadPath.MatchString(q.URL.Path):
		out.Kind, out.Repository = KindUpload, uploadPath.FindStringSubmatch(q.URL.Path)[1]
	case manifestPath.MatchString(q.URL.Path):
		m := manifestPath.FindStringSubmatch(q.URL.Path)
		out.Kind, out.Repository, out.Reference = KindManifest, m[1], m[2]
	case blobPathname.MatchString(q.URL.Path):
		m := blobPathname.FindStringSubmatch(q.URL.Path)
		out.Kind, out.Repository, out.Reference = KindBlob, m[1], m[2]
	}
	return out
}

// handle is the way of every request: the log outside, then the faults, then who answers.
func (r *Registry) handle(w http.ResponseWriter, q *http.Request) {
	entry := describe(q)
	period := r.log.begin()
	counted := &countingWriter{ResponseWriter: w, period: period, kind: entry.Kind, method: entry.Method}
	// Faults cut connections by panicking with http.ErrAbortHandler: the record is written all the same.
	defer func() {
		entry.Status, entry.Bytes, entry.Duration = counted.status, counted.bytes, time.Since(entry.Time)
		r.log.end(period, entry)
	}()
	r.faulty(entry, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.answer(w, q, entry)
	})).ServeHTTP(counted, q)
}

func (r *Registry) answer(w http.ResponseWriter, q *http.Request, entry Request) {
	if entry.Kind == KindToken && r.tokens != nil {
		r.tokens.serve(w, q)
		return
	}
	if r.tokens != nil && !r.tokens.allow(w, q, entry) {
		return
	}
	read := q.Method == http.MethodGet || q.Method == http.MethodHead
	if read && entry.Kind == KindManifest {
		r.mu.Lock()
		m, ok := r.manifests[entry.Repository+"\x00"+entry.Reference]
		r.mu.Unlock()
		if ok {
			serveManifest(w, q, m)
			return
		}
	}
	// Basic authentication is the distribution registry's own: then it serves blobs itself.
	if q.Method == http.MethodGet && entry.Kind == KindBlob && (len(r.options.Users) == 0 || r.tokens != nil) {
		d := digest.Digest(entry.Reference)
		if d.Validate() == nil {
			if _, err := os.Stat(r.linkPath(entry.Repository, d)); err == nil {
				if r.cdn != nil {
					http.Redirect(w, q, r.cdn.url(d), http.StatusTemporaryRedirect)
					return
				}
				r.serveBlob(w, q, d)
				return
			}
		}
	}
	r.app.ServeHTTP(w, q)
}

func serveManifest(w http.ResponseWriter, q *http.Request, m manifest) {
	w.Header().Set("Content-Type", m.mediaType)
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(m.body).String())
	if q.Method == http.MethodGet {
		_, _ = w.Write(m.body)
	}
}

// serveBlob sends the blob's file, with the header that the distribution registry sets. The kernel copies it.
func (r *Registry) serveBlob(w http.ResponseWriter, q *http.Request, d digest.Digest) {
	f, err := os.Open(r.blobPath(d))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer func() { _ = f.Close() }()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("ETag", `"`+d.String()+`"`)
	http.ServeContent(w, q, "", time.Time{}, f)
}

// countingWriter counts the bytes of the body, and keeps the way open on which the kernel copies files to sockets.
type countingWriter struct {
	http.ResponseWriter
	period *period
	kind   Kind
	method string
	status int
	bytes  int64
}

func (w *countingWriter) WriteHeader(status int) {
	if w.status == 0 || w.status < http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) count(n int64) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.bytes += n
	if w.method == http.MethodGet && (w.kind == KindBlob || w.kind == KindCDN) && w.status < http.StatusMultipleChoices {
		w.period.blobBytes.Add(n)
	}
}

func (w *countingWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.count(int64(n))
	return n, err
}

// ReadFrom passes files on in steps, so that the counters move while a large blob is sent.
func (w *countingWriter) ReadFrom(src io.Reader) (int64, error) {
	const step = 4 << 20
	var total int64
	limited, ok := src.(*io.LimitedReader)
	if !ok {
		limited = &io.LimitedReader{R: src, N: 1<<63 - 1}
	}
	for limited.N > 0 {
		n, err := io.Copy(w.ResponseWriter, &io.LimitedReader{R: limited.R, N: min(step, limited.N)})
		w.count(n)
		limited.N -= n
		total += n
		if err != nil || n == 0 {
			return total, err
		}
	}
	return total, nil
}

func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *countingWriter) Flush() {
	_ = http.NewResponseController(w.ResponseWriter).Flush()
}

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }
