package provider_test

import (
	"context"
	"fmt"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/credential/provider"
	"github.com/model-csi/model-csi/pkg/model"
)

func ExampleLoad() {
	providers, err := provider.Load("/etc/eks/image-credential-provider/config.json", "/etc/eks/image-credential-provider", provider.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	caller := credential.Caller{Namespace: "team", Pod: "inference-0", UID: "...", ServiceAccount: "inference"}
	ref, _ := model.ParseRef("123456789012.dkr.ecr.eu-west-1.amazonaws.com/models/llm:v1")
	creds, err := providers.Keychain(caller).Credentials(context.Background(), ref)
	fmt.Println(creds, err) // [credential provider ecr-credential-provider] <nil>
}
