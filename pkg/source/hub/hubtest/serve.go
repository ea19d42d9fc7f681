package hubtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// refuse answers as the hub does: the code in a header, the words in a header and in the body.
func refuse(w http.ResponseWriter, status int, code, message string) {
	if code != "" {
		w.Header().Set("X-Error-Code", code)
	}
	w.Header().Set("X-Error-Message", message)
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"error": message})
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r.URL.RequestURI())
	before := s.before
	token, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	valid := s.tokens[token]
	s.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	if bearer && !valid {
		refuse(w, http.StatusUnauthorized, "", "Invalid credentials in Authorization header")
		return
	}
	segments := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	for i := range segments {
		segments[i], _ = url.PathUnescape(segments[i])
	}
	switch {
	case len(segments) > 2 && segments[0] == "api" && segments[1] == "resolve-cache":
		s.serveFile(w, r, segments[2:], token, true)
	case len(segments) > 2 && segments[0] == "api":
		s.serveAPI(w, r, segments[1:], token)
	default:
		s.serveFile(w, r, segments, token, false)
	}
}

// split finds the words of the API in a path: what is before the word is the repository, what follows is the rest.
func split(segments []string, word string) (name string, rest []string) {
	for i, p := range segments {
		if p == word && i > 0 {
			return strings.Join(segments[:i], "/"), segments[i+1:]
		}
	}
	return "", nil
}

// find looks a repository up for a token and answers where there is none.
func (s *Server) find(w http.ResponseWriter, r *http.Request, name, token string) *repository {
	s.mu.Lock()
	defer s.mu.Unlock()
	if to, ok := s.renamed[name]; ok {
		location := strings.Replace(r.URL.RequestURI(), strings.TrimPrefix(name, "datasets/"), strings.TrimPrefix(to, "datasets/"), 1)
		w.Header().Set("Location", location)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return nil
	}
	repo := s.repositories[name]
	if repo == nil || repo.access.Private && !contains(repo.access.Tokens, token) {
		if token == "" {
			refuse(w, http.StatusUnauthorized, "RepoNotFound", "Invalid username or password.")
		} else {
			refuse(w, http.StatusNotFound, "RepoNotFound", "Repository not found")
		}
		return nil
	}
	return repo
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s && s != "" {
			return true
		}
	}
	return false
}

func (repo *repository) commit(w http.ResponseWriter, revision string) (string, []File, bool) {
	commit, ok := repo.revisions[revision]
	if !ok {
		commit = revision
	}
	files, ok := repo.commits[commit]
	if !ok {
		refuse(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+revision)
	}
	return commit, files, ok
}

func (s *Server) serveAPI(w http.ResponseWriter, r *http.Request, segments []string, token string) {
	kind, segments := segments[0], segments[1:]
	for _, word := range []string{"revision", "tree"} {
		name, rest := split(segments, word)
		if len(rest) != 1 {
			continue
		}
		id := name
		if kind != "models" {
			name = kind + "/" + name
		}
		repo := s.find(w, r, name, token)
		if repo == nil {
			return
		}
		commit, files, ok := repo.commit(w, rest[0])
		switch {
		case !ok:
		case word == "revision":
			w.Header().Set("Content-Type", "application/json; charset=utf-8")
			_ = json.NewEncoder(w).Encode(map[string]any{"_id": "65f0", "id": id, "sha": commit})
		default:
			s.serveTree(w, r, files)
		}
		return
	}
	refuse(w, http.StatusNotFound, "", "Sorry, we can't find the page you are looking for.")
}

