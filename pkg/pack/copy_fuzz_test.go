package pack

import (
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// Whatever a manifest says, its blobs have digests that can be asked for, each once, or it is refused.
func FuzzCopyManifest(f *testing.F) {
	d := digest.FromString("x").String()
	for _, seed := range []string{
		`{"config":{"digest":"` + d + `","size":1},"layers":[{"digest":"` + d + `","size":1,"annotations":{"org.opencontainers.image.title":"a"}}]}`,
		`{"manifests":[{"digest":"` + d + `"}]}`, `{"blobs":[{"digest":"md5:x","size":-1}]}`, `{"layers":{}}`, `[]`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, manifest []byte) {
		c := &copier{from: newPlace(), seen: map[digest.Digest]bool{}}
		err := c.collect(t.Context(), Document{Digest: digest.FromBytes(manifest), Bytes: manifest}, 0)
		if err != nil && !errors.Is(err, model.ErrInvalid) && !errors.Is(err, model.ErrNotFound) && !errors.Is(err, model.ErrTooLarge) {
			t.Errorf("an error of no kind: %v", err)
		}
		seen := map[digest.Digest]bool{}
		for _, b := range c.blobs {
			if _, err := model.ParseDigest(b.blob.Digest.String()); err != nil || b.blob.Size < 0 || b.name == "" || seen[b.blob.Digest] {
				t.Errorf("%+v: %v", b, err)
			}
			seen[b.blob.Digest] = true
		}
	})
}

// A config of somebody else leaves one that can be written, with a size of parameters as the specification wants it.
func FuzzInherit(f *testing.F) {
	f.Add([]byte(`{"descriptor":{"createdAt":"2025-01-02T03:04:05Z","authors":["a"]},"config":{"paramSize":"7B","capabilities":{"inputTypes":["text"]}}}`))
	f.Add([]byte(`{"descriptor":null,"config":null}`))
	f.Fuzz(func(t *testing.T, config []byte) {
		c := Config{Model: Model{ParamSize: "1B"}}
		c.Inherit(config)
		if !paramSizePattern.MatchString(c.Model.ParamSize) {
			t.Errorf("parameters %q", c.Model.ParamSize)
		}
		if _, err := c.JSON(ModelPack, nil); err != nil {
			t.Error(err)
		}
	})
}
