package registry_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/registry"
	"github.com/model-csi/model-csi/pkg/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	s := newServer(t, false)
	_, layer, content := s.model()
	src, err := registry.New(registry.Options{Select: selectFirst})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(src.CloseIdleConnections)
	sourcetest.Run(t, sourcetest.Fixture{
		Source:  src,
		Ref:     s.ref("v1"),
		Cred:    model.Credential{},
		Want:    model.Selection{Platform: "linux/amd64"},
		Blob:    layer,
		Content: content,
	})
}
