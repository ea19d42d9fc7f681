package credential_test

import (
	"context"
	"fmt"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
)

func ExampleChain() {
	pod, err := credential.ForPod(map[string]string{"username": "ann", "password": "hidden"})
	if err != nil {
		fmt.Println(err)
		return
	}
	keys := credential.Chain(pod, credential.FromDockerConfig("/etc/model-csi/config.json"))
	ref, _ := model.ParseRef("registry.example.com/acme/llm:v1")
	creds, err := keys.Credentials(context.Background(), ref)
	fmt.Println(creds, err)
	// Output: [nodePublishSecretRef] <nil>
}
