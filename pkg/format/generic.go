package format

import (
	"fmt"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

const nameGeneric = "generic"

var generic = format{
	name: nameGeneric,
	reads: "any artifact whose layers have a title or path, as ORAS, podman artifact, KAITO, AIKit's generic packager and " +
		"Lepton users push them; directories are unpacked",
	detect: func(*manifest) bool { return true },
	parse:  parseGeneric,
}

// notModels are artifacts that can have titles and hold no model. They are mounted only if the user names the format.
var notModels = []struct{ prefix, what string }{
	{"application/vnd.cncf.helm.", "a Helm chart"},
	{"application/vnd.cncf.flux.", "a Flux source"},
	{"application/vnd.wasm.", "a WebAssembly module"},
	{"application/vnd.module.wasm.", "a WebAssembly module"},
	{"application/vnd.dev.cosign.", "a cosign signature"},
	{"application/vnd.dev.sigstore.", "a sigstore signature"},
	{"application/vnd.cncf.notary.", "a Notary signature"},
	{"application/vnd.in-toto", "an attestation"},
	{"application/spdx", "a software bill of materials"},
	{"application/vnd.cyclonedx", "a software bill of materials"},
	{"application/vnd.aquasec.trivy.", "a vulnerability database"},
}

// parseGeneric takes a layer with a name for the file of that name, whatever its media type says: ORAS calls every
// file an image layer. Only the mark of ORAS makes it an archive.
func parseGeneric(m *manifest) (Plan, error) {
	if !m.forced {
		for _, n := range notModels {
			if m.hasPrefix(n.prefix) {
				return Plan{}, fmt.Errorf("%s: it is %s and no model; set the format to %q to mount its files all the same: %w", m, n.what, nameGeneric, model.ErrUnsupported)
			}
		}
	}
	var p Plan
	for i := range m.Layers {
		d := &m.Layers[i]
		if d.isPlaceholder() {
			continue
		}
		l, ok, err := m.genericLayer(d)
		if err != nil {
			return Plan{}, err
		}
		if !ok {
			p.Notes = append(p.Notes, fmt.Sprintf("layer %s of type %s has no title and is left out", d.Digest, clip(d.MediaType)))
			continue
		}
		p.Layers = append(p.Layers, l)
	}
	if len(p.Layers) == 0 {
		return Plan{}, fmt.Errorf("%s: no layer has a title or a path; push the files with ORAS, or pack them as a ModelPack: %w", m, model.ErrUnsupported)
	}
	return p, nil
}

func (m *manifest) genericLayer(d *descriptor) (l Layer, ok bool, err error) {
	name := d.path()
	switch {
	case d.Annotations[annotationUnpack] == "true":
		// The directory of the title is in the names of the members.
		l, err = d.archive()
		l.Annotation = ""
		return l, true, err
	case name == "" && m.forced && isImageLayer(d.MediaType):
		l, err = d.archive()
		return l, true, err
	case name == "" && m.forced:
		name = d.digestName()
	case name == "":
		return Layer{}, false, nil
	}
	l, err = d.file(name)
	// AIKit's archive of everything has no mark, only its name.
	l.Archive = len(m.Layers) == 1 && strings.HasPrefix(l.Path, "allfiles.tar") && isImageLayer(d.MediaType)
	return l, true, err
}
