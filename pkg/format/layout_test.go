package format

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// treeOf makes a tree from words: "a/b" is a file, "a/" a directory, "a>b" a link, "a=x" a file of another content.
func treeOf(t testing.TB, words string) model.Tree {
	t.Helper()
	var files []model.File
	for w := range strings.FieldsSeq(words) {
		name, content, _ := strings.Cut(w, "=")
		f := model.File{Path: name, Blob: model.Blob{Digest: digest.FromString(content), Size: 1}, Mode: 0o444}
		if name, target, link := strings.Cut(w, ">"); link {
			f = model.File{Path: name, Link: target, Mode: memberTypes["symlink"]}
		} else if dir, ok := strings.CutSuffix(w, "/"); ok {
			f = model.File{Path: dir, Mode: memberTypes["dir"]}
		}
		files = append(files, f)
	}
	tree, err := model.NewTree(files)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// checkGolden compares with a file of a fixture.
func checkGolden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestLayoutGolden: the trees of the layouts, byte by byte, with what the layout adds to them.
func TestLayoutGolden(t *testing.T) {
	for fixture, ref := range map[string]string{
		"modelpack/modctl-raw":  "registry.example.com/models/qwen3:8b",
		"generic/lepton-photon": "registry.example.com/photon:latest",
		"image/ramalama-car":    "quay.io/ramalama/tiny:v1",
		"huggingface/model":     "hf://org/tiny@v1",
		"ollama/library":        "registry.ollama.ai/library/llama3.2:3b",
	} {
		t.Run(fixture, func(t *testing.T) {
			f := loadFixture(t, filepath.Join("testdata", fixture))
			parsed, err := model.ParseRef(ref)
			if err != nil {
				t.Fatal(err)
			}
			name, err := HubName(parsed)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Parse(f.in)
			if err != nil {
				t.Fatal(err)
			}
			flat, err := p.Tree(f.lookup(t), nil)
			if err != nil {
				t.Fatal(err)
			}
			cache := NewHubCache(name, p.Commit, digest.FromBytes(f.in.Manifest))
			tree, err := cache.Tree(flat)
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, filepath.Join(f.dir, "layout-hf.txt"), inlines(cache.Refs())+render(tree))
			if p.Format != ollama.name {
				return
			}
			p, err = OllamaStore(f.in, parsed)
			if err != nil {
				t.Fatal(err)
			}
			store, err := p.Tree(f.lookup(t), nil)
			if err != nil {
				t.Fatal(err)
			}
			checkGolden(t, filepath.Join(f.dir, "layout-ollama.txt"), inlines(p.Inline)+render(store))
		})
	}
}

func inlines(list []InlineFile) string {
	var b strings.Builder
	for _, i := range list {
		fmt.Fprintf(&b, "inline %s %s %q\n", i.Path, short(i.Blob().Digest), i.Data)
	}
	return b.String()
}

func TestHubCache(t *testing.T) {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	manifest := digest.FromString("manifest")
	for ref, want := range map[string]string{
		"hf://org/Name@v1":                         "hub/models--org--Name/refs/main hub/models--org--Name/refs/v1",
		"hf://org/Name@main":                       "hub/models--org--Name/refs/main",
		"hf://org/Name@" + commit:                  "hub/models--org--Name/refs/main",
		"hf://gpt2@refs/pr/1":                      "hub/models--gpt2/refs/main hub/models--gpt2/refs/refs/pr/1",
		"hf://datasets/org/d":                      "hub/datasets--org--d/refs/main",
		"hf://spaces/org/s":                        "hub/spaces--org--s/refs/main",
		"r.example.com/a/b/c/d:2":                  "hub/models--c--d/refs/main hub/models--c--d/refs/2",
		"localhost:5000/d@" + manifest.String():    "hub/models--d/refs/main",
		"registry.ollama.ai/library/llama3.2:3b":   "hub/models--library--llama3.2/refs/main hub/models--library--llama3.2/refs/3b",
		"r.example.com/org/double--dash":           "",
		"r.example.com/datasets/only-a-collection": "hub/models--only-a-collection/refs/main",
	} {
		parsed, err := model.ParseRef(ref)
		if err != nil {
			t.Fatal(err)
		}
		name, err := HubName(parsed)
		if err != nil {
			if want != "" || !errors.Is(err, model.ErrInvalid) {
				t.Errorf("%s: %v", ref, err)
			}
			continue
		}
		cache := NewHubCache(name, commit, manifest)
		var got []string
		for _, r := range cache.Refs() {
			got = append(got, r.Path)
			if string(r.Data) != commit {
				t.Errorf("%s: %s holds %q", ref, r.Path, r.Data)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: refs %v, want %s", ref, got, want)
		}
	}
	for name, c := range map[string]HubCache{
		"no repository":           {Commit: commit},
		"no commit":               {Repository: "org/name", Commit: "main"},
		"a ref in another":        {Repository: "org/name", Commit: commit, Revisions: []string{"main/x"}},
		"a path that is too deep": {Repository: "org/name", Commit: commit},
	} {
		words := "x"
		if strings.Contains(name, "deep") {
			words = strings.Repeat("d/", 62) + "x"
		}
		if _, err := c.Tree(treeOf(t, words)); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMerge(t *testing.T) {
	for name, c := range map[string]struct{ base, at, other, want string }{
		"beside":                       {"a", "m", "x y/z", "a m/x m/y/z"},
		"in a directory of the base":   {"d/a", "d/m", "x", "d/a d/m/x"},
		"in an empty directory":        {"d/ a", "d/m", "x", "a d d/m/x"},
		"links of the mounted stay":    {"a", "m", "x l>x", "a m/l m/x"},
		"links of the base may lead":   {"l>m/x", "m", "x", "l m/x"},
		"the place is taken by a file": {"m", "m", "x", `"m" is there already`},
		"by a directory":               {"m/", "m", "x", `"m" is there already`},
		"by an implied one":            {"m/a", "m", "x", `"m" is there already`},
		"by a link":                    {"m>a a", "m", "x", `"m" is there already`},
		"below a file":                 {"d", "d/m", "x", `"d" is a directory in one of them only`},
		"below a link":                 {"d>e e/", "d/m", "x", `"d" is a directory in one of them only`},
		"together":                     {"a d/b", "", "c d/e", "a c d/b d/e"},
		"the same file":                {"a", "", "a b", "a b"},
		"another content":              {"a", "", "a=x", `"a" is not the same in both`},
		"file and directory":           {"a/b", "", "a", `"a" is a directory in one of them only`},
		"directory and file":           {"a", "", "a/b", `"a" is a directory in one of them only`},
		"file and empty directory":     {"a", "", "a/", `"a" is not the same in both`},
	} {
		t.Run(name, func(t *testing.T) {
			tree, err := Merge([]Placed{{Name: "base", Tree: treeOf(t, c.base)}, {Name: "other", Dir: c.at, Tree: treeOf(t, c.other)}})
			if err != nil {
				if !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "base and other") {
					t.Errorf("got %v, want %s", err, c.want)
				}
				return
			}
			var got []string
			for _, f := range tree {
				got = append(got, f.Path)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %v, want %s", got, c.want)
			}
		})
	}
}