// serveTree sends one page. Directories have entries of their own, before what is in them.
func (s *Server) serveTree(w http.ResponseWriter, r *http.Request, files []File) {
	var entries []map[string]any
	seen := map[string]bool{}
	for _, f := range files {
		for i, c := range f.Path {
			if dir := f.Path[:i]; c == '/' && !seen[dir] && r.URL.Query().Get("recursive") == "true" {
				seen[dir] = true
				entries = append(entries, map[string]any{"type": "directory", "oid": strings.Repeat("d", 40), "size": 0, "path": dir})
			}
		}
		e := map[string]any{"type": "file", "oid": f.OID(), "size": len(f.Content), "path": f.Path}
		if f.LFS {
			e["oid"] = strings.Repeat("e", 40) // of the pointer
			e["lfs"] = map[string]any{"oid": f.SHA256(), "size": len(f.Content), "pointerSize": 135}
			e["xetHash"] = strings.Repeat("f", 64)
		}
		entries = append(entries, e)
	}
	s.mu.Lock()
	size := s.pageSize
	s.mu.Unlock()
	from, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	to := min(from+size, len(entries))
	if to < len(entries) {
		q := r.URL.Query()
		q.Set("cursor", strconv.Itoa(to))
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?%s>; rel="next"`, s.hub.URL, r.URL.EscapedPath(), q.Encode()))
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(entries[from:to])
}

// serveFile sends a small file after a redirect to a cache on the same host, and a file in LFS by a link to storage.
func (s *Server) serveFile(w http.ResponseWriter, r *http.Request, segments []string, token string, cached bool) {
	name, rest := split(segments, "resolve")
	if len(rest) < 2 {
		refuse(w, http.StatusNotFound, "", "Not Found")
		return
	}
	repo := s.find(w, r, name, token)
	if repo == nil {
		return
	}
	s.mu.Lock()
	access := repo.access
	s.mu.Unlock()
	if access.Gated && !contains(access.Tokens, token) {
		if token == "" {
			refuse(w, http.StatusUnauthorized, "GatedRepo", "Access to model "+name+" is restricted. You must have access to it and be authenticated to access it. Please log in.")
		} else {
			refuse(w, http.StatusForbidden, "GatedRepo", "Access to model "+name+" is restricted and you are not in the authorized list. Visit https://huggingface.co/"+name+" to ask for access.")
		}
		return
	}
	commit, files, ok := repo.commit(w, rest[0])
	if !ok {
		return
	}
	w.Header().Set("X-Repo-Commit", commit)
	for _, f := range files {
		if f.Path != strings.Join(rest[1:], "/") {
			continue
		}
		switch {
		case f.LFS:
			w.Header().Set("X-Linked-Etag", `"`+f.SHA256()+`"`)
			w.Header().Set("X-Linked-Size", strconv.Itoa(len(f.Content)))
			w.Header().Set("Location", s.link(f))
			w.WriteHeader(http.StatusFound)
		case !cached:
			w.Header().Set("Location", "/api/resolve-cache"+r.URL.EscapedPath())
			w.WriteHeader(http.StatusTemporaryRedirect)
		default:
			w.Header().Set("Etag", `"`+f.OID()+`"`)
			s.send(w, r, f, 0)
		}
		return
	}
	refuse(w, http.StatusNotFound, "EntryNotFound", "Entry not found")
}

// link makes a link that works until ExpireLinks.
func (s *Server) link(f File) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.issued++
	signature := strconv.Itoa(s.issued)
	s.links[signature] = f
	return s.storage.URL + "/xet-bridge/" + f.SHA256() + "?X-Amz-Signature=secret-signature-" + signature + "&n=" + signature
}

func (s *Server) serveStored(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if a := r.Header.Get("Authorization"); a != "" {
		s.leaked = append(s.leaked, a)
	}
	file, ok := s.links[r.URL.Query().Get("n")]
	pace := s.pace
	s.mu.Unlock()
	if !ok {
		http.Error(w, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>", http.StatusForbidden)
		return
	}
	s.send(w, r, file, pace)
}

// send serves a content, ranges included, and counts its bytes.
func (s *Server) send(w http.ResponseWriter, r *http.Request, f File, pace int64) {
	s.set(func() { s.active++ })
	defer s.set(func() { s.active-- })
	http.ServeContent(&counted{w, s, r, pace}, r, "", time.Time{}, io.NewSectionReader(bytes.NewReader(f.Content), 0, int64(len(f.Content))))
}

type counted struct {
	http.ResponseWriter
	server *Server
	req    *http.Request
	pace   int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.server.set(func() { c.server.sent += int64(n) })
	if c.pace > 0 {
		select {
		case <-time.After(time.Duration(int64(n) * int64(time.Second) / c.pace)):
		case <-c.req.Context().Done():
			return n, c.req.Context().Err()
		}
	}
	return n, err
}
