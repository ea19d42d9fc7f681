package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

// cdn is object storage that serves signed links: their signature must be the current one.
type cdn struct {
	*httptest.Server
	content   []byte
	signature atomic.Value
	hits      atomic.Int64
	status    atomic.Int64 // instead of content; 0 for none

	mu      sync.Mutex
	headers []http.Header
}

func newCDN(t *testing.T, content []byte) *cdn {
	t.Helper()
	c := &cdn{content: content}
	c.signature.Store("one")
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.hits.Add(1)
		c.mu.Lock()
		c.headers = append(c.headers, r.Header.Clone())
		c.mu.Unlock()
		if status := c.status.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		if r.URL.Query().Get("sig") != c.signature.Load() {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		serveRange(w, r, c.content)
	}))
	t.Cleanup(c.Close)
	return c
}

// redirect makes the server send blob requests to the CDN and wants a password for that.
func (c *cdn) redirect(s *server) {
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		if _, pass, _ := r.BasicAuth(); pass != canary {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		http.Redirect(w, r, fmt.Sprintf("%s/object?sig=%s", c.URL, c.signature.Load()), http.StatusTemporaryRedirect)
		return true
	})
}

func serveRange(w http.ResponseWriter, r *http.Request, content []byte) {
	var first, last int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); err != nil {
		_, _ = w.Write(content)
		return
	}
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(content)))
	w.Header().Set("Content-Length", fmt.Sprint(last-first+1))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(content[first : last+1])
}

func TestRedirectToStorage(t *testing.T) {
	s := newServer(t, false)
	_, layer, content := s.model()
	c := newCDN(t, content)
	c.redirect(s)
	repo := open(t, registry.Options{}, s.ref("v1"), password("ann", canary))
	read := func(offset int64) {
		t.Helper()
		body, got, err := readAll(t, repo, layer, offset, 100)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, content[offset:offset+100]) || body.Offset != offset || body.Length != 100 {
			t.Errorf("got %d bytes at %d, length %d", len(got), body.Offset, body.Length)
		}
		if u, _ := url.Parse(c.URL); body.Host != u.Host {
			t.Errorf("the body says it comes from %s, not %s", body.Host, u.Host)
		}
	}
	read(0)
	first := len(s.asked())
	for offset := range int64(5) {
		read(100 * offset)
	}
	if n := len(s.asked()); n != first {
		t.Errorf("the registry was asked %d more times for a link that is known", n-first)
	}
	// The link expires: one request fails at the storage, the registry gives another one, and the caller sees nothing.
	c.signature.Store("two")
	hits := c.hits.Load()
	read(700)
	if len(s.asked()) != first+1 || c.hits.Load() != hits+2 {
		t.Errorf("%d requests to the registry and %d to the storage, want 1 and 2", len(s.asked())-first, c.hits.Load()-hits)
	}
	for _, h := range c.headers {
		if h.Get("Authorization") != "" {
			t.Error("the storage was sent an Authorization header")
		}
		if h.Get("User-Agent") != "model-csi" {
			t.Errorf("User-Agent %q", h.Get("User-Agent"))
		}
	}
}

func TestStorageRefuses(t *testing.T) {
	for status, want := range map[int64]error{
		401: model.ErrUnavailable, 403: model.ErrUnavailable, 404: model.ErrNotFound, 429: model.ErrUnavailable, 500: model.ErrUnavailable,
	} {
		s := newServer(t, false)
		_, layer, content := s.model()
		c := newCDN(t, content)
		c.redirect(s)
		c.status.Store(status)
		repo := open(t, registry.Options{}, s.ref("v1"), password("ann", canary))
		_, _, err := readAll(t, repo, layer, 0, 10)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "storage host") || strings.Contains(err.Error(), "sig=") {
			t.Errorf("storage answers %d: %v", status, err)
		}
	}
}

// Storage that is gone while a link to it is remembered: the registry may know another one.
func TestStorageMoves(t *testing.T) {
	s := newServer(t, false)
	_, layer, content := s.model()
	old, next := newCDN(t, content), newCDN(t, content)
	old.redirect(s)
	repo := open(t, registry.Options{}, s.ref("v1"), password("ann", canary))
	if _, _, err := readAll(t, repo, layer, 0, 10); err != nil {
		t.Fatal(err)
	}
	next.redirect(s)
	old.Close()
	if _, got, err := readAll(t, repo, layer, 10, 10); err != nil || !bytes.Equal(got, content[10:20]) {
		t.Errorf("got %q, %v", got, err)
	}
}

// A redirect that stays on the registry's own origin keeps the credentials.
func TestRedirectOnOrigin(t *testing.T) {
	s := newServer(t, false)
	_, layer, content := s.model()
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if _, pass, _ := r.BasicAuth(); pass != canary {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if r.URL.Path == "/elsewhere" {
			serveRange(w, r, content)
			return true
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
		return true
	})
	repo := open(t, registry.Options{}, s.ref("v1"), password("ann", canary))
	if _, got, err := readAll(t, repo, layer, 5, 10); err != nil || !bytes.Equal(got, content[5:15]) {
		t.Errorf("got %q, %v", got, err)
	}
}

