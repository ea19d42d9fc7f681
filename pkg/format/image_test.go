package format

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// treeOf makes a tree from words: "a/b" is a file, "a/" a directory, "a>b" a link.
func treeOf(t testing.TB, words string) model.Tree {
	t.Helper()
	var files []model.File
	for w := range strings.FieldsSeq(words) {
		f := model.File{Path: w, Blob: model.Blob{Digest: digest.FromString(w), Size: 1}, Mode: 0o444}
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

func TestModelDir(t *testing.T) {
	const label = `{"config":{"Labels":{"org.containers.type":"ai.image.model.raw"}}}`
	for _, c := range []struct{ name, tree, config, want, dir, err string }{
		{"models", "bin/sh models/x data/y", "", "", "models", ""},
		{"models as an entry", "models/ models/x", "", "", "models", ""},
		{"asked for", "bin/sh models/x data/y", "", "/data/", "data", ""},
		{"asked for, deeper", "opt/llm/x", "", "opt/llm", "opt/llm", ""},
		{"asked for the root", "bin/sh models/x", "", "/", "", ""},
		{"asked for nothing there", "models/x", "", "weights", "", `no directory "weights"`},
		{"asked for a file", "models/x", "", "models/x", "", `no directory "models/x"`},
		{"asked for more than the image", "models/x", "", "../etc", "", `no directory "../etc"`},
		{"a file named models", "models bin/sh data/x", "", "", "data", ""},
		{"RamaLama raw", "data/x y", label, "", "", ""},
		{"RamaLama raw, broken config", "data/x y", "{", "", "data", ""},
		{"data", "bin/sh data/x weights/y", "", "", "data", ""},
		{"no system", "config.json model.gguf sub/x", "", "", "", ""},
		{"the only other", "bin/sh etc/passwd weights/x", "", "", "weights", ""},
		{"several others", "bin/sh a/x b/x", "", "", "", "a, b, bin"},
		{"only a system", "bin/sh etc/passwd", "", "", "", "bin, etc"},
		{"system and files", "bin/sh entrypoint.sh", "", "", "", "bin, entrypoint.sh"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, err := ModelDir(treeOf(t, c.tree), []byte(c.config), c.want)
			if c.err != "" {
				if err == nil || kindOf(err) != "not found" || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %q, %v; want an error with %q", dir, err, c.err)
				}
				return
			}
			if err != nil || dir != c.dir {
				t.Errorf("got %q, %v; want %q", dir, err, c.dir)
			}
		})
	}
}

func TestSubtree(t *testing.T) {
	for _, c := range []struct{ name, tree, dir, want, err string }{
		{"plain", "bin/sh models/a models/sub/b", "models", "a sub/b", ""},
		{"the whole", "bin/sh models/a", "", "bin/sh models/a", ""},
		{"deeper", "x/y/a x/y/z/b x/c", "x/y", "a z/b", ""},
		{"names that only start the same", "models-old/a models/b", "models", "b", ""},
		{"link inside", "models/a models/l>a models/sub/m>../a", "models", "a l>a sub/m>../a", ""},
		{"link around", "models/a models/sub/l>../../models/a", "models", "a sub/l>../a", ""},
		{"link around to the directory", "models/a models/l>../models", "models", "a l>.", ""},
		{"link to a file outside", "shared/a models/l>../shared/a", "models", "l=shared/a", ""},
		{"link through a link", "shared/a models/l>m models/m>../shared/a", "models", "l=shared/a m=shared/a", ""},
		{"dangling inside", "models/a models/l>nothing", "models", "a l>nothing", ""},
		{"the directory is a link", "data/m/a models>data/m", "models", "a", ""},
		{"link to a directory outside", "shared/a models/l>../shared", "models", "", "unsupported"},
		{"dangling outside", "models/a models/l>../nothing", "models", "", "unsupported"},
		{"not there", "models/a", "weights", "", "not found"},
		{"a file", "models/a", "models/a", "", "not found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Subtree(treeOf(t, c.tree), c.dir)
			if c.err != "" {
				if err == nil || kindOf(err) != c.err {
					t.Errorf("got %v, %v; want an error of kind %s", got, err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			base := c.dir
			if base == "models" && strings.Contains(c.tree, "models>") {
				base = "data/m"
			}
			var words []string
			for _, f := range got {
				switch {
				case f.Link != "":
					words = append(words, f.Path+">"+f.Link)
				case f.Mode.IsRegular() && f.Blob.Digest != digest.FromString(strings.TrimPrefix(base+"/"+f.Path, "/")):
					words = append(words, f.Path+"=shared/a")
					if f.Blob.Digest != digest.FromString("shared/a") {
						t.Errorf("%s has foreign content", f.Path)
					}
				default:
					words = append(words, f.Path)
				}
			}
			if s := strings.Join(words, " "); s != c.want {
				t.Errorf("got %q, want %q", s, c.want)
			}
		})
	}
}
