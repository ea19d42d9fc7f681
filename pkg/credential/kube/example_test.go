package kube_test

import (
	"context"
	"fmt"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/credential/kube"
	"github.com/model-csi/model-csi/pkg/model"
)

func ExampleClient_PullSecrets() {
	client, err := kube.InCluster(kube.Options{Node: "node-1"})
	if err != nil {
		fmt.Println(err)
		return
	}
	keychains := client.PullSecrets([]string{"team"})
	caller := credential.Caller{Namespace: "team", Pod: "inference-0", UID: "..."}
	ref, _ := model.ParseRef("registry.example.com/models/llm:v1")
	creds, err := keychains(caller).Credentials(context.Background(), ref)
	fmt.Println(creds, err) // [secret registry of namespace team] <nil>
}
