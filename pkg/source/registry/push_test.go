package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

// uploads is a registry that takes blobs, as distribution-spec describes it, sessions that can be resumed included.
type uploads struct {
	*httptest.Server

	mu       sync.Mutex
	blobs    map[digest.Digest][]byte
	sessions map[string][]byte
	asked    []string
	received int64
	// before may answer a request instead; it is called without the lock.
	before func(w http.ResponseWriter, r *http.Request) (done bool)
}

func newUploads(t *testing.T) *uploads {
	t.Helper()
	u := &uploads{blobs: map[digest.Digest][]byte{}, sessions: map[string][]byte{}}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rest := strings.TrimPrefix(r.URL.Path, "/v2/"+repoName+"/")
	u.mu.Lock()
	u.asked = append(u.asked, r.Method+" "+strings.SplitN(rest, "/", 2)[0])
	u.mu.Unlock()
	if u.before != nil && u.before(w, r) {
		return
	}
	id, isSession := strings.CutPrefix(rest, "blobs/uploads/")
	switch {
	case isSession && r.Method == http.MethodPost:
		u.begin(w)
	case isSession:
		u.session(w, r, id)
	case r.Method == http.MethodHead:
		u.mu.Lock()
		_, ok := u.blobs[digest.Digest(strings.TrimPrefix(rest, "blobs/"))]
		u.mu.Unlock()
		if !ok {
			w.WriteHeader(http.StatusNotFound)
		}
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func (u *uploads) begin(w http.ResponseWriter) {
	u.mu.Lock()
	defer u.mu.Unlock()
	id := fmt.Sprint("s", len(u.sessions))
	u.sessions[id] = nil
	w.Header().Set("Location", "/v2/"+repoName+"/blobs/uploads/"+id+"?state=a%2Fb") // a path, and with a query
	w.WriteHeader(http.StatusAccepted)
}

func (u *uploads) session(w http.ResponseWriter, r *http.Request, id string) {
	if r.URL.Query().Get("state") != "a/b" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	body, _ := io.ReadAll(r.Body) // what arrives before a reset counts
	u.mu.Lock()
	defer u.mu.Unlock()
	have, ok := u.sessions[id]
	if !ok {
		refuse(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "no such upload")
		return
	}
	if from := r.Header.Get("Content-Range"); from != "" && !strings.HasPrefix(from, fmt.Sprintf("%d-", len(have))) {
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return
	}
	u.received += int64(len(body))
	have = append(have, body...)
	u.sessions[id] = have
	w.Header().Set("Location", r.URL.RequestURI())
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(len(have)-1, 0)))
	switch r.Method {
	case http.MethodGet:
		w.WriteHeader(http.StatusNoContent)
	case http.MethodPatch:
		w.WriteHeader(http.StatusAccepted)
	case http.MethodPut:
		d := digest.Digest(r.URL.Query().Get("digest"))
		if digest.FromBytes(have) != d {
			refuse(w, http.StatusBadRequest, "DIGEST_INVALID", "the digest is another")
			return
		}
		delete(u.sessions, id)
		u.blobs[d] = have
		w.WriteHeader(http.StatusCreated)
	}
}

func (u *uploads) pusher(t *testing.T, o registry.PushOptions, cred model.Credential) *registry.Pusher {
	t.Helper()
	s, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	registry.SetFirstPause(s, time.Millisecond)
	t.Cleanup(s.CloseIdleConnections)
	p, err := s.Pusher(model.Ref{Scheme: model.SchemeOCI, Registry: u.Listener.Addr().String(), Repository: repoName, Tag: "v1"}, cred, o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const uploadSize = 3_000_000

func content() ([]byte, model.Blob, func(int64) (io.ReadCloser, error)) {
	data := bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuv"), uploadSize/32)
	return data, model.Blob{Digest: digest.FromBytes(data), Size: int64(len(data))}, func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data[offset:])), nil
	}
}

// cutOnce makes the first request of a method fail after the server has read so much of its body.
func cutOnce(u *uploads, method string, after int64) func(http.ResponseWriter, *http.Request) bool {
	var once sync.Once
	return func(w http.ResponseWriter, r *http.Request) (done bool) {
		if r.Method != method {
			return false
		}
		once.Do(func() {
			done = true
			r2 := r.Clone(r.Context())
			r2.Body = io.NopCloser(io.LimitReader(r.Body, after))
			q := r2.URL.Query()
			q.Set("digest", "")
			r2.URL.RawQuery = q.Encode()
			r2.Method = http.MethodPatch
			u.session(httptest.NewRecorder(), r2, strings.TrimPrefix(r.URL.Path, "/v2/"+repoName+"/blobs/uploads/"))
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_ = conn.Close()
			}
		})
		return done
	}
}

