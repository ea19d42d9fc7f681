package driver_test

import (
	"context"
	"fmt"
	"os/signal"
	"syscall"

	"github.com/model-csi/model-csi/pkg/driver"
	"github.com/model-csi/model-csi/pkg/mount"
	"github.com/model-csi/model-csi/pkg/pull"
	"github.com/model-csi/model-csi/pkg/store"
)

func ExampleParseAttributes() {
	a, err := driver.ParseAttributes(driver.DefaultName, map[string]string{
		"reference":                        "registry.example.com/models/qwen3:8b",
		"model.csi.cnai.io/include":        "*.safetensors, *.json",
		"csi.storage.k8s.io/pod.name":      "server",
		"csi.storage.k8s.io/pod.namespace": "default",
	})
	fmt.Println(a.Ref, a.Include, a.Pod, err)
	_, err = driver.ParseAttributes(driver.DefaultName, map[string]string{"referense": "registry.example.com/m"})
	fmt.Println(err)
	// Output:
	// registry.example.com/models/qwen3:8b [*.safetensors *.json] default/server <nil>
	// volume attribute "referense" is not known; did you mean "reference"?: invalid
}

// A daemon opens the store, makes a puller, and runs the driver until it is told to end.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	run := func(s *store.Store, p *pull.Puller) error {
		d, err := driver.New(driver.Options{
			NodeID:          "node-1",
			Endpoint:        "unix:///var/lib/kubelet/plugins/" + driver.DefaultName + "/csi.sock",
			RegistrationDir: "/var/lib/kubelet/plugins_registry",
			Store:           s, Puller: p, Mounter: mount.New(),
		})
		if err != nil {
			return err
		}
		return d.Run(ctx)
	}
	_ = run
}
