package format

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"strings"

	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/model-csi/model-csi/pkg/model"
)

// Annotations that more than one format reads.
const (
	annotationTitle    = specs.AnnotationTitle
	annotationFilepath = "org.cncf.model.filepath"
	annotationLegacy   = "org.cnai.model.filepath"
	annotationUnpack   = "io.deis.oras.content.unpack"
)

// annotationMetadata lists the keys of a file's attributes, in the order in which they are believed.
var annotationMetadata = []string{
	"org.cncf.model.file.metadata+json",
	"org.cncf.model.file.metadata",
	"org.cnai.model.file.metadata+json",
	"org.cnai.model.file.metadata",
}

const defaultMode fs.FileMode = 0o644

// pathAnnotation is the path of a layer as model specifications write it.
func (d *descriptor) pathAnnotation() string {
	if p := d.Annotations[annotationFilepath]; p != "" {
		return p
	}
	return d.Annotations[annotationLegacy]
}

// path is the first name that the layer has. A title never beats a path annotation: some producers put the blob's
// name there. Empty when the layer has no name at all.
func (d *descriptor) path() string {
	for _, p := range []string{d.pathAnnotation(), d.Annotations[annotationTitle], d.metadata().name} {
		if p != "" {
			return p
		}
	}
	return ""
}

// digestName is the name of a file that nothing else names.
func (d *descriptor) digestName() string {
	return d.Digest.Algorithm().String() + "-" + d.Digest.Encoded()
}

type metadata struct {
	name string
	mode fs.FileMode
}

// metadata reads the attributes of the file that a layer holds. Producers disagree about everything in it, so whatever
// cannot be read is as if it were not there. The mode is a decimal number of permission bits.
func (d *descriptor) metadata() metadata {
	out := metadata{mode: defaultMode}
	for _, key := range annotationMetadata {
		text, ok := d.Annotations[key]
		if !ok {
			continue
		}
		var raw struct {
			Name json.RawMessage `json:"name"`
			Mode json.RawMessage `json:"mode"`
		}
		if json.Unmarshal([]byte(text), &raw) != nil {
			continue
		}
		var mode uint32
		if json.Unmarshal(raw.Mode, &mode) == nil && mode&0o777 != 0 {
			out.mode = fs.FileMode(mode&0o777) | 0o400
		}
		_ = json.Unmarshal(raw.Name, &out.name)
		break
	}
	return out
}

// file makes the layer a file at p.
func (d *descriptor) file(p string) (Layer, error) {
	clean, err := model.CleanPath(p)
	if err != nil {
		return Layer{}, fmt.Errorf("layer %s: %w", d.Digest, err)
	}
	return Layer{Blob: d.blob(), MediaType: d.MediaType, Path: clean, Mode: d.metadata().mode}, nil
}

// archive makes the layer an archive of files. Its path annotation may name a directory, the root included.
func (d *descriptor) archive() (Layer, error) {
	l := Layer{Blob: d.blob(), MediaType: d.MediaType, Archive: true}
	if p := d.pathAnnotation(); p != "" && path.Clean(p) != "." {
		clean, err := model.CleanPath(p)
		if err != nil {
			return Layer{}, fmt.Errorf("layer %s: %w", d.Digest, err)
		}
		l.Annotation = clean
	}
	return l, nil
}

// maxLinkParts bounds the components of a link's target. Real ones have a few; without a bound a small archive of
// links that lead through each other costs minutes to check.
const maxLinkParts = 128

func checkLink(name, target string) error {
	if strings.Count(target, "/") >= maxLinkParts {
		return fmt.Errorf("symbolic link %q has a target of more than %d components: %w", clip(name), maxLinkParts, model.ErrInvalid)
	}
	return nil
}

func (d *descriptor) blob() model.Blob { return model.Blob{Digest: d.Digest, Size: d.Size} }

// isPlaceholder reports whether the layer is the empty blob that stands where an artifact has no files.
func (d *descriptor) isPlaceholder() bool {
	return d.MediaType == specs.MediaTypeEmptyJSON && d.path() == ""
}
