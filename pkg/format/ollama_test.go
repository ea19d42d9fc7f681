package format

import (
	"bytes"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestOllamaStore(t *testing.T) {
	f := loadFixture(t, "testdata/ollama/library")
	for ref, want := range map[string]string{
		"registry.ollama.ai/library/llama3.2:3b":    "manifests/registry.ollama.ai/library/llama3.2/3b",
		"localhost:5000/llama3.2":                   "manifests/localhost:5000/library/llama3.2/latest",
		"harbor.example.com/team/ollama/llama3.2:1": "manifests/harbor.example.com/ollama/llama3.2/1",
	} {
		parsed, err := model.ParseRef(ref)
		if err != nil {
			t.Fatal(err)
		}
		p, err := OllamaStore(f.in, parsed)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := p.Tree(f.lookup(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		manifest, ok := tree.Lookup(want)
		if !ok || manifest.Blob.Digest != digest.FromBytes(f.in.Manifest) || !bytes.Equal(p.Inline[0].Data, f.in.Manifest) {
			t.Errorf("%s: no exact manifest at %s in\n%s", ref, want, render(tree))
		}
		flat, err := Parse(f.in)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range flat.Layers {
			hex := strings.TrimPrefix(l.Blob.Digest.String(), "sha256:")
			if e, ok := tree.Lookup("blobs/sha256-" + hex); !ok || e.Blob != l.Blob {
				t.Errorf("%s: blob %s of the flat view is not in the store view", ref, l.Blob.Digest)
			}
		}
		if len(tree) != len(flat.Layers)+1 {
			t.Errorf("%s: store view has %d entries, want %d blobs and the manifest", ref, len(tree), len(flat.Layers))
		}
	}
}

func TestOllamaStoreRefuses(t *testing.T) {
	ref := model.Ref{Registry: "registry.ollama.ai", Repository: "library/x", Tag: "latest"}
	for dir, kind := range map[string]string{
		"testdata/modelpack/modctl-raw":     "unsupported",
		"testdata/ollama/hostile-cloud":     "unsupported",
		"testdata/modelpack/hostile-index":  "invalid",
		"testdata/modelpack/hostile-digest": "invalid",
	} {
		if _, err := OllamaStore(loadFixture(t, dir).in, ref); kindOf(err) != kind {
			t.Errorf("%s: got %v, want an error of kind %s", dir, err, kind)
		}
	}
	sha512 := strings.ReplaceAll(`{"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"D","size":1}]}`, "D", digest.SHA512.FromString("x").String())
	if _, err := OllamaStore(Input{Manifest: []byte(sha512)}, ref); kindOf(err) != "unsupported" {
		t.Errorf("sha512: got %v", err)
	}
}