func status(code int, method string, times int) func(http.ResponseWriter, *http.Request) bool {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Method != method || times == 0 {
			return false
		}
		times--
		w.WriteHeader(code)
		return true
	}
}

func TestUpload(t *testing.T) {
	all := []string{"POST blobs", "PUT blobs"}
	tests := map[string]struct {
		chunk, fallback int64
		before          func(*uploads) func(http.ResponseWriter, *http.Request) bool
		asked           []string
		// atMost bytes arrive; 0 means the blob's size.
		atMost int64
	}{
		"in one request": {asked: all},
		"in chunks":      {chunk: 1_000_000, asked: []string{"POST blobs", "PATCH blobs", "PATCH blobs", "PATCH blobs", "PUT blobs"}},
		"chunk larger":   {chunk: 1 << 30, asked: all},
		"broken, goes on": {
			before: func(u *uploads) func(http.ResponseWriter, *http.Request) bool {
				return cutOnce(u, http.MethodPut, 1_000_000)
			},
			asked: []string{"POST blobs", "PUT blobs", "HEAD blobs", "GET blobs", "PATCH blobs", "PUT blobs"},
		},
		"broken in a chunk, goes on": {
			chunk: 1_500_000,
			before: func(u *uploads) func(http.ResponseWriter, *http.Request) bool {
				return cutOnce(u, http.MethodPatch, 700_000)
			},
			asked: []string{"POST blobs", "PATCH blobs", "HEAD blobs", "GET blobs", "PATCH blobs", "PATCH blobs", "PUT blobs"},
		},
		"broken, lost by the registry": {
			before: func(u *uploads) func(http.ResponseWriter, *http.Request) bool {
				cut, lost := cutOnce(u, http.MethodPut, 1_000_000), status(404, http.MethodGet, 1)
				return func(w http.ResponseWriter, r *http.Request) bool { return lost(w, r) || cut(w, r) }
			},
			asked:  []string{"POST blobs", "PUT blobs", "HEAD blobs", "GET blobs", "POST blobs", "PUT blobs"},
			atMost: uploadSize + 1_000_000,
		},
		"unavailable for a moment": {
			before: func(*uploads) func(http.ResponseWriter, *http.Request) bool { return status(503, http.MethodPost, 2) },
			asked:  []string{"POST blobs", "POST blobs", "HEAD blobs", "POST blobs", "HEAD blobs", "PUT blobs"},
		},
		"too large for one request": {
			fallback: 1_000_000,
			before:   func(*uploads) func(http.ResponseWriter, *http.Request) bool { return status(413, http.MethodPut, 1) },
			asked:    []string{"POST blobs", "PUT blobs", "HEAD blobs", "POST blobs", "PATCH blobs", "PATCH blobs", "PATCH blobs", "PUT blobs"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			u := newUploads(t)
			if tt.before != nil {
				u.before = tt.before(u)
			}
			data, blob, open := content()
			p := u.pusher(t, registry.PushOptions{Chunk: tt.chunk}, model.Credential{})
			if tt.fallback > 0 {
				registry.SetFallback(p, tt.fallback)
			}
			var mu sync.Mutex
			var last int64
			if err := p.Upload(t.Context(), blob, open, func(n int64) { mu.Lock(); last = n; mu.Unlock() }); err != nil {
				t.Fatal(err)
			}
			u.mu.Lock()
			defer u.mu.Unlock()
			if !bytes.Equal(u.blobs[blob.Digest], data) {
				t.Error("the registry has other content")
			}
			slices.Sort(u.asked)
			slices.Sort(tt.asked)
			if !slices.Equal(u.asked, tt.asked) {
				t.Errorf("asked %q\nwant  %q", u.asked, tt.asked)
			}
			if most := max(tt.atMost, blob.Size); u.received > most {
				t.Errorf("%d bytes arrived, at most %d should have", u.received, most)
			}
			if mu.Lock(); last != blob.Size {
				t.Errorf("the progress ends at %d of %d", last, blob.Size)
			}
			mu.Unlock()
		})
	}
}

