package view_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/view"
)

func ExampleBuild() {
	blobs, _ := os.MkdirTemp("", "blobs-")
	defer os.RemoveAll(blobs)
	dir, _ := os.MkdirTemp("", "view-")
	defer os.RemoveAll(dir)

	id := digest.FromString("hello")
	if err := os.WriteFile(filepath.Join(blobs, id.Encoded()), []byte("hello"), 0o444); err != nil {
		fmt.Println(err)
	}
	tree, err := model.NewTree([]model.File{{Path: "docs/greeting", Blob: model.Blob{Digest: id, Size: 5}}})
	if err != nil {
		fmt.Println(err)
	}
	err = view.Build(dir, tree, func(f model.File) (string, error) {
		return filepath.Join(blobs, f.Blob.Digest.Encoded()), nil
	})
	if err != nil {
		fmt.Println(err)
	}
	content, err := os.ReadFile(filepath.Join(dir, "docs", "greeting"))
	fmt.Println(string(content), err)
	// Output: hello <nil>
}
