package format

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/model-csi/model-csi/pkg/model"
)

const (
	prefixKitOps = "application/vnd.kitops.modelkit."
	// annotationSubtype tells prompts from code, which have the same media type.
	annotationSubtype = "ml.kitops.modelkit.layer-subtype"
)

// MaxParents is how many parents in a row are followed; KitOps follows as many.
const MaxParents = 10

var kitOps = format{
	name: "kitops",
	reads: "KitOps ModelKits of all versions: tar and raw, compressed or not, model parts, parent ModelKits; " +
		"the Kitfile is at the root",
	detect: func(m *manifest) bool { return m.hasPrefix(prefixKitOps) },
	parse:  parseKitOps,
}

// kitfile has the fields of a Kitfile that decide where files are.
type kitfile struct {
	Model struct {
		kitEntry
		Parts []kitEntry `json:"parts"`
	} `json:"model"`
	Code     []kitEntry `json:"code"`
	Datasets []kitEntry `json:"datasets"`
	Docs     []kitEntry `json:"docs"`
	Prompts  []kitEntry `json:"prompts"`

	// parent is what the model's path refers to when it is no path.
	parent string
	// yaml is the Kitfile as Kit unpacks it; nil when there is none.
	yaml []byte
}

type kitEntry struct {
	Path       string `json:"path"`
	Digest     string `json:"digest"`
	RemotePath string `json:"remotePath"`
}

func parseKitOps(m *manifest) (Plan, error) {
	var p Plan
	hasModel := slices.ContainsFunc(m.Layers, func(d descriptor) bool { return strings.HasPrefix(d.MediaType, prefixKitOps+"model.") })
	kit, err := parseKitfile(m.config, hasModel)
	if err != nil {
		return Plan{}, err
	}
	if !hasModel && kit.Model.Path != "" && kit.parent == "" {
		return Plan{}, fmt.Errorf("%s: the Kitfile's model %q is not in the ModelKit and names no other one: %w", m, clip(kit.Model.Path), model.ErrUnsupported)
	}
	p.addKitfile(kit)
	entries := kit.byKind()
	legacy := !kit.hasDigests()
	for i := range m.Layers {
		d := &m.Layers[i]
		l, ok, err := kitLayer(d)
		if err != nil {
			return Plan{}, err
		}
		if !ok {
			p.Notes = append(p.Notes, fmt.Sprintf("layer %s of type %s has no path and is left out", d.Digest, clip(d.MediaType)))
			continue
		}
		// Each kind's layers are in the order of the Kitfile's entries.
		var entry string
		if rest := entries[l.Kind]; len(rest) > 0 {
			entry, entries[l.Kind] = rest[0], rest[1:]
		}
		if legacy && l.Archive && l.Annotation == "" {
			if l.Prefix, err = legacyPrefix(entry); err != nil {
				return Plan{}, fmt.Errorf("layer %s: Kitfile: %w", d.Digest, err)
			}
		}
		p.Layers = append(p.Layers, l)
	}
	return p, nil
}

// kitLayer reads one layer; ok is false for a type that Kit does not know either and that has no path.
func kitLayer(d *descriptor) (l Layer, ok bool, err error) {
	kind, _, known := strings.Cut(strings.TrimPrefix(d.MediaType, prefixKitOps), ".v1.")
	switch how := packingOf(d.MediaType); {
	case known && how == packedTar:
		l, err = d.archive()
	case d.path() == "":
		return Layer{}, false, nil
	default:
		l, err = d.file(d.path())
		l.Compressed = how == packedCompressed
	}
	l.Kind = kind
	if kind == "code" && d.Annotations[annotationSubtype] == "prompt" {
		l.Kind = "prompt"
	}
	return l, true, err
}

func (k kitfile) byKind() map[string][]string {
	out := map[string][]string{}
	add := func(kind string, entries ...kitEntry) {
		for _, e := range entries {
			if e.RemotePath == "" {
				out[kind] = append(out[kind], e.Path)
			}
		}
	}
	if k.Model.Path != "" && k.parent == "" {
		add("model", k.Model.kitEntry)
	}
	add("modelpart", k.Model.Parts...)
	add("code", k.Code...)
	add("dataset", k.Datasets...)
	add("docs", k.Docs...)
	add("prompt", k.Prompts...)
	return out
}

