package driver

import (
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

const canary = "c4n4ry-s3cr3t"

func TestRedacted(t *testing.T) {
	r := &csi.NodePublishVolumeRequest{
		VolumeId: "csi-1", TargetPath: "/target",
		Secrets:       map[string]string{"password": canary, ".dockerconfigjson": canary},
		VolumeContext: map[string]string{"reference": testReference, podTokens: canary, "passwrod": canary, "other.example.com/token": canary},
	}
	shown := redacted{r}.LogValue().String()
	for _, want := range []string{"csi-1", "/target", testReference, "password", hidden} {
		if !strings.Contains(shown, want) {
			t.Errorf("%s lacks %q", shown, want)
		}
	}
	if strings.Contains(shown, canary) {
		t.Errorf("a secret is shown: %s", shown)
	}
	if r.GetSecrets()["password"] != canary || r.GetVolumeContext()[podTokens] != canary {
		t.Error("the request itself was changed")
	}
	for _, other := range []any{
		&csi.NodeStageVolumeRequest{Secrets: map[string]string{"a": canary}},
		&csi.NodeGetStorageHealthRequest{Secrets: map[string]string{"a": canary}},
		&csi.NodePublishVolumeRequest{VolumeId: "\xff", Secrets: map[string]string{"a": canary}},
		canary,
		nil,
	} {
		if shown := (redacted{other}).LogValue().String(); strings.Contains(shown, canary) {
			t.Errorf("%T shows a secret: %s", other, shown)
		}
	}
}
