package hub_test

import (
	"context"
	"fmt"
	"net/http"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/hub"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

func ExampleNew() {
	connections, err := registry.New(registry.Options{}) // knows proxies, authorities, and where not to connect to
	if err != nil {
		fmt.Println(err)
		return
	}
	defer connections.CloseIdleConnections()
	hubs, err := hub.New(hub.Options{
		Transport: func(host string) (http.RoundTripper, error) { return connections.Transport(host) },
		Endpoint:  "https://hf-mirror.example.com",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ref, err := model.ParseRef("hf://Qwen/Qwen3-0.6B@main")
	if err != nil {
		fmt.Println(err)
		return
	}
	repository, err := hubs.Repository(ref, model.Credential{})
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = func(ctx context.Context) error {
		snapshot, err := repository.Resolve(ctx, source.Selection{})
		if err == nil {
			fmt.Println(snapshot.Digest, snapshot.MediaType)
		}
		return err
	}
	fmt.Println(ref)
	// Output: hf://Qwen/Qwen3-0.6B@main
}