func TestAnswerToTheLastRequestIsLost(t *testing.T) {
	u := newUploads(t)
	_, blob, open := content()
	var once sync.Once
	u.before = func(w http.ResponseWriter, r *http.Request) (done bool) {
		if r.Method != http.MethodPut {
			return false
		}
		once.Do(func() {
			done = true
			u.session(httptest.NewRecorder(), r, strings.TrimPrefix(r.URL.Path, "/v2/"+repoName+"/blobs/uploads/"))
			panic(http.ErrAbortHandler)
		})
		return done
	}
	if err := u.pusher(t, registry.PushOptions{}, model.Credential{}).Upload(t.Context(), blob, open, nil); err != nil {
		t.Fatal(err)
	}
	if u.received != blob.Size {
		t.Errorf("%d bytes were sent for a blob of %d", u.received, blob.Size)
	}
}

func TestUploadRenewsItsToken(t *testing.T) {
	u := newUploads(t)
	data, blob, open := content()
	var tokens, scopes []string
	refused := 0
	u.before = func(w http.ResponseWriter, r *http.Request) bool {
		u.mu.Lock()
		defer u.mu.Unlock()
		if r.URL.Path == "/v2/"+repoName+"/token/x" {
			token := "token" + strconv.Itoa(len(tokens))
			tokens = append(tokens, token)
			scopes = append(scopes, r.URL.Query()["scope"]...)
			_, _ = fmt.Fprintf(w, `{"token":%q}`, token)
			return true
		}
		// The second token lives as long as the first, but the first ends when the content has been sent.
		valid := len(tokens) > 0 && r.Header.Get("Authorization") == "Bearer "+tokens[len(tokens)-1]
		if valid && r.Method == http.MethodPut && len(tokens) == 1 {
			_, _ = io.Copy(io.Discard, r.Body)
			refused, valid = refused+1, false
		}
		if !valid {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/v2/%s/token/x",service="s"`, u.URL, repoName))
			w.WriteHeader(http.StatusUnauthorized)
		}
		return !valid
	}
	if err := u.pusher(t, registry.PushOptions{}, password("user", "secret-word")).Upload(t.Context(), blob, open, nil); err != nil {
		t.Fatal(err)
	}
	if refused != 1 || len(tokens) != 2 || !bytes.Equal(u.blobs[blob.Digest], data) {
		t.Errorf("%d requests with content were refused, %d tokens, right content: %v", refused, len(tokens), bytes.Equal(u.blobs[blob.Digest], data))
	}
	for _, s := range scopes {
		if s != "repository:"+repoName+":pull,push" {
			t.Errorf("scope %q", s)
		}
	}
}

// A registry behind a proxy that ends TLS may not know of it, and lead to plain HTTP. Nothing goes there.
func TestUploadStaysWithinTLS(t *testing.T) {
	u := &uploads{blobs: map[digest.Digest][]byte{}, sessions: map[string][]byte{}}
	u.Server = httptest.NewTLSServer(u)
	t.Cleanup(u.Close)
	host := u.Listener.Addr().String()
	u.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost {
			return false
		}
		recorded := httptest.NewRecorder()
		u.begin(recorded)
		w.Header().Set("Location", "http://"+strings.Split(host, ":")[0]+recorded.Header().Get("Location"))
		w.WriteHeader(http.StatusAccepted)
		return true
	}
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, host), 0o755), os.WriteFile(filepath.Join(dir, host, "hosts.toml"),
		fmt.Appendf(nil, "server = \"https://%s\"\nskip_verify = true\n", host), 0o644)); err != nil {
		t.Fatal(err)
	}
	s, err := registry.New(registry.Options{ConfigDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.CloseIdleConnections)
	p, err := s.Pusher(model.Ref{Registry: host, Repository: repoName}, model.Credential{}, registry.PushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	data, blob, open := content()
	if err := p.Upload(t.Context(), blob, open, nil); err != nil || !bytes.Equal(u.blobs[blob.Digest], data) {
		t.Errorf("%v", err)
	}
}

// A file is sent as a file, also when its upload goes on in the middle.
func TestUploadOfFile(t *testing.T) {
	u := newUploads(t)
	u.before = cutOnce(u, http.MethodPut, 1_000_000)
	data, blob, _ := content()
	name := filepath.Join(t.TempDir(), "weights")
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	var opened []int64
	var mu sync.Mutex
	open := func(offset int64) (io.ReadCloser, error) {
		mu.Lock()
		opened = append(opened, offset)
		mu.Unlock()
		f, err := os.Open(name)
		if err == nil {
			_, err = f.Seek(offset, io.SeekStart)
		}
		return f, err
	}
	if err := u.pusher(t, registry.PushOptions{}, model.Credential{}).Upload(t.Context(), blob, open, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(u.blobs[blob.Digest], data) || u.received != blob.Size || !slices.Contains(opened, 1_000_000) {
		t.Errorf("%d bytes arrived, opened at %v", u.received, opened)
	}
}

func TestUploadFails(t *testing.T) {
	data, blob, open := content()
	short := func(offset int64) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data[offset : len(data)-10])), nil
	}
	gone := func(int64) (io.ReadCloser, error) { return nil, os.ErrNotExist }
	tests := map[string]struct {
		open   func(int64) (io.ReadCloser, error)
		blob   model.Blob
		before func(http.ResponseWriter, *http.Request) bool
		kind   error
		words  string
	}{
		"content is shorter": {open: short, blob: blob, kind: model.ErrConflict, words: "changed while it was sent"},
		"content is gone":    {open: gone, blob: blob, kind: model.ErrInvalid, words: "not exist"},
		"content is other":   {open: open, blob: model.Blob{Digest: digest.FromString("x"), Size: blob.Size}, kind: model.ErrInvalid, words: "DIGEST_INVALID"},
		"denied":             {open: open, blob: blob, before: status(403, http.MethodPost, 9), kind: model.ErrDenied, words: "docker login"},
		"never available":    {open: open, blob: blob, before: status(503, http.MethodPut, 99), kind: model.ErrUnavailable, words: "HTTP 503"},
		"too large in any case": {open: open, blob: blob, before: func(w http.ResponseWriter, r *http.Request) bool {
			return status(413, r.Method, 1)(w, r) && r.Method != http.MethodHead
		}, kind: model.ErrInvalid, words: "HTTP 413"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			u := newUploads(t)
			u.before = tt.before
			err := u.pusher(t, registry.PushOptions{}, model.Credential{}).Upload(t.Context(), tt.blob, tt.open, nil)
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("%v", err)
			}
			if len(u.blobs) != 0 {
				t.Error("the registry has a blob")
			}
		})
	}
}

