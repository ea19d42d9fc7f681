// Package hubtest is a Hugging Face Hub in the test's own process. It speaks the documented HTTP API as far as reading
// goes: revisions, paginated trees, files that are served on the spot, files in LFS that are served by a storage host
// behind links that expire, private, gated and renamed repositories, tokens and error codes.
//
// It needs the standard library alone. The test module, which does not depend on the product's, sees it through the
// link test/hubtest.
package hubtest

import (
	"crypto/sha1" //nolint:gosec // what git calls its objects
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sort"
	"strings"
	"sync"
)

// File is a file of a commit.
type File struct {
	Path    string
	Content []byte
	// LFS says that git has a pointer only.
	LFS bool
}

// OID is what git calls the file's content.
func (f File) OID() string {
	h := sha1.New() //nolint:gosec // see above
	fmt.Fprintf(h, "blob %d\x00", len(f.Content))
	h.Write(f.Content)
	return hex.EncodeToString(h.Sum(nil))
}

// SHA256 is what LFS calls the file's content.
func (f File) SHA256() string {
	sum := sha256.Sum256(f.Content)
	return hex.EncodeToString(sum[:])
}

// Access says who may see a repository. The zero value is public.
type Access struct {
	// Private hides the repository from everybody but Tokens.
	Private bool
	// Gated shows the listing to everybody and the files to Tokens alone.
	Gated bool
	// Tokens may read.
	Tokens []string
}

// Server is a running hub with its storage host. Start it with New.
type Server struct {
	hub, storage *httptest.Server

	mu           sync.Mutex // guards what follows
	repositories map[string]*repository
	renamed      map[string]string
	tokens       map[string]bool
	pageSize     int
	before       func(w http.ResponseWriter, r *http.Request) bool
	links        map[string]File
	issued       int
	pace         int64
	asked        []string
	leaked       []string
	sent         int64
	active       int
}

type repository struct {
	access    Access
	revisions map[string]string
	commits   map[string][]File
}

// New starts a hub. Close stops it.
func New() *Server {
	s := &Server{repositories: map[string]*repository{}, renamed: map[string]string{}, tokens: map[string]bool{}, links: map[string]File{}, pageSize: 1000}
	s.hub = httptest.NewServer(http.HandlerFunc(s.serve))
	s.storage = httptest.NewServer(http.HandlerFunc(s.serveStored))
	return s
}

// URL is the hub's address, for Options.Endpoint and the setting hub-endpoint.
func (s *Server) URL() string { return s.hub.URL }

// StorageHost is the host that files in LFS come from.
func (s *Server) StorageHost() string { return s.storage.Listener.Addr().String() }

// Close stops the hub and its storage. It may be called again.
func (s *Server) Close() {
	for _, h := range []*httptest.Server{s.hub, s.storage} {
		h.CloseClientConnections()
		h.Close()
	}
}

// Commit makes the files a commit of the repository ("org/name", "datasets/org/name", ...), points the revisions to it
// ("main" if none is given) and returns its name.
func (s *Server) Commit(name string, files []File, revisions ...string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repositories[name]
	if r == nil {
		r = &repository{revisions: map[string]string{}, commits: map[string][]File{}}
		s.repositories[name] = r
	}
	files = append([]File(nil), files...)
	sort.Slice(files, func(i, j int) bool { return files[i].Path < files[j].Path })
	h := sha1.New() //nolint:gosec // see above
	for _, f := range files {
		fmt.Fprintf(h, "%q %s %t\n", f.Path, f.OID(), f.LFS)
	}
	commit := hex.EncodeToString(h.Sum(nil))
	r.commits[commit] = files
	if len(revisions) == 0 {
		revisions = []string{"main"}
	}
	for _, revision := range revisions {
		r.revisions[revision] = commit
	}
	return commit
}

// SetAccess says who may see a repository. Tokens that it names become valid.
func (s *Server) SetAccess(name string, a Access) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repositories[name].access = a
	for _, t := range a.Tokens {
		s.tokens[t] = true
	}
}

// AddToken makes a token valid, and RevokeToken invalid.
func (s *Server) AddToken(t string) { s.set(func() { s.tokens[t] = true }) }

// RevokeToken makes a token one that the hub does not know.
func (s *Server) RevokeToken(t string) { s.set(func() { delete(s.tokens, t) }) }

// Rename moves a repository. The old name redirects.
func (s *Server) Rename(from, to string) {
	s.set(func() {
		s.repositories[to], s.renamed[from] = s.repositories[from], to
		delete(s.repositories, from)
	})
}

// SetPageSize says how many entries a page of a tree has (1000).
func (s *Server) SetPageSize(n int) { s.set(func() { s.pageSize = n }) }

// SetPace bounds the bytes per second of each answer of the storage host; 0 is no bound.
func (s *Server) SetPace(n int64) { s.set(func() { s.pace = n }) }

// ExpireLinks makes every link to the storage host useless.
func (s *Server) ExpireLinks() { s.set(func() { s.links = map[string]File{} }) }

// Before is asked first about every request to the hub, and answers it by returning true. Nil removes it.
func (s *Server) Before(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.set(func() { s.before = f })
}

func (s *Server) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Asked lists the requests to the hub since Forget: paths and queries.
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

// AskedFor counts the requests to the hub whose path contains part.
func (s *Server) AskedFor(part string) int {
	n := 0
	for _, a := range s.Asked() {
		if strings.Contains(a, part) {
			n++
		}
	}
	return n
}

// Sent is how many bytes of files were sent since Forget.
func (s *Server) Sent() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sent
}

// Leaked lists the Authorization headers that the storage host has seen. It should see none.
func (s *Server) Leaked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.leaked...)
}

// Active is how many answers are being sent now.
func (s *Server) Active() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active
}

// Forget begins counting anew.
func (s *Server) Forget() { s.set(func() { s.asked, s.sent = nil, 0 }) }
