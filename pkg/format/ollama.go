package format

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

const prefixOllama = "application/vnd.ollama.image."

var ollama = format{
	name: "ollama",
	reads: "Ollama models in any OCI registry, as named files: model.gguf, mmproj.gguf, template and so on; " +
		"with `layout: ollama` as a store for `OLLAMA_MODELS`",
	detect: func(m *manifest) bool {
		for _, l := range m.Layers {
			if strings.HasPrefix(l.MediaType, prefixOllama) {
				return true
			}
		}
		return m.Config.MediaType == typeDockerConfig && m.isCloudStub()
	},
	parse: parseOllama,
}

// ollamaNames are the names of layers without one of their own. Further layers of a kind get "-2", "-3" and so on
// before the extension.
var ollamaNames = map[string]string{
	"model":     "model.gguf",
	"projector": "mmproj.gguf",
	"adapter":   "adapter.gguf",
	"draft":     "draft.gguf",
	"template":  "template",
	"prompt":    "template",
	"system":    "system",
	"params":    "params.json",
	"messages":  "messages.json",
	"license":   "LICENSE",
}

// ollamaConfig has the fields of the config blob that matter for files.
type ollamaConfig struct {
	ModelFormat string `json:"model_format"`
	RemoteHost  string `json:"remote_host"`
	RemoteModel string `json:"remote_model"`
}

func (m *manifest) ollamaConfig() (c ollamaConfig) {
	_ = json.Unmarshal(m.config, &c)
	return c
}

// isCloudStub reports whether the model runs at somebody else's place and the manifest holds no weights.
func (m *manifest) isCloudStub() bool {
	c := m.ollamaConfig()
	if c.RemoteHost == "" && c.RemoteModel == "" {
		return false
	}
	for _, l := range m.Layers {
		switch strings.TrimPrefix(l.MediaType, prefixOllama) {
		case "model", "tensor":
			return false
		}
	}
	return true
}

// parseOllama gives every blob the name that tools other than Ollama expect.
func parseOllama(m *manifest) (Plan, error) {
	if err := m.refuseCloudStub(); err != nil {
		return Plan{}, err
	}
	var p Plan
	count := map[string]int{}
	taken := map[string]bool{}
	for i := range m.Layers {
		d := &m.Layers[i]
		name := m.ollamaName(d, count)
		if name == "" {
			continue
		}
		l, err := d.file(name)
		if err != nil {
			return Plan{}, err
		}
		l.Kind = strings.TrimPrefix(d.MediaType, prefixOllama)
		taken[l.Path] = true
		p.Layers = append(p.Layers, l)
	}
	if m.Config.Digest != "" && !taken["config.json"] {
		l, err := m.Config.file("config.json")
		if err != nil {
			return Plan{}, err
		}
		p.Layers = append(p.Layers, l)
	}
	return p, nil
}

func (m *manifest) refuseCloudStub() error {
	if !m.isCloudStub() {
		return nil
	}
	c := m.ollamaConfig()
	return fmt.Errorf("the Ollama model %q runs at %q and has no weights to mount; choose a tag without \"cloud\": %w",
		clip(c.RemoteModel), clip(c.RemoteHost), model.ErrUnsupported)
}

// ollamaName names a layer; "" means that nothing reads it any more.
func (m *manifest) ollamaName(d *descriptor, count map[string]int) string {
	kind := strings.TrimPrefix(d.MediaType, prefixOllama)
	switch kind {
	case "tensor":
		if d.Name != "" {
			return "tensors/" + d.Name + ".safetensors"
		}
	case "json":
		if d.Name != "" {
			return d.Name
		}
	case "embed":
		return ""
	}
	name, ok := ollamaNames[kind]
	if !ok {
		if d.path() != "" {
			return d.path()
		}
		return d.digestName()
	}
	if kind == "model" && m.ollamaConfig().ModelFormat == "safetensors" {
		name = "model.safetensors"
	}
	count[name]++
	return numbered(name, count[name])
}

// numbered puts "-n" before the extension for the second file of a name and later ones.
func numbered(name string, n int) string {
	if n < 2 {
		return name
	}
	base, ext, dot := strings.Cut(name, ".")
	if dot {
		ext = "." + ext
	}
	return fmt.Sprintf("%s-%d%s", base, n, ext)
}

// OllamaStore plans the directory that OLLAMA_MODELS names for the one model ref: its blobs under their digests and
// its manifest, byte for byte, under its name. The blobs are the same as those of [Parse]. It fails with
// model.ErrUnsupported for manifests of other formats.
func OllamaStore(in Input, ref model.Ref) (Plan, error) {
	m, err := parseManifest(in)
	if err != nil {
		return Plan{}, err
	}
	if !ollama.detect(m) {
		return Plan{}, fmt.Errorf("%s: it is no Ollama model, so that Ollama's own layout does not apply; leave the layout out to have the files as they are: %w", m, model.ErrUnsupported)
	}
	if err := m.refuseCloudStub(); err != nil {
		return Plan{}, err
	}
	p := Plan{Format: ollama.name}
	blobs := m.Layers
	if m.Config.Digest != "" {
		blobs = append([]descriptor{m.Config}, blobs...)
	}
	for i := range blobs {
		d := &blobs[i]
		if d.Digest.Algorithm() != digest.SHA256 {
			return Plan{}, fmt.Errorf("blob %s: Ollama's layout knows sha256 alone: %w", d.Digest, model.ErrUnsupported)
		}
		l, err := d.file("blobs/" + d.digestName())
		if err != nil {
			return Plan{}, err
		}
		p.Layers = append(p.Layers, l)
	}
	p.dropReplaced()
	name, err := ollamaManifestPath(ref)
	if err != nil {
		return Plan{}, err
	}
	p.Inline = []InlineFile{{Path: name, Mode: defaultMode, Data: in.Manifest}}
	return p, nil
}

// ollamaManifestPath is host/namespace/model/tag: always four parts. Of a deeper repository the last two remain.
func ollamaManifestPath(ref model.Ref) (string, error) {
	parts := strings.Split(ref.Repository, "/")
	if len(parts) == 1 {
		parts = []string{"library", parts[0]}
	}
	parts = parts[len(parts)-2:]
	tag := ref.Tag
	if tag == "" {
		tag = "latest"
	}
	return model.CleanPath(strings.Join([]string{"manifests", ref.Registry, parts[0], parts[1], tag}, "/"))
}
