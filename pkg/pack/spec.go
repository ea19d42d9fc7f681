package pack

import (
	"fmt"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

// Category says what a layer is for.
type Category string

// The categories of the specification.
const (
	Weight       Category = "weight"
	WeightConfig Category = "weight.config"
	Doc          Category = "doc"
	Code         Category = "code"
	Dataset      Category = "dataset"
)

// Categories lists all of them in the order of the layers in a manifest: what is small and needed first comes first.
var Categories = []Category{WeightConfig, Weight, Code, Doc, Dataset}

// ParseCategory reads the name of a category. It fails with model.ErrInvalid.
func ParseCategory(s string) (Category, error) {
	if c := Category(s); slices.Contains(Categories, c) {
		return c, nil
	}
	if s == "config" { // what the category of config.json is commonly called
		return WeightConfig, nil
	}
	return "", fmt.Errorf("category %q is not one of weight, weight.config, doc, code and dataset: %w", s, model.ErrInvalid)
}

// Archive is how a layer holds its file.
type Archive string

// The archives of the specification. Raw is the file itself.
const (
	Raw     Archive = "raw"
	Tar     Archive = "tar"
	TarGzip Archive = "tar+gzip"
	TarZstd Archive = "tar+zstd"
)

// Archives lists all of them.
var Archives = []Archive{Raw, Tar, TarGzip, TarZstd}

// ParseArchive reads the name of an archive. It fails with model.ErrInvalid.
func ParseArchive(s string) (Archive, error) {
	if a := Archive(s); slices.Contains(Archives, a) {
		return a, nil
	}
	return "", fmt.Errorf("archive %q is not one of raw, tar, tar+gzip and tar+zstd: %w", s, model.ErrInvalid)
}

// extension is what a file of the archive is usually called.
func (a Archive) extension() string {
	switch a {
	case Tar:
		return ".tar"
	case TarGzip:
		return ".tar.gz"
	case TarZstd:
		return ".tar.zst"
	case Raw:
	}
	return ""
}

// Names is the generation of names that an artifact uses.
type Names string

// The generations. CNAI is what the specification wrote before it moved to the CNCF, in the first half of 2025.
const (
	ModelPack Names = "modelpack"
	CNAI      Names = "cnai"
)

// ParseNames reads the name of a generation. It fails with model.ErrInvalid.
func ParseNames(s string) (Names, error) {
	switch n := Names(s); n {
	case ModelPack, CNAI:
		return n, nil
	}
	return "", fmt.Errorf("specification %q is not one of modelpack and cnai: %w", s, model.ErrInvalid)
}

// word is the part of media types and annotations in which the generations differ.
func (n Names) word() string {
	if n == CNAI {
		return "cnai"
	}
	return "cncf"
}

// ManifestType is the artifactType of a manifest.
func (n Names) ManifestType() string {
	return "application/vnd." + n.word() + ".model.manifest.v1+json"
}

// ConfigType is the media type of a config.
func (n Names) ConfigType() string { return "application/vnd." + n.word() + ".model.config.v1+json" }

// LayerType is the media type of a layer.
func (n Names) LayerType(c Category, a Archive) string {
	return "application/vnd." + n.word() + ".model." + string(c) + ".v1." + string(a)
}

// Annotation returns the key of a predefined annotation of layers: "filepath" and so on.
func (n Names) Annotation(name string) string { return "org." + n.word() + ".model." + name }

// The predefined annotations of layers, without what Names.Annotation puts in front.
const (
	annotationFilepath = "filepath"
	annotationMetadata = "file.metadata+json"
	annotationUntested = "file.mediatype.untested"
)

// namesOf tells which generation a media type belongs to; ok is false where it belongs to none.
func namesOf(mediaType string) (n Names, ok bool) {
	for _, n := range []Names{ModelPack, CNAI} {
		if strings.HasPrefix(mediaType, "application/vnd."+n.word()+".model.") {
			return n, true
		}
	}
	return "", false
}

// parseLayerType takes the media type of a layer apart; ok is false where the specification has no such type.
func parseLayerType(n Names, mediaType string) (c Category, a Archive, ok bool) {
	for _, c := range Categories {
		for _, a := range Archives {
			if mediaType == n.LayerType(c, a) {
				return c, a, true
			}
		}
	}
	return "", "", false
}
