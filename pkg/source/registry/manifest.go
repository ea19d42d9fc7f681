package registry

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// Media types of manifests.
const (
	typeOCIManifest    = "application/vnd.oci.image.manifest.v1+json"
	typeOCIIndex       = "application/vnd.oci.image.index.v1+json"
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeOCIArtifact    = "application/vnd.oci.artifact.manifest.v1+json"
	typeCNAIManifest   = "application/vnd.cnai.model.manifest.v1+json"
	typeDockerSchema1  = "application/vnd.docker.distribution.manifest.v1+json"
	typeDockerSigned1  = "application/vnd.docker.distribution.manifest.v1+prettyjws"
)

// acceptedTypes are asked for in every manifest request. A registry that does not find the stored type among them
// answers 404 or 406, or converts the manifest to one with another digest.
var acceptedTypes = []string{typeOCIManifest, typeOCIIndex, typeDockerManifest, typeDockerList, typeOCIArtifact, typeCNAIManifest}

var (
	indexTypes = []string{typeOCIIndex, typeDockerList}
	oldTypes   = []string{typeDockerSchema1, typeDockerSigned1}
)

// acceptHeader is one line: some registries read the first Accept line only.
func acceptHeader() http.Header {
	return http.Header{"Accept": {strings.Join(acceptedTypes, ", ")}}
}

// document is a manifest or an index as it was received.
type document struct {
	bytes     []byte
	digest    digest.Digest
	mediaType string
	// config is the descriptor of a manifest's config; zero when it has none that can be fetched.
	config descriptor
}

func (d document) isIndex() bool { return slices.Contains(indexTypes, d.mediaType) }

// descriptor is the part of an OCI descriptor that fetching needs.
type descriptor struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Data   []byte        `json:"data"`
}

// parseManifest decides what the bytes are: by the body's own mediaType, else by the Content-Type, else by shape. A
// document that can be read as two things is refused with model.ErrInvalid, since whoever checked it may have read the
// other one.
func parseManifest(data []byte, contentType string) (document, error) {
	// The decoder of encoding/json folds cases when it fills a struct, which a second reader may not do.
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil || fields == nil {
		return document{}, fmt.Errorf("the manifest is not a JSON object: %w", model.ErrInvalid)
	}
	var bodyType string
	if raw, ok := fields["mediaType"]; ok {
		if json.Unmarshal(raw, &bodyType) != nil {
			return document{}, fmt.Errorf("the manifest's mediaType is not a string: %w", model.ErrInvalid)
		}
	}
	shape, err := shapeOf(fields)
	if err != nil {
		return document{}, err
	}
	headerType := manifestType(contentType)
	if bodyType != "" && headerType != "" && bodyType != headerType {
		return document{}, fmt.Errorf("the manifest says it is %q and the Content-Type says %q: %w", wire.Bounded(bodyType), headerType, model.ErrInvalid)
	}
	d := document{bytes: data, mediaType: bodyType}
	if d.mediaType == "" {
		d.mediaType = headerType
	}
	if d.mediaType == "" {
		d.mediaType = shape
	}
	if slices.Contains(oldTypes, d.mediaType) || shape == typeDockerSchema1 {
		return document{}, fmt.Errorf("the manifest has Docker's schema 1, which no model uses and which is not safe to read: %w", model.ErrUnsupported)
	}
	if d.isIndex() != (shape == typeOCIIndex) {
		return document{}, fmt.Errorf("the manifest says it is %q and has the fields of another type: %w", wire.Bounded(d.mediaType), model.ErrInvalid)
	}
	if raw, ok := fields["config"]; ok && !d.isIndex() {
		d.config = configDescriptor(raw)
	}
	return d, nil
}

// shapeOf names the type that the fields belong to.
func shapeOf(fields map[string]json.RawMessage) (string, error) {
	has := func(name string) bool {
		raw, ok := fields[name]
		return ok && string(raw) != "null"
	}
	// An index with a config is as ambiguous as one with layers.
	index, old := has("manifests"), has("fsLayers")
	layers, blobs := has("layers"), has("blobs")
	switch {
	case index && (layers || blobs || old || has("config")), layers && blobs:
		return "", fmt.Errorf("the document has the fields of several types of manifest: %w", model.ErrInvalid)
	case old && !layers && !blobs:
		return typeDockerSchema1, nil
	case index:
		return typeOCIIndex, nil
	case layers:
		return typeOCIManifest, nil
	case blobs:
		return typeOCIArtifact, nil
	case has("config"):
		return typeOCIManifest, nil // without layers; what that means is for a format to say
	}
	return "", fmt.Errorf("the document has neither layers nor blobs nor manifests: %w", model.ErrInvalid)
}

// manifestType returns the media type of a Content-Type if it is one of manifests, else nothing: registries that do not
// know a type send "application/json", "text/plain" and worse.
func manifestType(contentType string) string {
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return ""
	}
	for _, known := range append(oldTypes[:len(oldTypes):len(oldTypes)], acceptedTypes...) {
		if strings.EqualFold(t, known) {
			return known
		}
	}
	return ""
}

// configDescriptor reads a manifest's config. One that cannot be fetched counts as none: formats do without.
func configDescriptor(raw json.RawMessage) descriptor {
	var d descriptor
	if json.Unmarshal(raw, &d) != nil {
		return descriptor{}
	}
	if _, err := model.ParseDigest(d.Digest.String()); err != nil || d.Size < 0 {
		return descriptor{}
	}
	return d
}

// emptyJSON is the content of the OCI empty descriptor, which most artifacts have as their config.
var emptyJSON = []byte("{}")

// inline returns the content of the descriptor where it needs no request: embedded in it and intact, or known.
func (d descriptor) inline() ([]byte, bool) {
	for _, data := range [][]byte{d.Data, emptyJSON} {
		if int64(len(data)) == d.Size && len(data) > 0 && d.Digest.Algorithm().FromBytes(data) == d.Digest {
			return slices.Clone(data), true
		}
	}
	return nil, false
}
