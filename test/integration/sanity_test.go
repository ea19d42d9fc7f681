package integration

import (
	"testing"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
	"github.com/model-csi/model-csi/test/sanitytest"
)

// TestSanity runs csi-sanity against the binary.
func TestSanity(t *testing.T) {
	w := newWorld(t, registry.Options{})
	reference, _ := w.push("m/tiny", artifact.TinyModel(0), artifact.Options{})
	sanitytest.Run(t, w.node.Conn(), reference)
}
