package registry

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// File is a file of a model.
type File struct {
	Path string
	Data []byte
	Mode int64 // permission bits; 0 is 0644
}

// Digest is the file's digest, which is also that of its layer in an artifact.
func (f File) Digest() string { return digest.FromBytes(f.Data).String() }

func (f File) mode() int64 {
	if f.Mode == 0 {
		return 0o644
	}
	return f.Mode
}

// Media types of the CNCF ModelPack specification.
const (
	modelArtifact = "application/vnd.cncf.model.manifest.v1+json"
	modelConfig   = "application/vnd.cncf.model.config.v1+json"
	modelWeights  = "application/vnd.cncf.model.weight.v1.raw"
)

// PushModel packs files as a ModelPack artifact, one raw layer each, and returns the manifest's digest. ca is what the
// client trusts.
func (r *Registry) PushModel(ctx context.Context, ca *x509.CertPool, repository, tag string, files []File) (string, error) {
	repo, err := r.client(ca, repository)
	if err != nil {
		return "", err
	}
	var layers []v1.Descriptor
	var diffIDs []digest.Digest
	for _, f := range files {
		layer, err := push(ctx, repo, modelWeights, f.Data)
		if err != nil {
			return "", err
		}
		metadata, err := json.Marshal(map[string]any{
			"name": path.Base(f.Path), "mode": f.mode(), "uid": 0, "gid": 0, "size": len(f.Data),
			"mtime": "2025-01-01T00:00:00Z", "typeflag": 0,
		})
		if err != nil {
			return "", err
		}
		layer.Annotations = map[string]string{
			"org.cncf.model.filepath": f.Path, "org.cncf.model.file.metadata+json": string(metadata),
		}
		layers, diffIDs = append(layers, layer), append(diffIDs, layer.Digest)
	}
	config, err := pushJSON(ctx, repo, modelConfig, map[string]any{
		"descriptor": map[string]any{"createdAt": "2025-01-01T00:00:00Z", "name": path.Base(repository)},
		"modelfs":    map[string]any{"type": "layers", "diffIds": diffIDs}, "config": map[string]any{},
	})
	if err != nil {
		return "", err
	}
	return r.manifest(ctx, repo, tag, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, ArtifactType: modelArtifact,
		Config: config, Layers: layers,
	})
}

// PushImage packs files as a container image of one layer, and returns the manifest's digest.
func (r *Registry) PushImage(ctx context.Context, ca *x509.CertPool, repository, tag string, files []File) (string, error) {
	layer, err := Tar(files)
	if err != nil {
		return "", err
	}
	config, err := json.Marshal(v1.Image{
		Platform: v1.Platform{Architecture: "amd64", OS: "linux"},
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	if err != nil {
		return "", err
	}
	return r.PushArtifact(ctx, ca, repository, tag, Artifact{
		ConfigType: v1.MediaTypeImageConfig, Config: config, Layers: []Layer{{MediaType: v1.MediaTypeImageLayer, Data: layer}},
	})
}

// Artifact is a manifest as some tool writes it, with its blobs.
type Artifact struct {
	MediaType    string // of the manifest; empty for that of an OCI image manifest
	ArtifactType string
	ConfigType   string
	Config       []byte
	Layers       []Layer
}

// Layer is a blob of an artifact.
type Layer struct {
	MediaType   string
	Annotations map[string]string
	Data        []byte
}

// PushArtifact pushes the blobs and the manifest, and returns the manifest's digest.
func (r *Registry) PushArtifact(ctx context.Context, ca *x509.CertPool, repository, tag string, a Artifact) (string, error) {
	repo, err := r.client(ca, repository)
	if err != nil {
		return "", err
	}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: a.MediaType, ArtifactType: a.ArtifactType}
	if m.MediaType == "" {
		m.MediaType = v1.MediaTypeImageManifest
	}
	if m.Config, err = push(ctx, repo, a.ConfigType, a.Config); err != nil {
		return "", err
	}
	for _, l := range a.Layers {
		layer, err := push(ctx, repo, l.MediaType, l.Data)
		if err != nil {
			return "", err
		}
		layer.Annotations = l.Annotations
		m.Layers = append(m.Layers, layer)
	}
	return r.manifest(ctx, repo, tag, m)
}

// PushIndex pushes an index, byte for byte, whose manifests are in the repository already.
func (r *Registry) PushIndex(ctx context.Context, ca *x509.CertPool, repository, tag string, index []byte) error {
	repo, err := r.client(ca, repository)
	if err != nil {
		return err
	}
	d := v1.Descriptor{MediaType: v1.MediaTypeImageIndex, Digest: digest.FromBytes(index), Size: int64(len(index))}
	if err := repo.PushReference(ctx, d, bytes.NewReader(index), tag); err != nil {
		return fmt.Errorf("push the index %s: %w", repo.Reference, err)
	}
	return nil
}

// Manifest returns the bytes of what a tag leads to.
func (r *Registry) Manifest(ctx context.Context, ca *x509.CertPool, repository, tag string) ([]byte, error) {
	repo, err := r.client(ca, repository)
	if err != nil {
		return nil, err
	}
	d, body, err := repo.FetchReference(ctx, tag)
	if err != nil {
		return nil, fmt.Errorf("fetch %s:%s: %w", repo.Reference, tag, err)
	}
	data, err := content.ReadAll(body, d)
	return data, errors.Join(err, body.Close())
}

// Tar is a tar of the files.
func Tar(files []File) ([]byte, error) {
	var buf bytes.Buffer
	archive := tar.NewWriter(&buf)
	for _, f := range files {
		header := &tar.Header{Name: f.Path, Mode: f.mode(), Size: int64(len(f.Data)), ModTime: time.Unix(1735689600, 0)}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(f.Data); err != nil {
			return nil, err
		}
	}
	err := archive.Close()
	return buf.Bytes(), err
}

func (r *Registry) client(ca *x509.CertPool, repository string) (*remote.Repository, error) {
	repo, err := remote.NewRepository(r.Address + "/" + repository)
	if err != nil {
		return nil, err
	}
	repo.Client = &auth.Client{
		Cache:  auth.NewCache(),
		Client: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca, MinVersion: tls.VersionTLS12}}},
		Credential: func(context.Context, string) (auth.Credential, error) {
			return auth.Credential{Username: r.User, Password: r.Password}, nil
		},
	}
	return repo, nil
}

func (r *Registry) manifest(ctx context.Context, repo *remote.Repository, tag string, m v1.Manifest) (string, error) {
	data, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	d := v1.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := repo.PushReference(ctx, d, bytes.NewReader(data), tag); err != nil {
		return "", fmt.Errorf("push %s: %w", repo.Reference, err)
	}
	return d.Digest.String(), nil
}

func pushJSON(ctx context.Context, repo *remote.Repository, mediaType string, v any) (v1.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return push(ctx, repo, mediaType, data)
}

func push(ctx context.Context, repo *remote.Repository, mediaType string, data []byte) (v1.Descriptor, error) {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := repo.Push(ctx, d, bytes.NewReader(data)); err != nil {
		return d, fmt.Errorf("push a blob to %s: %w", repo.Reference, err)
	}
	return d, nil
}
