package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

const hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseRef(t *testing.T) {
	tests := []struct {
		in   string
		want Ref
		out  string // how it is written back; empty means as it was
	}{
		{in: "registry.example.com/m/qwen3:8b", want: Ref{Registry: "registry.example.com", Repository: "m/qwen3", Tag: "8b"}},
		{in: "localhost:5000/m", want: Ref{Registry: "localhost:5000", Repository: "m"}},
		{in: "oci://Registry.Example.com/m:1", want: Ref{Registry: "registry.example.com", Repository: "m", Tag: "1"}, out: "registry.example.com/m:1"},
		{in: "[::1]:5000/a/b@sha256:" + hex, want: Ref{Registry: "[::1]:5000", Repository: "a/b", Digest: "sha256:" + hex}},
		{in: "r.io/a__b/c--d.e:T_1@sha256:" + hex, want: Ref{Registry: "r.io", Repository: "a__b/c--d.e", Tag: "T_1", Digest: "sha256:" + hex}},
		{in: "docker.io/alpine:3", want: Ref{Registry: "docker.io", Repository: "library/alpine", Tag: "3"}, out: "docker.io/library/alpine:3"},
		{in: "r.io/m@sha512:" + strings.Repeat("ab", 64), want: Ref{Registry: "r.io", Repository: "m", Digest: digest.Digest("sha512:" + strings.Repeat("ab", 64))}},
	}
	for _, tt := range tests {
		got, err := ParseRef(tt.in)
		tt.want.Scheme = SchemeOCI
		if err != nil || got != tt.want {
			t.Errorf("%s: %+v, %v", tt.in, got, err)
		}
		if tt.out == "" {
			tt.out = tt.in
		}
		if got.String() != tt.out {
			t.Errorf("%s is written back as %s", tt.in, got)
		}
	}
	for _, in := range []string{
		"", "oci://", "qwen3", "library/qwen3", "http://r.io/m", "r.io/", "r.io/UPPER", "r.io//m", "r.io/m/", "r.io/m:",
		"r.io/m:-x", "r.io/m:" + strings.Repeat("t", 129), "r.io/m@", "r.io/m@sha256:abc", "r.io/m@md5:" + hex[:32],
		"r.io/m@sha256:" + strings.ToUpper(hex), "r.io/../m", "r.io/m?x=1", "r.io:port/m", "user@r.io/m", "r_x.io/m", "r.io/m m",
		"r.io/" + strings.Repeat("a", 256), "r.io/m\x00", "-r.io/m", "r.io/m@sha384:" + hex + hex[:32],
	} {
		if got, err := ParseRef(in); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
	if _, err := ParseRef(strings.Repeat("x", 10_000)); len(err.Error()) > 600 {
		t.Errorf("the error for a long reference has %d bytes", len(err.Error()))
	}
}

func TestRefLoopback(t *testing.T) {
	for in, want := range map[string]bool{
		"localhost/m": true, "localhost:80/m": true, "127.0.0.1/m": true, "127.8.9.1:5/m": true, "[::1]:5/m": true,
		"0.0.0.0:5/m": true, "[::]:5/m": true, "x.localhost/m": true, "[::ffff:127.0.0.1]:5/m": true,
		"localhost.example.com/m": false, "10.0.0.1/m": false, "128.0.0.1/m": false,
	} {
		ref, err := ParseRef(in)
		if err != nil || ref.Loopback() != want {
			t.Errorf("%s: %v, %v", in, ref.Loopback(), err)
		}
	}
}

func TestCleanPath(t *testing.T) {
	for in, want := range map[string]string{
		"a": "a", "./a": "a", "a/b/": "a/b", "a//b": "a/b", "a/./b": "a/b", "a..b.gguf": "a..b.gguf", `a\b`: `a\b`, "...": "...", "ä/ö": "ä/ö",
	} {
		if got, err := CleanPath(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{
		"", ".", "./", "/", "/a", "..", "../a", "a/../b", "a/..", "a\x00b", "a\xffb", strings.Repeat("x", 256),
		strings.Repeat("x/", 65) + "y", strings.Repeat("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx/", 62) + "y",
	} {
		if got, err := CleanPath(in); !errors.Is(err, ErrInvalid) {
			t.Errorf("%.50q: %q, %v", in, got, err)
		}
	}
}

func FuzzCleanPath(f *testing.F) {
	f.Add("./a//b/../c")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := CleanPath(s)
		if err != nil {
			return
		}
		if !fs.ValidPath(p) || p == "." || strings.ContainsRune(p, 0) {
			t.Fatalf("%q becomes %q", s, p)
		}
		if again, err := CleanPath(p); err != nil || again != p {
			t.Fatalf("%q is not stable: %q, %v", p, again, err)
		}
	})
}

func file(p string) File { return File{Path: p, Mode: 0o644, Blob: Blob{Digest: "sha256:" + hex}} }
func link(p, to string) File {
	return File{Path: p, Mode: fs.ModeSymlink, Link: to}
}
func dir(p string) File { return File{Path: p, Mode: fs.ModeDir} }

func TestNewTree(t *testing.T) {
	tree, err := NewTree([]File{
		{Path: "b", Mode: 0o4755, Blob: Blob{Digest: "sha256:" + hex}}, file("a/x"), dir("a"), link("a/up", "../b"),
		link("l", "a"), link("l2", "l/x"), link("dangling", "not/there"), file("a-b"),
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range tree {
		got = append(got, fmt.Sprintf("%s %s", f.Mode, f.Path))
	}
	want := "dr-xr-xr-x a|-r--r--r-- a-b|Lrwxrwxrwx a/up|-r--r--r-- a/x|-r-xr-xr-x b|Lrwxrwxrwx dangling|Lrwxrwxrwx l|Lrwxrwxrwx l2"
	if strings.Join(got, "|") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "|"), want)
	}
	for p, ok := range map[string]bool{"a": true, "a/x": true, "b": true, "c": false, "a/": false, "a/xx": false} {
		if _, found := tree.Lookup(p); found != ok {
			t.Errorf("lookup %q: %v", p, found)
		}
	}
	if len(tree.Blobs()) != 1 || tree.Size() != tree.Blobs()[0].Size {
		t.Errorf("size %d, blobs %v", tree.Size(), tree.Blobs())
	}
	for name, files := range map[string][]File{
		"twice":              {file("a"), file("a")},
		"below a file":       {file("a"), file("a/b")},
		"below a link":       {dir("d"), link("a", "d"), file("a/b")},
		"unclean":            {file("./a")},
		"outwards":           {link("a", "../x")},
		"outwards by a link": {link("d/up", ".."), link("d/out", "up/../x")},
		"absolute":           {link("a", "/etc/passwd")},
		"by absolute":        {link("a", "b/c"), link("b", "/etc")},
		"circle":             {link("a", "b"), link("b", "a")},
		"itself":             {link("a", "a")},
		"empty link":         {link("a", "")},
		"device":             {{Path: "a", Mode: fs.ModeDevice}},
		"socket":             {{Path: "a", Mode: fs.ModeSocket}},
		"no digest":          {{Path: "a"}},
		"md5":                {{Path: "a", Blob: Blob{Digest: digest.Digest("md5:" + hex[:32])}}},
		"negative":           {{Path: "a", Blob: Blob{Digest: "sha256:" + hex, Size: -1}}},
	} {
		if tree, err := NewTree(files); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, %v", name, tree, err)
		}
	}
}

