package format

import (
	"encoding/json"

	specs "github.com/opencontainers/image-spec/specs-go/v1"
)

var image = format{
	name: "image",
	reads: "OCI and Docker images: the whole root file system as a Kubernetes image volume shows it; " +
		"KServe modelcars, olot, AIKit and RamaLama images; zstd:chunked and eStargz",
	detect: isImage,
	parse: func(m *manifest) (Plan, error) {
		p := Plan{RootFS: true}
		for i := range m.Layers {
			l := Layer{Blob: m.Layers[i].blob(), MediaType: m.Layers[i].MediaType, Archive: true}
			p.Layers = append(p.Layers, l)
		}
		return p, nil
	},
}

// imageConfig has the fields of an image's config that tell what the image is.
type imageConfig struct {
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// isImage tells an image from an artifact that borrowed an image's media types: its config decides, and files that
// ORAS pushed have titles, which among images only olot's layers have.
func isImage(m *manifest) bool {
	if m.Config.MediaType != specs.MediaTypeImageConfig && m.Config.MediaType != typeDockerConfig {
		return false
	}
	for _, l := range m.Layers {
		if !isImageLayer(l.MediaType) {
			return false
		}
		if l.Annotations[annotationTitle] != "" && !hasKeyPrefix(l.Annotations, "olot.") {
			return false
		}
	}
	var c imageConfig
	return m.config == nil || json.Unmarshal(m.config, &c) == nil && len(c.RootFS.DiffIDs) > 0
}
