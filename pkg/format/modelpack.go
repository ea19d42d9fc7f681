package format

import (
	"path"
	"slices"
	"strings"
)

const (
	prefixModelPack = "application/vnd.cncf.model."
	prefixCNAI      = "application/vnd.cnai.model."
	// annotationKitfile is where KitOps keeps its Kitfile, as JSON, when it writes a ModelPack.
	annotationKitfile = "ml.kitops.modelkit.kitfile"
)

var modelPack = format{
	name: "modelpack",
	reads: "CNCF ModelPack, all 20 layer types, as modctl, KitOps, Docker Model Runner, AIKit, RamaLama and olot write it; " +
		"also under the older cnai names",
	// The artifact type alone is enough: RamaLama's artifacts have an empty config and untyped layers.
	detect: func(m *manifest) bool { return m.hasPrefix(prefixModelPack, prefixCNAI) },
	parse:  parseModelPack,
}

const cnaiReads = "CNAI model specification of 2024 and early 2025, before it became ModelPack: its own manifest type, or image layers with org.cnai.model annotations"

// cnaiManifest is a draft of January 2025, whose manifests have a media type of their own.
var cnaiManifest = format{
	name:   "cnai",
	reads:  cnaiReads,
	detect: func(m *manifest) bool { return strings.HasPrefix(m.MediaType, typeCNAIManifest) },
	parse:  parseModelPack,
}

// cnaiLayers is the first draft, of 2024: an image manifest whose layers and annotations tell what they are.
var cnaiLayers = format{
	name:  "cnai",
	reads: cnaiReads,
	detect: func(m *manifest) bool {
		for _, l := range m.Layers {
			if strings.HasPrefix(l.ArtifactType, prefixCNAI) || hasKeyPrefix(l.Annotations, "org.cnai.model.") {
				return true
			}
		}
		return hasKeyPrefix(m.Annotations, "org.cnai.model.")
	},
	parse: parseModelPack,
}

// parseModelPack reads all generations: they differ in names that do not matter for where a file goes.
func parseModelPack(m *manifest) (Plan, error) {
	var p Plan
	for i := range m.Layers {
		d := &m.Layers[i]
		if d.isPlaceholder() {
			continue
		}
		l, err := modelPackLayer(d)
		if err != nil {
			return Plan{}, err
		}
		l.Kind = modelPackKind(d.MediaType)
		p.Layers = append(p.Layers, l)
	}
	if isOlot(m) {
		p.Strip = "models"
	}
	if text := m.Annotations[annotationKitfile]; text != "" {
		hasModel := slices.ContainsFunc(p.Layers, func(l Layer) bool { return l.Kind == "weight" })
		kit, err := parseKitfile([]byte(text), hasModel)
		if err != nil {
			return Plan{}, err
		}
		p.addKitfile(kit)
	}
	return p, nil
}

func modelPackLayer(d *descriptor) (Layer, error) {
	name := d.path()
	switch packingOf(d.MediaType) {
	case packedTar:
		if !isORASFile(d) {
			return d.archive()
		}
	case packedCompressed:
		l, err := d.fileOrDigest(name)
		l.Compressed = true
		return l, err
	}
	l, err := d.fileOrDigest(name)
	// Docker Model Runner repackages its tar of config files under a type that says raw.
	if strings.HasSuffix(d.MediaType, "weight.config.v1.raw") && path.Ext(l.Path) == ".tar" {
		l.Archive = true
	}
	return l, err
}

// modelPackKind is the category in a layer's type, "weight" for example.
func modelPackKind(t string) string {
	rest, ok := strings.CutPrefix(t, prefixModelPack)
	if !ok {
		rest, ok = strings.CutPrefix(t, prefixCNAI)
	}
	kind, _, versioned := strings.Cut(rest, ".v1.")
	if !ok || !versioned {
		return ""
	}
	return kind
}

func (d *descriptor) fileOrDigest(name string) (Layer, error) {
	if name == "" {
		name = d.digestName()
	}
	return d.file(name)
}

// isORASFile reports whether the layer was pushed by ORAS as a file: it types every file as an image layer unless told
// otherwise, and marks the ones to unpack.
func isORASFile(d *descriptor) bool {
	return isImageLayer(d.MediaType) && d.Annotations[annotationTitle] != "" && d.pathAnnotation() == "" &&
		d.Annotations[annotationUnpack] != "true" && d.ArtifactType == "" && !hasKeyPrefix(d.Annotations, "olot.")
}

// isOlot reports whether olot wrote the manifest, whose archives have everything below models/. It can be told by its
// annotations or by archives that have a title and no path.
func isOlot(m *manifest) bool {
	if m.Annotations["io.opendatahub.author"] == "olot" {
		return true
	}
	for i := range m.Layers {
		d := &m.Layers[i]
		if hasKeyPrefix(d.Annotations, "olot.") {
			return true
		}
		if packingOf(d.MediaType) != packedTar || d.pathAnnotation() != "" || d.Annotations[annotationTitle] == "" {
			return false
		}
	}
	return len(m.Layers) > 0
}
