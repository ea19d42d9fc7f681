package format_test

import (
	"fmt"
	"log"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/model"
)

// The weights are a plain file, whose path is known from the manifest alone; the docs are an archive, whose members are
// known once it has been taken apart.
func Example() {
	weights, docs := digest.FromString("weights"), digest.FromString("docs")
	manifest := fmt.Sprintf(`{
		"schemaVersion": 2,
		"mediaType": "application/vnd.oci.image.manifest.v1+json",
		"artifactType": "application/vnd.cncf.model.manifest.v1+json",
		"layers": [
			{"mediaType": "application/vnd.cncf.model.weight.v1.raw", "digest": %q, "size": 7,
			 "annotations": {"org.cncf.model.filepath": "model.safetensors"}},
			{"mediaType": "application/vnd.cncf.model.doc.v1.tar", "digest": %q, "size": 4}
		]
	}`, weights, docs)

	plan, err := format.Parse(format.Input{Manifest: []byte(manifest)})
	if err != nil {
		log.Fatal(err)
	}
	for _, l := range plan.Needed(nil) {
		fmt.Printf("fetch %d bytes, archive: %t\n", l.Blob.Size, l.Archive)
	}

	members := func(digest.Digest) []model.Member {
		return []model.Member{{Name: "./README.md", Mode: 0o600, Blob: model.Blob{Digest: digest.FromString("readme"), Size: 6}}}
	}
	tree, err := plan.Tree(members, nil)
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range tree {
		fmt.Println(f.Mode, f.Path)
	}
	// Output:
	// fetch 7 bytes, archive: false
	// fetch 4 bytes, archive: true
	// -r--r--r-- README.md
	// -r--r--r-- model.safetensors
}

// A README's table of formats comes from the code.
func ExampleNames() {
	for _, d := range format.Names() {
		if d.Name == "ollama" {
			fmt.Printf("| %s | %s |\n", d.Name, d.Reads)
		}
	}
	// Output:
	// | ollama | Ollama models in any OCI registry, as named files: model.gguf, mmproj.gguf, template and so on; with `layout: ollama` as a store for `OLLAMA_MODELS` |
}
