package pull

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// TestBadArtifactsAreNotFetched: what is wrong with a manifest is said before a byte of its layers is asked for. The
// artifacts are the hostile ones of the formats' own tests, as far as no archive has to be opened to see what is wrong.
func TestBadArtifactsAreNotFetched(t *testing.T) {
	manifests, err := filepath.Glob("../format/testdata/*/hostile-*/manifest.json")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]error{"invalid": model.ErrInvalid, "unsupported": model.ErrUnsupported, "too large": model.ErrTooLarge}
	r := newFakeRegistry()
	r.configs = make(map[digest.Digest][]byte)
	n := newNode(t, r, nil)
	tried := map[string]bool{}
	for i, path := range manifests {
		dir := filepath.Dir(path)
		read := func(name string) []byte {
			data, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			return data
		}
		if read("members.json") != nil || read("input.json") != nil {
			continue // the archive is what is wrong, or how the fixture is read
		}
		kind, _, _ := strings.Cut(strings.TrimPrefix(string(read("golden.txt")), "error "), "\n")
		name := strings.TrimPrefix(dir, "../format/testdata/")
		t.Run(name, func(t *testing.T) {
			manifest := read("manifest.json")
			d := digest.FromBytes(manifest)
			ref := fmt.Sprintf("m:%d", i)
			r.tags[ref], r.manifests[d], r.configs[d] = d, manifest, read("config.json")
			_, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/"+ref)})
			if kinds[kind] == nil || !errors.Is(err, kinds[kind]) || !strings.Contains(err.Error(), ref) {
				t.Errorf("got %v, want the kind %q", err, kind)
			}
			if asked := r.reads.Load(); asked != 0 {
				t.Errorf("blobs were asked for %d times", asked)
			}
		})
		tried[filepath.Base(filepath.Dir(dir))] = true
	}
	for _, f := range []string{"modelpack", "kitops", "ollama", "docker-model", "image", "generic"} {
		if !tried[f] {
			t.Errorf("format %s has no bad manifest among its fixtures", f)
		}
	}
}

// mediaTypeOf is what a registry would say of a manifest.
func mediaTypeOf(manifest []byte) string {
	var m struct {
		MediaType string `json:"mediaType"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil || m.MediaType == "" {
		return "application/vnd.oci.image.manifest.v1+json"
	}
	return m.MediaType
}
