package hub_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/hub"
	"github.com/model-csi/model-csi/pkg/source/hub/hubtest"
)

// tree answers questions about trees with a fixed text.
func tree(entries string) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/tree/") {
			return false
		}
		_, _ = io.WriteString(w, entries)
		return true
	}
}

func TestHostileListings(t *testing.T) {
	h := newHub(t)
	h.Commit("org/name", tiny())
	oid := plain("", "x").OID()
	sum := plain("", "x").SHA256()
	file := func(path string) string { return fmt.Sprintf(`{"type":"file","oid":%q,"size":1,"path":%q}`, oid, path) }
	large := func(path, sha string, size int) string {
		return fmt.Sprintf(`{"type":"file","oid":%q,"size":1,"path":%q,"lfs":{"oid":%q,"size":%d,"pointerSize":1}}`, oid, path, sha, size)
	}
	for name, test := range map[string]struct {
		entries string
		kind    error
		words   string
	}{
		"traversal":       {"[" + file("../../etc/passwd") + "]", model.ErrInvalid, "leaves"},
		"absolute":        {"[" + file("/etc/passwd") + "]", model.ErrInvalid, "absolute"},
		"unclean":         {"[" + file("a/./b") + "]", model.ErrInvalid, "clean"},
		"NUL":             {`[{"type":"file","oid":"` + oid + `","size":1,"path":"a\u0000b"}]`, model.ErrInvalid, "NUL"},
		"empty path":      {"[" + file("") + "]", model.ErrInvalid, "empty"},
		"long name":       {"[" + file(strings.Repeat("x", 300)) + "]", model.ErrInvalid, "longer"},
		"twice":           {"[" + large("a", sum, 1) + "," + large("a", sum, 1) + "]", model.ErrInvalid, "twice"},
		"below a file":    {"[" + large("a", sum, 1) + "," + large("a/b", sum, 1) + "]", model.ErrInvalid, "not a directory"},
		"submodule":       {`[{"type":"commit","oid":"` + oid + `","path":"sub"}]`, model.ErrUnsupported, `"sub"`},
		"bad object":      {`[{"type":"file","oid":"xyz","size":1,"path":"a"}]`, model.ErrInvalid, "git object"},
		"negative":        {`[{"type":"file","oid":"` + oid + `","size":-1,"path":"a"}]`, model.ErrInvalid, "git object"},
		"bad LFS object":  {"[" + large("a", "xyz", 1) + "]", model.ErrInvalid, "LFS object"},
		"upper case":      {"[" + large("a", strings.ToUpper(sum), 1) + "]", model.ErrInvalid, "LFS object"},
		"negative LFS":    {"[" + large("a", sum, -1) + "]", model.ErrInvalid, "LFS object"},
		"nothing":         {"[]", model.ErrUnsupported, "no file"},
		"directory alone": {`[{"type":"directory","oid":"` + oid + `","path":"a"}]`, model.ErrUnsupported, "no file"},
		"not JSON":        {"<html>", model.ErrInvalid, "not a listing"},
		"an object":       {`{"error":"x"}`, model.ErrInvalid, "not a listing"},
		"not in git":      {"[" + file("gone.txt") + "]", model.ErrNotFound, "gone.txt"},
		"large in git":    {fmt.Sprintf(`[{"type":"file","oid":%q,"size":%d,"path":"a"}]`, oid, 65<<20), model.ErrTooLarge, "LFS"},
		"much in git":     {"[" + strings.TrimSuffix(strings.Repeat(fmt.Sprintf(`{"type":"file","oid":%q,"size":%d,"path":"a"},`, oid, 64<<20), 17), ",") + "]", model.ErrTooLarge, "LFS"},
	} {
		t.Run(name, func(t *testing.T) {
			h.Before(tree(test.entries))
			defer h.Before(nil)
			_, err := open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/name", "").Resolve(t.Context(), source.Selection{})
			wants(t, err, test.kind, test.words)
		})
	}
}

