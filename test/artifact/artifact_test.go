package artifact_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

func read(t *testing.T, f artifact.File) []byte {
	t.Helper()
	body, err := f.Open()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(body)
	if err != nil || int64(len(content)) != f.Size {
		t.Fatalf("%s: %d bytes of %d, %v", f.Path, len(content), f.Size, err)
	}
	return content
}

func TestGeneratedContentIsTheSameEachTime(t *testing.T) {
	for _, f := range []artifact.File{artifact.Random("a", 100_001, 1), artifact.Weights("b", 100_001, 1)} {
		if !bytes.Equal(read(t, f), read(t, f)) {
			t.Errorf("%s differs", f.Path)
		}
	}
	if bytes.Equal(read(t, artifact.Random("a", 100, 1)), read(t, artifact.Random("a", 100, 2))) {
		t.Error("two seeds, the same bytes")
	}
}

func TestTinyModelIsValidSafetensors(t *testing.T) {
	files := artifact.TinyModel(1000)
	for _, name := range []string{"config.json", "tokenizer.json", "generation_config.json", "README.md"} {
		if !slices.ContainsFunc(files, func(f artifact.File) bool { return f.Path == name }) {
			t.Errorf("%s is missing", name)
		}
	}
	for _, f := range files {
		content := read(t, f)
		switch {
		case strings.HasSuffix(f.Path, ".json") && !json.Valid(content):
			t.Errorf("%s is not JSON", f.Path)
		case strings.HasSuffix(f.Path, ".safetensors"):
			length := binary.LittleEndian.Uint64(content)
			var header map[string]struct {
				Offsets []int64 `json:"data_offsets"`
			}
			if err := json.Unmarshal(content[8:8+length], &header); err != nil {
				t.Fatal(err)
			}
			var end int64
			for _, tensor := range header {
				if len(tensor.Offsets) == 2 {
					end = max(end, tensor.Offsets[1])
				}
			}
			if int64(len(content)) != 8+int64(length)+end {
				t.Errorf("%s: the tensors end at %d of %d bytes", f.Path, 8+int64(length)+end, len(content))
			}
		}
	}
}

func TestPushPacksAllFiles(t *testing.T) {
	r, err := registry.Start(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	files := append(artifact.TinyModel(0), artifact.Random("nested/dir/extra.bin", 70_000, 3))
	for _, packing := range []artifact.Packing{artifact.Raw, artifact.Tar, artifact.TarGzip, artifact.TarZstd} {
		for _, together := range []bool{false, packing != artifact.Raw} {
			o := artifact.Options{Packing: packing, Together: together}
			a, err := artifact.Push(t.Context(), r.Host(), "m/tiny", "v1", files, o)
			if err != nil {
				t.Fatalf("%s: %v", packing, err)
			}
			var manifest ocispec.Manifest
			if err := json.Unmarshal(fetch(t, r.URL()+"/v2/m/tiny/manifests/v1"), &manifest); err != nil {
				t.Fatal(err)
			}
			found := map[string]digest.Digest{}
			for _, layer := range manifest.Layers {
				unpack(t, fetch(t, r.URL()+"/v2/m/tiny/blobs/"+layer.Digest.String()), layer, found)
			}
			if len(found) != len(files) || a.Digest == "" {
				t.Errorf("%s: %d files of %d", packing, len(found), len(files))
			}
			for _, f := range files {
				if want := digest.FromBytes(read(t, f)); found[f.Path] != want {
					t.Errorf("%s %s: %s, want %s", packing, f.Path, found[f.Path], want)
				}
			}
		}
	}
}

func TestOlderGenerations(t *testing.T) {
	r, err := registry.Start(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	for generation, want := range map[artifact.Generation]string{
		artifact.CNAI:      "application/vnd.cnai.model.weight.v1.tar",
		artifact.CNAIDraft: "application/vnd.cnai.model.layer.v1.tar",
		artifact.CNAIImage: "application/vnd.oci.image.layer.v1.tar",
	} {
		o := artifact.Options{Generation: generation, Packing: artifact.Tar}
		a, err := artifact.Upload(t.Context(), r.Host(), "m/old", artifact.TinyModel(0), o)
		if err != nil {
			t.Fatal(err)
		}
		if a.Layers[0].MediaType != want || a.Layers[0].Annotations["org.cnai.model.filepath"] == "" {
			t.Errorf("%s: %+v", generation, a.Layers[0])
		}
		_, err = artifact.NewClient(r.Host(), "m/old", "", "").Manifest(t.Context(), string(generation), a.MediaType, a.Manifest)
		if refused := err != nil; refused != (generation == artifact.CNAIDraft) {
			t.Errorf("%s: %v", generation, err)
		}
	}
}

func fetch(t *testing.T, url string) []byte {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Accept", ocispec.MediaTypeImageManifest)
	p, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Body.Close() }()
	body, err := io.ReadAll(p.Body)
	if err != nil || p.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, p.Status, err)
	}
	return body
}

func unpack(t *testing.T, body []byte, layer ocispec.Descriptor, into map[string]digest.Digest) {
	t.Helper()
	var archive io.Reader = bytes.NewReader(body)
	var err error
	switch {
	case strings.HasSuffix(layer.MediaType, "raw"):
		into[layer.Annotations["org.cncf.model.filepath"]] = digest.FromBytes(body)
		return
	case strings.HasSuffix(layer.MediaType, "gzip"):
		archive, err = gzip.NewReader(archive)
	case strings.HasSuffix(layer.MediaType, "zstd"):
		archive, err = zstd.NewReader(archive)
	}
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		d, err := digest.FromReader(r)
		if err != nil {
			t.Fatal(err)
		}
		into[h.Name] = d
	}
}
