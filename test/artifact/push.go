package artifact

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"runtime"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Generation of the specification that an artifact follows.
type Generation string

// The generations, newest first. CNAIDraft is a manifest media type of its own, which registries refuse: use [Upload].
const (
	ModelPack Generation = "modelpack" // application/vnd.cncf.model.*
	CNAI      Generation = "cnai"      // the same with cnai for cncf
	CNAIDraft Generation = "cnai-draft"
	CNAIImage Generation = "cnai-image" // image config and image layers, member names without directories
	Image     Generation = "image"      // an ordinary container image of the files, as image volumes need it
)

// Options of a push. The zero value is ModelPack with a raw layer for each file.
type Options struct {
	Generation Generation
	Packing    Packing
	// Together packs all files into one archive layer. Default: a layer for each file.
	Together bool
	// Annotate may change the annotations of a file's layer; it gets what the generation says.
	Annotate func(f File, annotations map[string]string)
	// User and Password at the registry.
	User, Password string
}

// Artifact is a pushed model.
type Artifact struct {
	Digest    digest.Digest
	MediaType string
	Manifest  []byte
	Layers    []ocispec.Descriptor
	// LayerBytes is the size of all layers as they are stored.
	LayerBytes int64
	// FileBytes is the size of all files.
	FileBytes int64
}

// Push uploads a model to host/repository:tag over plain HTTP.
func Push(ctx context.Context, host, repository, tag string, files []File, o Options) (Artifact, error) {
	a, err := Upload(ctx, host, repository, files, o)
	if err != nil {
		return Artifact{}, err
	}
	_, err = NewClient(host, repository, o.User, o.Password).Manifest(ctx, tag, a.MediaType, a.Manifest)
	return a, err
}

// Upload pushes the blobs of a model and makes its manifest, but does not push that.
func Upload(ctx context.Context, host, repository string, files []File, o Options) (Artifact, error) {
	if o.Generation == "" {
		o.Generation = ModelPack
	}
	if o.Packing == "" {
		o.Packing = Raw
	}
	if o.Generation == CNAIImage || o.Generation == CNAIDraft || o.Generation == Image {
		if o.Packing == Raw {
			return Artifact{}, fmt.Errorf("generation %s has no raw layers", o.Generation)
		}
	}
	client := NewClient(host, repository, o.User, o.Password)
	groups := make([][]File, 0, len(files))
	for _, f := range files {
		groups = append(groups, []File{f})
	}
	if o.Together {
		groups = [][]File{files}
	}
	var a Artifact
	var diffIDs []digest.Digest
	for _, group := range groups {
		layer, diff, err := pushLayer(ctx, client, group, o)
		if err != nil {
			return Artifact{}, err
		}
		a.Layers = append(a.Layers, layer)
		a.LayerBytes += layer.Size
		diffIDs = append(diffIDs, diff)
		for _, f := range group {
			a.FileBytes += f.Size
		}
	}
	configType, configBody := configOf(o.Generation, path.Base(repository), diffIDs)
	config, err := client.Blob(ctx, bytes.NewReader(configBody))
	if err != nil {
		return Artifact{}, err
	}
	config.MediaType = configType
	a.MediaType, a.Manifest = manifestOf(o.Generation, config, a.Layers)
	a.Digest = digest.FromBytes(a.Manifest)
	return a, nil
}

func pushLayer(ctx context.Context, client *Client, files []File, o Options) (ocispec.Descriptor, digest.Digest, error) {
	body, err := newLayer(o.Packing, files, func(f File) string {
		if o.Generation == CNAIImage {
			return path.Base(f.Path)
		}
		return f.Path
	})
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	defer func() { _ = body.Close() }()
	layer, err := client.Blob(ctx, body)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	layer.MediaType, layer.ArtifactType = layerType(o.Generation, files[0].Path, o.Packing)
	if len(files) == 1 {
		layer.Annotations = annotationsOf(o.Generation, files[0])
		if o.Annotate != nil {
			o.Annotate(files[0], layer.Annotations)
		}
	}
	return layer, body.diffID(), nil
}

func prefix(g Generation) string {
	if g == ModelPack {
		return "cncf"
	}
	return "cnai"
}

// layerType gives the media type, and the artifact type that only CNAIImage has on layers.
func layerType(g Generation, file string, p Packing) (string, string) {
	switch g {
	case Image:
		return ocispec.MediaTypeImageLayer + strings.TrimPrefix(string(p), "tar"), ""
	case CNAIImage:
		return ocispec.MediaTypeImageLayer + strings.TrimPrefix(string(p), "tar"), "application/vnd.cnai.model.layer.v1." + string(p)
	case CNAIDraft:
		kind := "layer"
		if category(file) == "doc" {
			kind = "doc"
		}
		return "application/vnd.cnai.model." + kind + ".v1." + string(p), ""
	}
	return "application/vnd." + prefix(g) + ".model." + category(file) + ".v1." + string(p), ""
}

// category is what modctl guesses from names, in short.
func category(file string) string {
	switch path.Ext(file) {
	case ".json", ".yaml", ".txt", ".model":
		return "weight.config"
	case ".md":
		return "doc"
	case ".py":
		return "code"
	case ".csv", ".parquet":
		return "dataset"
	}
	return "weight"
}

func annotationsOf(g Generation, f File) map[string]string {
	if g == Image {
		return nil
	}
	if g == CNAIImage || g == CNAIDraft {
		return map[string]string{"org.cnai.model.filepath": f.Path, "org.cnai.model.model": "true"}
	}
	return map[string]string{
		"org." + prefix(g) + ".model.filepath": f.Path,
		"org." + prefix(g) + ".model.file.metadata+json": string(mustJSON(map[string]any{
			"name": path.Base(f.Path), "mode": int(f.mode()), "uid": 0, "gid": 0, "size": f.Size, "mtime": "2025-01-01T00:00:00Z", "typeflag": 0,
		})),
	}
}

func configOf(g Generation, name string, diffIDs []digest.Digest) (string, []byte) {
	if g == Image {
		return ocispec.MediaTypeImageConfig, mustJSON(ocispec.Image{
			Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
			RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: diffIDs},
		})
	}
	if g == CNAIImage {
		return ocispec.MediaTypeImageConfig, mustJSON(map[string]any{"Created": "2024-12-01T00:00:00Z"})
	}
	key := "diff_ids"
	if g == ModelPack {
		key = "diffIds"
	}
	return "application/vnd." + prefix(g) + ".model.config.v1+json", mustJSON(map[string]any{
		"descriptor": map[string]any{"createdAt": "2025-01-01T00:00:00Z", "name": name},
		"modelfs":    map[string]any{"type": "layers", key: diffIDs},
		"config":     map[string]any{"format": "safetensors"},
	})
}

func manifestOf(g Generation, config ocispec.Descriptor, layers []ocispec.Descriptor) (string, []byte) {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd." + prefix(g) + ".model.manifest.v1+json", Config: config, Layers: layers,
	}
	if g == Image {
		m.ArtifactType = ""
	}
	if g == CNAIDraft {
		m.MediaType, m.ArtifactType = "application/vnd.cnai.model.manifest.v1+json", ""
	}
	return m.MediaType, mustJSON(m)
}