// hasDigests reports whether any entry names its layer, as every Kit since v0.5.0 writes it. Older ones also leave
// the directories above an entry out of the archive.
func (k kitfile) hasDigests() bool {
	for _, list := range [][]kitEntry{{k.Model.kitEntry}, k.Model.Parts, k.Code, k.Datasets, k.Docs, k.Prompts} {
		for _, e := range list {
			if e.Digest != "" {
				return true
			}
		}
	}
	return false
}

// legacyPrefix is where an archive without leading directories belongs.
func legacyPrefix(entry string) (string, error) {
	dir := path.Dir(path.Clean(entry))
	if dir == "." {
		return "", nil
	}
	return model.CleanPath(dir)
}

// parseKitfile reads a Kitfile in JSON. What cannot be read of it is as if it were not there, which is no reason to keep
// the files back.
// hasModel says that the artifact has a model layer; then the model's path is a path, even one with a colon.
func parseKitfile(doc []byte, hasModel bool) (kitfile, error) {
	var k kitfile
	_ = json.Unmarshal(doc, &k)
	k.yaml, _ = kitfileYAML(doc)
	if !hasModel {
		k.parent = parentReference(k.Model.Path)
	}
	if strings.HasPrefix(k.parent, "localhost/") {
		return kitfile{}, fmt.Errorf("the model is in another ModelKit, %q, which names no registry and so exists only where this one was packed; pack it with the parent's full reference: %w",
			clip(k.Model.Path), model.ErrUnsupported)
	}
	return k, nil
}

// addKitfile adds the Kitfile itself, the parent that it refers to, and notes about what it only mentions.
func (p *Plan) addKitfile(k kitfile) {
	if k.yaml != nil {
		p.Inline = append(p.Inline, InlineFile{Path: "Kitfile", Mode: defaultMode, Data: k.yaml})
	}
	if k.parent != "" {
		p.Parents = append(p.Parents, k.parent)
	}
	for _, d := range k.Datasets {
		if d.RemotePath != "" {
			p.Notes = append(p.Notes, fmt.Sprintf("dataset %s is not in the ModelKit but at %s; it is left out", clip(d.Path), clip(d.RemotePath)))
		}
	}
}

// kitfileYAML writes the Kitfile without the digests of layers, which the packed form has in addition.
func kitfileYAML(doc []byte) ([]byte, error) {
	var all map[string]any
	if err := json.Unmarshal(doc, &all); err != nil || len(all) == 0 {
		return nil, err
	}
	var clean func(v any)
	clean = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				clean(e)
			}
		case map[string]any:
			delete(v, "digest")
			delete(v, "diffId")
			clean(v["parts"])
		}
	}
	for _, section := range []string{"model", "code", "datasets", "docs", "prompts", "mcpServers"} {
		clean(all[section])
	}
	return yaml.Marshal(all)
}

// parentReference returns the reference that a model's path is, with the registry that Kit assumes, or "" if it is a
// path. Kit takes for a reference what has a tag or digest and parses as one.
func parentReference(p string) string {
	if !strings.ContainsAny(p, ":@") {
		return ""
	}
	first, _, _ := strings.Cut(p, "/")
	if !strings.Contains(p, "/") || !strings.ContainsAny(first, ".:") {
		p = "localhost/" + p
	}
	if _, err := model.ParseRef(p); err != nil {
		return ""
	}
	return p
}

// Inherit returns the plan with the model of its parent, which ref names: the parent's model and model parts come
// first, so that the plan's own files win, and Layer.Origin says where their blobs are. The parent's own Parents
// replace the plan's, so that a caller follows one after the other, [MaxParents] at most and none twice. It fails with
// model.ErrUnsupported when neither the parent nor a parent of it has a model.
func (p Plan) Inherit(parent Plan, ref string) (Plan, error) {
	var inherited []Layer
	for _, l := range parent.Layers {
		switch l.Kind {
		case "model", "modelpart", "weight", "weight.config":
			if l.Origin == "" {
				l.Origin = ref
			}
			inherited = append(inherited, l)
		}
	}
	if len(inherited) == 0 && len(parent.Parents) == 0 {
		return Plan{}, fmt.Errorf("parent %s has no model: %w", clip(ref), model.ErrUnsupported)
	}
	p.Layers = append(inherited, p.Layers...)
	p.Parents = parent.Parents
	p.Notes = slices.Concat(p.Notes, parent.Notes)
	p.dropReplaced()
	return p, nil
}