func TestMount(t *testing.T) {
	_, blob, open := content()
	for _, tt := range []struct {
		status  int
		mounted bool
		posts   int // for mount and upload together
	}{{201, true, 1}, {202, false, 1}, {403, false, 2}, {401, false, 2}, {404, false, 2}} {
		t.Run(strconv.Itoa(tt.status), func(t *testing.T) {
			u := newUploads(t)
			u.before = func(w http.ResponseWriter, r *http.Request) bool {
				q := r.URL.Query()
				if q.Get("mount") == "" || tt.status == 202 {
					return false
				}
				if q.Get("mount") != blob.Digest.String() || q.Get("from") != "other/repo" {
					t.Errorf("query %s", r.URL.RawQuery)
				}
				w.WriteHeader(tt.status)
				return true
			}
			p := u.pusher(t, registry.PushOptions{}, model.Credential{})
			mounted, err := p.Mount(t.Context(), blob, "other/repo")
			if err != nil || mounted != tt.mounted {
				t.Fatalf("%v, %v", mounted, err)
			}
			if !mounted {
				if err := p.Upload(t.Context(), blob, open, nil); err != nil {
					t.Fatal(err)
				}
			}
			posts := 0
			for _, a := range u.asked {
				if a == "POST blobs" {
					posts++
				}
			}
			if posts != tt.posts {
				t.Errorf("%d uploads were opened: %q", posts, u.asked)
			}
		})
	}
	p := newUploads(t).pusher(t, registry.PushOptions{}, model.Credential{})
	if _, err := p.Mount(t.Context(), blob, "../x"); !errors.Is(err, model.ErrInvalid) {
		t.Errorf("a path that leaves the API: %v", err)
	}
}

