package hub

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestNextPage(t *testing.T) {
	for link, want := range map[string]string{
		"": "", `<https://h/x?a=1>; rel="prev"`: "", `<https://h/x?a=1>; rel="next"`: "a=1", `</x?a=1>;rel=next`: "a=1",
		`<https://h/x?a=1>; rel="prev", <https://h/x?b=2>; rel="next"`: "b=2", `<https://h/x?a=1,2>; title="x"; REL="Next"`: "a=1,2",
		`<https://h/x>; rel="xet-auth", <https://h/?c=%2B%3D>; rel="next"`: "c=%2B%3D",
	} {
		if got, err := nextPage(http.Header{"Link": {link}}); err != nil || got != want {
			t.Errorf("%s: %q, %v", link, got, err)
		}
	}
}

func TestIsPointer(t *testing.T) {
	sum := strings.Repeat("0a", 32)
	for content, want := range map[string]bool{
		"": false, "version https://git-lfs.github.com/spec/v1\n": false,
		"version https://git-lfs.github.com/spec/v1\noid sha256:" + sum + "\nsize 1\n":                               true,
		"version https://git-lfs.github.com/spec/v1\next-0-x sha256:" + sum + "\noid sha256:" + sum + "\nsize 1\n":   true,
		"version https://git-lfs.github.com/spec/v1\noid sha256:xyz\nsize 1\n":                                       false,
		"# version https://git-lfs.github.com/spec/v1\noid sha256:" + sum + "\nsize 1\n":                             false,
		"version https://git-lfs.github.com/spec/v1\noid sha256:" + sum + "\nsize 1\n" + strings.Repeat("text", 300): false,
	} {
		if got := isPointer([]byte(content)); got != want {
			t.Errorf("%.80q: %t", content, got)
		}
	}
}

func TestLRU(t *testing.T) {
	l := newLRU[string, int](10)
	l.put("a", 1, 4)
	l.put("b", 2, 4)
	l.get("a")
	l.put("c", 3, 4)
	if _, ok := l.get("b"); ok {
		t.Error("what was not used for the longest time is still there")
	}
	if v, ok := l.get("a"); !ok || v != 1 {
		t.Error("what was used is gone")
	}
	l.put("a", 5, 8)
	if v, _ := l.get("a"); v != 5 || l.cost != 8 || l.order.Len() != 1 {
		t.Errorf("after a larger value: %d, cost %d, %d entries", v, l.cost, l.order.Len())
	}
	l.put("d", 6, 11)
	if _, ok := l.get("d"); ok || l.cost != 8 {
		t.Error("what is larger than the limit was kept")
	}
}

func TestKeyed(t *testing.T) {
	var k keyed
	unlock, err := k.lock(t.Context(), listingKey{commit: "a"})
	if err != nil {
		t.Fatal(err)
	}
	other, err := k.lock(t.Context(), listingKey{commit: "b"})
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.lock(ctx, listingKey{commit: "a"}); !errors.Is(err, context.Canceled) {
		t.Errorf("a held key: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		again, err := k.lock(context.Background(), listingKey{commit: "a"})
		if err != nil {
			t.Error(err)
			return
		}
		again()
	}()
	unlock()
	<-done
	if len(k.held) != 0 {
		t.Errorf("%d keys are still held", len(k.held))
	}
}

func FuzzParsePage(f *testing.F) {
	f.Add([]byte(`[{"type":"directory","oid":"x","size":0,"path":"a"},{"type":"file","oid":"` + strings.Repeat("a", 40) + `","size":3,"path":"a/b"}]`))
	f.Add([]byte(`[{"type":"file","oid":"x","size":3,"path":"a/b","lfs":{"oid":"` + strings.Repeat("a", 64) + `","size":3,"pointerSize":1},"xetHash":"y"}]`))
	f.Add([]byte(`[{"type":"file","path":"../x"}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		entries, err := parsePage(body)
		if err != nil {
			if !errors.Is(err, model.ErrInvalid) && !errors.Is(err, model.ErrUnsupported) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		for _, e := range entries {
			if clean, err := model.CleanPath(e.path); err != nil || clean != e.path || e.size < 0 || (e.digest == "") == (e.oid == "") {
				t.Fatalf("%+v", e)
			}
		}
	})
}

func FuzzNextPage(f *testing.F) {
	f.Add(`<https://h/x?a=1>; rel="prev", <https://h/x?b=2>; rel="next"`)
	f.Add(`<>;rel=next`)
	f.Add(`<<?x>;rel=next,`)
	f.Fuzz(func(t *testing.T, link string) {
		query, err := nextPage(http.Header{"Link": {link}})
		if err == nil && query == "" {
			return
		}
		if err != nil {
			if !errors.Is(err, model.ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		// Whatever it is, it stays behind the question mark of our own URL.
		r := &repository{base: &url.URL{Scheme: "https", Host: "hub.example.com"}, kind: models, name: "a/b"}
		u, err := url.Parse(r.api(query, "tree", "c").String())
		if err != nil {
			return // net/http will not ask for it either
		}
		if u.Host != "hub.example.com" || u.Path != "/api/models/a/b/tree/c" {
			t.Fatalf("%q leads to %s", link, u)
		}
	})
}

func FuzzListing(f *testing.F) {
	l, err := newListing("a/b", strings.Repeat("a", 40), []file{{"x/y", 1, strings.Repeat("0", 64)}, {"<&>.json", 0, strings.Repeat("1", 64)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(l.manifest)
	f.Add([]byte(`{"mediaType":"` + MediaType + `","repository":"a/b","commit":"","files":null}`))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		l, err := parseListing("a/b", manifest)
		if err != nil {
			return
		}
		if !bytes.Equal(l.manifest, manifest) || len(l.paths) == 0 {
			t.Fatalf("%q is read as %q", manifest, l.manifest)
		}
	})
}

// FuzzFileURL: no path of a file leads out of the repository's part of the hub.
func FuzzFileURL(f *testing.F) {
	f.Add("a b/c%2F..#?+.json")
	f.Fuzz(func(t *testing.T, p string) {
		clean, err := model.CleanPath(p)
		if err != nil {
			return
		}
		r := &repository{base: &url.URL{Scheme: "https", Host: "hub.example.com", Path: "/prefix"}, kind: datasets, name: "a/b"}
		u, err := url.Parse(r.file("c", clean).String())
		if err != nil {
			t.Fatal(err)
		}
		if want := "/prefix/datasets/a/b/resolve/c/" + clean; u.Path != want || path.Clean(u.Path) != want || u.RawQuery != "" || u.Fragment != "" {
			t.Fatalf("%q leads to %q", clean, u.Path)
		}
	})
}
