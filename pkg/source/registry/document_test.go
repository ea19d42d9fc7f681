package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

// An index is told as it is, and what it lists by digest.
func TestDocument(t *testing.T) {
	server := newServer(t, false)
	manifest, _, content := server.model()
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": ociIndex,
		"manifests": []map[string]any{{"mediaType": ociManifest, "digest": manifest, "size": len(content)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	top := server.put(index, ociIndex, "all")
	s, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.Document(t.Context(), server.ref("all"), model.Credential{})
	if err != nil || d.Digest != top || !d.Index || d.MediaType != ociIndex || !bytes.Equal(d.Bytes, index) {
		t.Errorf("%+v, %v", d, err)
	}
	ref := server.ref("all").Pinned(manifest)
	if d, err = s.Document(t.Context(), ref, model.Credential{}); err != nil || d.Digest != manifest || d.Index || d.MediaType != ociManifest {
		t.Errorf("%+v, %v", d, err)
	}
	for kind, ref := range map[error]model.Ref{
		model.ErrNotFound: server.ref("all").Pinned(digest.FromString("none")),
		model.ErrInvalid:  {Scheme: model.SchemeOCI, Registry: server.host(), Repository: "../x"},
	} {
		if _, err := s.Document(t.Context(), ref, model.Credential{}); !errors.Is(err, kind) {
			t.Errorf("%s: %v", ref, err)
		}
	}
}