func TestHostilePages(t *testing.T) {
	h, other := newHub(t), newHub(t)
	h.Commit("org/name", tiny())
	h.SetPageSize(2)
	page := func(link func(n int) string) func(w http.ResponseWriter, r *http.Request) bool {
		n := 0
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/tree/") {
				return false
			}
			n++
			w.Header().Set("Link", link(n))
			_, _ = fmt.Fprintf(w, `[{"type":"directory","oid":"x","path":"d%d"}]`, n)
			return true
		}
	}
	for name, test := range map[string]struct {
		link  func(n int) string
		kind  error
		words string
	}{
		"in a circle": {func(n int) string { return fmt.Sprintf(`</x?cursor=%d>; rel="next"`, n%2) }, model.ErrInvalid, "come again"},
		"to itself":   {func(int) string { return `<?recursive=true&expand=false>; rel=next` }, model.ErrInvalid, "come again"},
		"endless":     {func(n int) string { return `<?cursor=` + strconv.Itoa(n) + `>; rel="next"` }, model.ErrInvalid, "no end"},
		"no query":    {func(int) string { return `<https://huggingface.co/x>; rel="next"` }, model.ErrInvalid, "no query"},
		"no end":      {func(int) string { return `<https://huggingface.co/x` }, model.ErrInvalid, "no end"},
		"a control":   {func(int) string { return "<http://[::1?x=1>; rel=\"next\"" }, model.ErrInvalid, "no query"},
		"elsewhere":   {func(n int) string { return `<` + other.URL() + `/steal?cursor=1>; rel="next"` }, model.ErrInvalid, "come again"},
	} {
		t.Run(name, func(t *testing.T) {
			h.Before(page(test.link))
			defer h.Before(nil)
			_, err := open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/name", "").Resolve(t.Context(), source.Selection{})
			wants(t, err, test.kind, test.words)
		})
	}
	if asked := other.Asked(); len(asked) > 0 {
		t.Errorf("another host was asked: %q", asked)
	}
	t.Run("too many files", func(t *testing.T) {
		_, err := open(t, newSource(t, hub.Options{Endpoint: h.URL(), MaxFiles: 3}), "hf://org/name", "").Resolve(t.Context(), source.Selection{})
		wants(t, err, model.ErrTooLarge, "more than 3 files")
	})
	t.Run("endless body", func(t *testing.T) {
		h.Before(func(w http.ResponseWriter, r *http.Request) bool {
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
					break
				}
			}
			return true
		})
		defer h.Before(nil)
		_, err := open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/name", "").Resolve(t.Context(), source.Selection{})
		wants(t, err, model.ErrTooLarge, "more than the")
	})
}

func TestHostileFiles(t *testing.T) {
	h := newHub(t)
	weights := lfs("model.bin", strings.Repeat("w", 5000))
	h.Commit("org/name", []hubtest.File{plain("config.json", `{"a":1}`), weights})
	served := func(path, content string) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, path) {
				return false
			}
			_, _ = io.WriteString(w, content)
			return true
		}
	}
	for name, test := range map[string]struct {
		content, words string
	}{
		"other content": {`{"a":2}`, "git object"},
		"shorter":       {`{"a"`, "4 bytes"},
		"longer":        {`{"a":1}}`, "more"},
	} {
		t.Run(name, func(t *testing.T) {
			h.Before(served("config.json", test.content))
			defer h.Before(nil)
			_, err := open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/name", "").Resolve(t.Context(), source.Selection{})
			wants(t, err, model.ErrCorrupt, "config.json", test.words)
		})
	}
	t.Run("another commit than the one named", func(t *testing.T) {
		h.Before(served("/revision/"+strings.Repeat("1", 40), `{"sha":"`+strings.Repeat("2", 40)+`"}`))
		defer h.Before(nil)
		_, err := open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/name@"+strings.Repeat("1", 40), "").Resolve(t.Context(), source.Selection{})
		wants(t, err, model.ErrCorrupt, strings.Repeat("2", 40))
	})
	t.Run("a pointer is no content", func(t *testing.T) {
		pointer := "version https://git-lfs.github.com/spec/v1\noid sha256:" + weights.SHA256() + "\nsize 5000\n"
		h.Commit("org/pointer", []hubtest.File{plain("model.bin", pointer), plain("README.md", "x")})
		_, err := open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/pointer", "").Resolve(t.Context(), source.Selection{})
		wants(t, err, model.ErrUnsupported, "model.bin", "LFS pointer", "git lfs push")
	})
	t.Run("ranges", func(t *testing.T) {
		r := open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/name", "")
		resolve(t, r)
		for name, test := range map[string]struct {
			answer func(w http.ResponseWriter)
			kind   error
		}{
			"another part":  {func(w http.ResponseWriter) { part(w, 0, 9, 5000, 10) }, source.ErrRange},
			"another size":  {func(w http.ResponseWriter) { part(w, 10, 19, 6000, 10) }, model.ErrCorrupt},
			"whole, larger": {func(w http.ResponseWriter) { w.Header().Set("Content-Length", "6000"); w.WriteHeader(200) }, model.ErrCorrupt},
			"no part":       {func(w http.ResponseWriter) { w.WriteHeader(206) }, source.ErrRange},
			"too short":     {func(w http.ResponseWriter) { w.Header().Set("Content-Range", "bytes */15"); w.WriteHeader(416) }, model.ErrCorrupt},
		} {
			h.ExpireLinks()
			h.Before(func(w http.ResponseWriter, _ *http.Request) bool { test.answer(w); return true })
			body, err := r.ReadRange(t.Context(), blob(weights), 10, 10)
			if err == nil {
				_ = body.Close()
			}
			if !errors.Is(err, test.kind) {
				t.Errorf("%s: %v", name, err)
			}
		}
		h.Before(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") != "" {
				w.WriteHeader(416)
				return true
			}
			_, _ = w.Write(weights.Content)
			return true
		})
		body, err := r.ReadRange(t.Context(), blob(weights), 10, 10)
		if err != nil || body.Offset != 0 {
			t.Fatalf("a hub without ranges: from %d, %v", body.Offset, err)
		}
		_ = body.Close()
		h.Before(func(w http.ResponseWriter, _ *http.Request) bool {
			part(w, 10, 19, 5000, 4)
			panic(http.ErrAbortHandler)
		})
		if body, err = r.ReadRange(t.Context(), blob(weights), 10, 10); err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(body)
		wants(t, err, model.ErrUnavailable, "stopped sending")
		_ = body.Close()
	})
}