// A redirect that leaves the origin and comes back does not get the credentials again.
func TestRedirectReturns(t *testing.T) {
	s := newServer(t, false)
	_, layer, content := s.model()
	back := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, s.URL+"/open", http.StatusFound)
	}))
	t.Cleanup(back.Close)
	var seen atomic.Value
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/open" {
			seen.Store(r.Header.Get("Authorization"))
			serveRange(w, r, content)
			return true
		}
		if _, _, ok := r.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		http.Redirect(w, r, back.URL, http.StatusFound)
		return true
	})
	repo := open(t, registry.Options{}, s.ref("v1"), password("ann", canary))
	if _, _, err := readAll(t, repo, layer, 5, 10); err != nil {
		t.Fatal(err)
	}
	if seen.Load() != "" {
		t.Errorf("the way back carried %q", seen.Load())
	}
}

func TestRedirectRefused(t *testing.T) {
	for name, test := range map[string]struct {
		location string
		want     error
	}{
		"loop":             {"", model.ErrUnavailable},
		"link-local":       {"http://169.254.169.254/latest/meta-data", model.ErrDenied},
		"mapped":           {"http://[::ffff:169.254.169.254]/", model.ErrDenied},
		"metadata on IPv6": {"http://[fd00:ec2::254]/", model.ErrDenied},
		"file":             {"file:///etc/passwd", model.ErrDenied},
		"user":             {"http://u:p@127.0.0.1/", model.ErrDenied},
		"no host":          {"http:///x", model.ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, false)
			_, layer, _ := s.model()
			s.on(func(w http.ResponseWriter, r *http.Request) bool {
				location := test.location
				if location == "" {
					location = r.URL.Path
				}
				w.Header().Set("Location", location)
				w.WriteHeader(http.StatusTemporaryRedirect)
				return true
			})
			repo := open(t, registry.Options{}, s.ref("v1"), model.Credential{})
			if _, _, err := readAll(t, repo, layer, 0, 10); !errors.Is(err, test.want) {
				t.Errorf("blob: %v, want %v", err, test.want)
			}
			if _, err := repo.Resolve(t.Context(), model.Selection{}); !errors.Is(err, test.want) {
				t.Errorf("manifest: %v, want %v", err, test.want)
			}
			if n := len(s.asked()); n > 30 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// What servers answer to a range, and what becomes of it.
func TestRangeAnswers(t *testing.T) {
	partial := func(contentRange string, body int) func(http.ResponseWriter, []byte) {
		return func(w http.ResponseWriter, content []byte) {
			if contentRange != "" {
				w.Header().Set("Content-Range", contentRange)
			}
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(content[:body])
		}
	}
	status := func(code int, header ...string) func(http.ResponseWriter, []byte) {
		return func(w http.ResponseWriter, _ []byte) {
			for i := 0; i+1 < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(code)
		}
	}
	for name, test := range map[string]struct {
		answer func(http.ResponseWriter, []byte)
		want   error
	}{
		"right":                   {partial("bytes 10-19/19000", 10), nil},
		"right, unknown total":    {partial("bytes 10-19/*", 10), nil},
		"unit in capitals":        {partial("Bytes 10-19/19000", 10), nil},
		"none":                    {partial("", 10), model.ErrUnavailable},
		"begins elsewhere":        {partial("bytes 0-9/19000", 10), model.ErrUnavailable},
		"ends elsewhere":          {partial("bytes 10-18/19000", 9), model.ErrUnavailable},
		"more than asked for":     {partial("bytes 10-29/19000", 20), model.ErrUnavailable},
		"other total":             {partial("bytes 10-19/20000", 10), model.ErrCorrupt},
		"other unit":              {partial("lines 10-19/19000", 10), model.ErrUnavailable},
		"length contradicts":      {partial("bytes 10-19/19000", 12), model.ErrUnavailable},
		"multipart":               {status(206, "Content-Type", "multipart/byteranges; boundary=x"), model.ErrUnavailable},
		"other length":            {status(200, "Content-Length", "0"), model.ErrCorrupt},
		"unauthenticated":         {status(401), model.ErrUnauthenticated},
		"denied":                  {status(403), model.ErrDenied},
		"not found":               {status(404), model.ErrNotFound},
		"too many":                {status(429, "Retry-After", "3"), model.ErrUnavailable},
		"unavailable":             {status(503), model.ErrUnavailable},
		"redirect without a goal": {status(307), model.ErrUnavailable},
		"nothing there":           {status(204), model.ErrUnavailable},
		"shorter than described":  {status(416, "Content-Range", "bytes */15"), model.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, false)
			_, layer, content := s.model()
			s.on(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Range") != "bytes=10-19" {
					t.Errorf("asked for the range %q", r.Header.Get("Range"))
				}
				test.answer(w, content[10:])
				return true
			})
			repo := open(t, registry.Options{}, s.ref("v1"), model.Credential{})
			_, got, err := readAll(t, repo, layer, 10, 10)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if test.want == nil && !bytes.Equal(got, content[10:20]) {
				t.Errorf("got %q", got)
			}
			if name == "too many" {
				var later *model.RetryAfterError
				if !errors.As(err, &later) || later.After.Seconds() != 3 {
					t.Errorf("Retry-After is lost: %v", err)
				}
			}
			if n := len(s.asked()); n != 1 {
				t.Errorf("%d requests; ranges are not retried here", n)
			}
		})
	}
}

