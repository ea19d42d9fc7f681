package pull

import (
	"fmt"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
)

// Layout is how a model's files are arranged in the tree.
type Layout string

// The layouts.
const (
	// LayoutFlat has the files where the artifact says.
	LayoutFlat Layout = ""
	// LayoutHub is a cache of the Hugging Face libraries, for HF_HOME.
	LayoutHub Layout = "hf"
	// LayoutOllama is a store of Ollama's, for OLLAMA_MODELS. Only Ollama's artifacts can have it.
	LayoutOllama Layout = "ollama"
)

// ParseLayout reads a layout; the empty string is the flat one. It fails with model.ErrInvalid.
func ParseLayout(s string) (Layout, error) {
	switch l := Layout(s); l {
	case LayoutFlat, LayoutHub, LayoutOllama:
		return l, nil
	}
	return "", fmt.Errorf("layout %.100q must be %q, %q or left out: %w", s, LayoutHub, LayoutOllama, model.ErrInvalid)
}

// Name is the reference that names a model in the layout: the one that text is, or what ref suggests where text is
// empty. The flat layout has no names. It fails with model.ErrInvalid for names that the layout's programs refuse.
func (l Layout) Name(text string, ref model.Ref) (name model.Ref, err error) {
	switch {
	case l == LayoutHub && text != "":
		if name, err = model.ParseRef(model.SchemeHub + "://" + text); name.Tag == "" {
			name.Tag = ref.Tag
		}
	case l == LayoutHub:
		name, err = format.HubName(ref)
	case l == LayoutOllama && text != "":
		name, err = model.ParseRef(model.SchemeOllama + "://" + text)
	case l == LayoutOllama && ref.Registry == "":
		err = fmt.Errorf("%s names no host: %w", ref, model.ErrInvalid)
	case l == LayoutOllama:
		name = ref
	case text != "":
		err = fmt.Errorf("files in a flat layout have no name: %w", model.ErrInvalid)
	}
	if err == nil && text != "" && name.Digest != "" {
		err = fmt.Errorf("name %.100q has a digest: %w", text, model.ErrInvalid)
	}
	return name, err
}

// parse makes the plan of a snapshot for the layout.
func (l Layout) parse(s source.Snapshot, name model.Ref) (format.Plan, error) {
	in := format.Input{MediaType: s.MediaType, Manifest: s.Manifest, Config: s.Config}
	if l == LayoutOllama {
		return format.OllamaStore(in, name)
	}
	return format.Parse(in)
}
