package format

import (
	"strings"

	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of manifests that image-spec does not name.
const (
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeDockerSchema1  = "application/vnd.docker.distribution.manifest.v1+"
	typeOCIArtifact    = "application/vnd.oci.artifact.manifest.v1+json"
	typeCNAIManifest   = "application/vnd.cnai.model.manifest."
	typeDockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// mediaType brings a media type into the form in which it is compared: no parameters, lower case.
func mediaType(s string) string {
	s, _, _ = strings.Cut(s, ";")
	return strings.ToLower(strings.TrimSpace(s))
}

// generalType reports whether a Content-Type says nothing about the manifest; simple file servers send these.
func generalType(t string) bool {
	switch t {
	case "", "application/json", "application/octet-stream", "binary/octet-stream", "text/plain":
		return true
	}
	return false
}

func isIndexType(t string) bool {
	return t == specs.MediaTypeImageIndex || t == typeDockerList
}

func isManifestType(t string) bool {
	return t == specs.MediaTypeImageManifest || t == typeDockerManifest || t == typeOCIArtifact || strings.HasPrefix(t, typeCNAIManifest)
}

// packing is how a media type says that a blob holds its content.
type packing int

const (
	packedUnknown packing = iota
	packedRaw
	packedCompressed
	packedTar
)

// packingOf reads the end of a media type. Compression of a tar does not matter: its first bytes tell.
func packingOf(t string) packing {
	plain := strings.TrimSuffix(strings.TrimSuffix(t, "+gzip"), "+zstd")
	switch {
	case strings.HasSuffix(plain, ".tar"), isImageLayer(t):
		return packedTar
	case strings.HasSuffix(t, ".raw"):
		return packedRaw
	case strings.HasSuffix(plain, ".raw"):
		return packedCompressed
	}
	return packedUnknown
}

// isImageLayer reports whether the type is one that layers of OCI and Docker images have.
func isImageLayer(t string) bool {
	return strings.HasPrefix(t, "application/vnd.oci.image.layer.") || strings.HasPrefix(t, "application/vnd.docker.image.rootfs.")
}