// Servers without ranges send the whole blob, either at once or when they are asked without a range.
func TestNoRanges(t *testing.T) {
	for name, refuseRange := range map[string]bool{"200 for 206": false, "416": true} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, false)
			_, layer, content := s.model()
			s.on(func(w http.ResponseWriter, r *http.Request) bool {
				if refuseRange && r.Header.Get("Range") != "" {
					w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
					return true
				}
				_, _ = w.Write(content)
				return true
			})
			repo := open(t, registry.Options{}, s.ref("v1"), model.Credential{})
			body, got, err := readAll(t, repo, layer, 10, 10)
			if err != nil || body.Offset != 0 || !bytes.Equal(got, content) {
				t.Errorf("got %d bytes from %d, %v", len(got), body.Offset, err)
			}
		})
	}
}

func TestTruncatedBody(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter, content []byte){
		"connection lost": func(w http.ResponseWriter, content []byte) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(content[:50])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"chunks end early": func(w http.ResponseWriter, content []byte) {
			w.WriteHeader(http.StatusPartialContent)
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write(content[:50])
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, false)
			_, layer, content := s.model()
			s.on(func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-99/%d", len(content)))
				answer(w, content)
				return true
			})
			repo := open(t, registry.Options{}, s.ref("v1"), model.Credential{})
			_, got, err := readAll(t, repo, layer, 0, 100)
			if !errors.Is(err, model.ErrUnavailable) || !bytes.Equal(got, content[:50]) {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
		})
	}
}

// A server that goes on after what it announced is cut off.
func TestEndlessBody(t *testing.T) {
	s := newServer(t, false)
	_, layer, content := s.model()
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-99/%d", len(content)))
		w.WriteHeader(http.StatusPartialContent)
		_ = http.NewResponseController(w).Flush() // no Content-Length
		for {
			if _, err := w.Write(content); err != nil {
				return true
			}
		}
	})
	repo := open(t, registry.Options{}, s.ref("v1"), model.Credential{})
	_, got, err := readAll(t, repo, layer, 0, 100)
	if err != nil || !bytes.Equal(got, content[:100]) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// Ranges one after the other use one connection, also through a challenge whose body nobody reads.
func TestConnectionReuse(t *testing.T) {
	s := newServer(t, false)
	_, layer, _ := s.model()
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if _, _, ok := r.BasicAuth(); ok {
			return false
		}
		w.Header().Set("WWW-Authenticate", "Basic")
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", strings.Repeat("long ", 500))
		return true
	})
	repo := open(t, registry.Options{}, s.ref("v1"), password("ann", canary))
	var reused []bool
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { reused = append(reused, info.Reused) },
	})
	for offset := range int64(4) {
		body, err := repo.ReadRange(ctx, layer, 1000*offset, 1000)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, body.Length)
		if _, err := io.ReadFull(body, buf); err != nil {
			t.Fatal(err)
		}
		if err := body.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if want := []bool{false, true, true, true, true}; !slices.Equal(reused, want) {
		t.Errorf("connections were reused: %v, want %v", reused, want)
	}
}

func TestConcurrentRanges(t *testing.T) {
	s := newServer(t, false)
	_, layer, content := s.model()
	c := newCDN(t, content)
	c.redirect(s)
	repo := open(t, registry.Options{}, s.ref("v1"), password("ann", canary))
	var wg sync.WaitGroup
	for i := range int64(50) {
		if i == 25 {
			c.signature.Store("two")
		}
		wg.Go(func() {
			body, err := repo.ReadRange(t.Context(), layer, i*100, 100)
			for tries := 0; errors.Is(err, model.ErrUnavailable) && tries < 3; tries++ {
				// The link expired between the redirect and its use: whoever reads ranges asks again.
				body, err = repo.ReadRange(t.Context(), layer, i*100, 100)
			}
			if err != nil {
				t.Errorf("range %d: %v", i, err)
				return
			}
			defer body.Close()
			got, err := io.ReadAll(body)
			if err != nil || !bytes.Equal(got, content[i*100:(i+1)*100]) {
				t.Errorf("range %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
}
