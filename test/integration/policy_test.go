package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/node"
	"github.com/model-csi/model-csi/test/registry"
)

// TestPolicy follows an operator's policy through its changes: whom it refuses, cached or not and before any request, and
// that what is mounted stays.
func TestPolicy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(text string) {
		t.Helper()
		aside := file + ".new"
		if err := os.WriteFile(aside, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(aside, file); err != nil {
			t.Fatal(err)
		}
	}
	write(`
defaults: {maxFiles: 10}
namespaces:
  guests: {deny: ["**/private/**"]}
  small: {cacheShare: 1000}
  tiny: {maxModelSize: 100}
`)
	w := newWorld(t, registry.Options{}, "--policy-file", file)
	private, _ := w.push("private/m", []artifact.File{artifact.Random("weights.bin", 2000, 1)}, artifact.Options{})
	public, _ := w.push("public/m", []artifact.File{artifact.Random("other.bin", 900, 2)}, artifact.Options{})
	in := func(namespace, id, reference string) node.Volume {
		v := volume(id, reference)
		v.Namespace = namespace
		return v
	}
	refused := func(v node.Volume, code codes.Code, says ...string) {
		t.Helper()
		w.registry.ResetStats()
		err := w.node.Publish(t.Context(), v)
		if status.Code(err) != code {
			t.Errorf("%s: %v, want %s", v.ID, err, code)
			return
		}
		for _, s := range append(says, "policy") {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %q does not say %q", v.ID, err, s)
			}
		}
		if n := w.registry.Stats(); code == codes.PermissionDenied && n.Requests > 0 || n.BlobBytes > 0 {
			t.Errorf("%s: %d requests were made", v.ID, n.Requests)
		}
	}
	refused(in("guests", "csi-cold", private), codes.PermissionDenied, "namespace guests", `"**/private/**"`, private)
	owner := in("owners", "csi-owner", private)
	w.mustPublish(owner)
	refused(in("guests", "csi-warm", private), codes.PermissionDenied, "namespace guests")
	refused(in("tiny", "csi-tiny", private), codes.OutOfRange, "namespace tiny", "maxModelSize")
	refused(in("small", "csi-small", private), codes.ResourceExhausted, "namespace small", "cacheShare")
	w.mustPublish(in("small", "csi-fits", public))
	w.mustPublish(in("small", "csi-again", public))
	w.mustPublish(in("guests", "csi-guest", public))

	write("defaults: {deny: [\"**\"]}\n")
	until(t, "the new policy is in force", func() bool {
		v := in("owners", "csi-next", private)
		err := w.node.Publish(t.Context(), v)
		if err == nil {
			w.mustUnpublish(v.ID)
		}
		return status.Code(err) == codes.PermissionDenied
	})
	w.mustPublish(owner) // kubelet asks again after a restart
	write("defaults: {denny: []}\n")
	until(t, "the mistake is logged", func() bool { return strings.Contains(w.node.Log(), "policy file cannot be used") })
	refused(in("owners", "csi-broken", private), codes.PermissionDenied)
	w.mustUnpublish("csi-owner", "csi-fits", "csi-again", "csi-guest")
	w.quiet()
}