// TestTangledLinks has links that each lead through many others.
func TestTangledLinks(t *testing.T) {
	list := []File{dir("d")}
	for i := range 40 {
		list = append(list, link(fmt.Sprintf("c%02d", i), fmt.Sprintf("./././././././c%02d", i+1)))
	}
	for i := range 20_000 {
		list = append(list, link(fmt.Sprintf("l%05d", i), "c01"))
	}
	if _, err := NewTree(list); !errors.Is(err, ErrTooLarge) {
		t.Fatalf("error %v", err)
	}
}

func TestTreeDigest(t *testing.T) {
	digests := map[digest.Digest]string{}
	for name, files := range map[string][]File{
		"one":        {file("a")},
		"renamed":    {file("b")},
		"executable": {{Path: "a", Mode: 0o755, Blob: Blob{Digest: "sha256:" + hex}}},
		"content":    {{Path: "a", Blob: Blob{Digest: digest.FromString("x")}}},
		"link":       {link("a", "b")},
		"other link": {link("a", "c")},
		"directory":  {dir("a")},
		"empty":      {},
		"odd name":   {file("a\n100 b")},
	} {
		tree, err := NewTree(files)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := digests[tree.Digest()]; ok {
			t.Errorf("%s and %s have the same digest", name, other)
		}
		digests[tree.Digest()] = name
	}
	a, _ := NewTree([]File{file("a"), file("b")})
	b, _ := NewTree([]File{file("b"), {Path: "a", Mode: 0o600, Blob: Blob{Digest: "sha256:" + hex}}})
	if a.Digest() != b.Digest() {
		t.Error("order or bits that are dropped change the digest")
	}
}

func FuzzNewTree(f *testing.F) {
	f.Add("a", "b/c", "../a", "d", "a/x")
	f.Fuzz(func(t *testing.T, p1, l1, to1, l2, to2 string) {
		tree, err := NewTree([]File{file(p1), link(l1, to1), link(l2, to2)})
		if err != nil {
			return
		}
		for _, f := range tree {
			if !fs.ValidPath(f.Path) || strings.HasPrefix(f.Link, "/") {
				t.Fatalf("%+v", f)
			}
		}
	})
}

func TestSecretsDoNotPrint(t *testing.T) {
	const canary = "canary-4711"
	c := Credential{Name: "the pod's secret", Username: "u", Password: NewSecret(canary), RefreshToken: NewSecret(canary), AccessToken: NewSecret(canary)}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "credential", c, "secret", c.Password, "pointer", &c)
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	all := log.String() + string(encoded)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		all += fmt.Sprintf(verb, c) + fmt.Sprintf(verb, &c) + fmt.Sprintf(verb, c.Password) + fmt.Sprintf(verb, []any{c.Password, c})
	}
	if strings.Contains(all, canary) || strings.Contains(all, fmt.Sprintf("%x", canary)) {
		t.Errorf("a secret is shown: %s", all)
	}
	if c.Password.Reveal() != canary {
		t.Error("the secret is lost")
	}
	if got := fmt.Sprint(c); got != "the pod's secret" {
		t.Errorf("a credential prints as %q", got)
	}
	if got := fmt.Sprint(Credential{}); got != "anonymous" {
		t.Errorf("the anonymous credential prints as %q", got)
	}
}
