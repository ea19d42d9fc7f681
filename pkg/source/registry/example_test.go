package registry_test

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

func ExampleNew() {
	source, err := registry.New(registry.Options{ConfigDir: "/etc/containerd/certs.d"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer source.CloseIdleConnections()
	ref, err := model.ParseRef("registry.example.com/acme/llm:v1")
	if err != nil {
		fmt.Println(err)
		return
	}
	repository, err := source.Repository(ref, model.Credential{})
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = func(ctx context.Context) error {
		snapshot, err := repository.Resolve(ctx, model.Selection{Platform: "linux/amd64"})
		if err != nil {
			return err
		}
		fmt.Println(snapshot.Digest, snapshot.MediaType)
		body, err := repository.ReadRange(ctx, model.Blob{Digest: digest.FromString("x"), Size: 1 << 30}, 0, 16<<20)
		if err != nil {
			return err
		}
		defer body.Close()
		_, err = io.Copy(io.Discard, body)
		return err
	}
	fmt.Println(ref)
	// Output: registry.example.com/acme/llm:v1
}