// part sends the beginning of a part.
func part(w http.ResponseWriter, first, last, total, sent int) {
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, total))
	w.Header().Set("Content-Length", strconv.Itoa(last-first+1))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(make([]byte, sent))
	_ = http.NewResponseController(w).Flush()
}

func TestPlainLimits(t *testing.T) {
	h := newHub(t)
	h.Commit("org/name", []hubtest.File{plain("a", "12345"), plain("b", "12345"), lfs("c", "12345678901234567890")})
	for name, limits := range map[string][2]int64{"one": {4, 100}, "all": {100, 9}} {
		s := newSource(t, hub.Options{Endpoint: h.URL()})
		hub.SetPlainLimits(s, limits[0], limits[1])
		_, err := open(t, s, "hf://org/name", "").Resolve(t.Context(), source.Selection{})
		wants(t, err, model.ErrTooLarge, "outside of LFS")
		if name == "" || h.AskedFor("/resolve/") > 0 {
			t.Errorf("%s: files were read before the limit was seen", name)
		}
	}
	s := newSource(t, hub.Options{Endpoint: h.URL()})
	hub.SetPlainLimits(s, 5, 10)
	resolve(t, open(t, s, "hf://org/name", ""))
}

// TestCancelledInBetween: whoever leaves while files are read gets an error and no half listing, and the next one goes on.
func TestCancelledInBetween(t *testing.T) {
	h := newHub(t)
	var files []hubtest.File
	for i := range 40 {
		files = append(files, plain(fmt.Sprintf("%02d.txt", i), strings.Repeat("x", i)))
	}
	h.Commit("org/name", files)
	s := newSource(t, hub.Options{Endpoint: h.URL()})
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	n := 0
	h.Before(func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(r.URL.Path, "/resolve/") {
			if n++; n == 20 {
				cancel()
			}
		}
		return false
	})
	if _, err := open(t, s, "hf://org/name", "").Resolve(ctx, source.Selection{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	h.Before(nil)
	h.Forget()
	_, m := resolve(t, open(t, s, "hf://org/name", ""))
	if len(m.Files) != len(files) {
		t.Errorf("%d files", len(m.Files))
	}
	// Each file takes two requests. Half a dozen had come when the first one left.
	if n := h.AskedFor("/resolve/"); n > 2*(len(files)-5) {
		t.Errorf("%d requests for files, as if none had been read before", n)
	}
}

// TestTogether: many pods that come at once list a commit once and prove themselves each.
func TestTogether(t *testing.T) {
	h := newHub(t)
	h.Commit("org/name", tiny())
	h.SetAccess("org/name", hubtest.Access{Gated: true, Tokens: []string{"hf_in"}})
	h.AddToken("hf_out")
	s := newSource(t, hub.Options{Endpoint: h.URL()})
	const pods = 20
	var wg sync.WaitGroup
	errs := make([]error, pods)
	for i := range pods {
		r := open(t, s, "hf://org/name", []string{"hf_in", "hf_out"}[i%2])
		wg.Go(func() { _, errs[i] = r.Resolve(t.Context(), source.Selection{}) })
	}
	wg.Wait()
	for i, err := range errs {
		if allowed := i%2 == 0; allowed != (err == nil) {
			t.Errorf("pod %d: %v", i, err)
		}
	}
}