// A registry may find by itself which repository has a blob. Where it does not, nothing more is asked than without it.
func TestMountFromAnywhere(t *testing.T) {
	_, blob, open := content()
	const requested = "POST blobs"
	for name, tt := range map[string]struct {
		status  int
		mounted bool
		first   int // uploads asked for, for the first blob
		again   int // and for the second
	}{
		"mounted": {201, true, 1, 1}, "an upload instead": {202, false, 1, 1}, "unknown to the registry": {405, false, 2, 1},
		"refused": {400, false, 2, 1}, "broken": {501, false, 2, 2},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUploads(t)
			u.before = func(w http.ResponseWriter, r *http.Request) bool {
				q := r.URL.Query()
				if q.Get("mount") == "" || tt.status == 202 {
					return false
				}
				if q.Get("mount") != blob.Digest.String() || q.Has("from") {
					t.Errorf("query %s", r.URL.RawQuery)
				}
				w.WriteHeader(tt.status)
				return true
			}
			p := u.pusher(t, registry.PushOptions{}, model.Credential{})
			for i, want := range []int{tt.first, tt.again} {
				u.asked = nil
				mounted, err := p.Mount(t.Context(), blob, "")
				if err != nil || mounted != tt.mounted {
					t.Fatalf("%v, %v", mounted, err)
				}
				if !mounted {
					if err := p.Upload(t.Context(), blob, open, nil); err != nil {
						t.Fatal(err)
					}
				}
				posts := 0
				for _, a := range u.asked {
					if a == requested {
						posts++
					}
				}
				if posts != want {
					t.Errorf("blob %d: %d uploads were asked for: %q", i, posts, u.asked)
				}
			}
		})
	}
	// After a mount that opened an upload there is nothing left to ask for.
	u := newUploads(t)
	p := u.pusher(t, registry.PushOptions{}, model.Credential{})
	for _, from := range []string{"other/repo", ""} {
		if mounted, err := p.Mount(t.Context(), blob, from); mounted || err != nil {
			t.Fatalf("from %q: %v, %v", from, mounted, err)
		}
	}
	if err := p.Upload(t.Context(), blob, open, nil); err != nil || !slices.Equal(u.asked, []string{requested, "PUT blobs"}) {
		t.Errorf("%q, %v", u.asked, err)
	}
}

func TestPutManifest(t *testing.T) {
	manifest := []byte(`{"schemaVersion":2}`)
	u := newUploads(t)
	said := digest.FromBytes(manifest).String()
	u.before = func(w http.ResponseWriter, r *http.Request) bool {
		body, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPut || r.URL.Path != "/v2/"+repoName+"/manifests/v1" || r.Header.Get("Content-Type") != ociManifest || !bytes.Equal(body, manifest) {
			t.Errorf("%s %s %s", r.Method, r.URL, body)
		}
		w.Header().Set("Docker-Content-Digest", said)
		w.WriteHeader(http.StatusCreated)
		return true
	}
	p := u.pusher(t, registry.PushOptions{}, model.Credential{})
	if err := p.PutManifest(t.Context(), ociManifest, manifest); err != nil {
		t.Error(err)
	}
	said = digest.FromString("other").String()
	if err := p.PutManifest(t.Context(), ociManifest, manifest); !errors.Is(err, model.ErrCorrupt) {
		t.Errorf("a registry that stores something else: %v", err)
	}
	s, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := s.Pusher(model.Ref{Scheme: model.SchemeOCI, Registry: "r.example.com", Repository: "a", Digest: digest.FromString("x")}, model.Credential{}, registry.PushOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := pinned.PutManifest(t.Context(), ociManifest, manifest); !errors.Is(err, model.ErrConflict) {
		t.Errorf("a reference with the digest of something else: %v", err)
	}
}

// Logins come from the docker config, and from the helpers that it names.
func TestLogins(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+string(filepath.ListSeparator)+os.Getenv("PATH"))
	config := `{"auths":{"plain.example.com":{"auth":"dXNlcjpzZWNyZXQ="},"https://index.docker.io/v1/":{"auth":"aHViOnNlY3JldA=="}},"credHelpers":{"helped.example.com":"testing","broken.example.com":"missing"}}`
	helper := "#!/bin/sh\necho '{\"ServerURL\":\"helped.example.com\",\"Username\":\"helper\",\"Secret\":\"from-helper\"}'\n"
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600),
		os.WriteFile(filepath.Join(dir, "docker-credential-testing"), []byte(helper), 0o755)); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS == "windows" {
		t.Fatal("credential helpers of this test are shell scripts")
	}
	l, err := registry.NewLogins()
	if err != nil {
		t.Fatal(err)
	}
	for host, user := range map[string]string{"plain.example.com": "user", "docker.io": "hub", "helped.example.com": "helper", "unknown.example.com": ""} {
		creds, err := l.Credentials(t.Context(), model.Ref{Registry: host, Repository: "a"})
		if err != nil || (user == "") != (len(creds) == 0) || user != "" && (creds[0].Username != user || creds[0].Password.IsZero()) {
			t.Errorf("%s: %v, %v", host, creds, err)
		}
	}
	if _, err := l.Credentials(t.Context(), model.Ref{Registry: "broken.example.com"}); !errors.Is(err, model.ErrInvalid) {
		t.Errorf("a helper that is not there: %v", err)
	}
}
