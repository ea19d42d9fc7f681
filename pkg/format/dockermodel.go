package format

import (
	"fmt"
	"strings"
)

const prefixDockerAI = "application/vnd.docker.ai."

var dockerModel = format{
	name:   "docker-model",
	reads:  "Docker Model Runner, configs v0.1 and v0.2: GGUF with shards, safetensors, DDUF, projectors, tars of config files",
	detect: func(m *manifest) bool { return m.hasPrefix(prefixDockerAI) },
	parse:  parseDockerModel,
}

// dockerKinds maps the start of a layer type to the name that Docker Model Runner gives the file when nothing else
// does. Longer starts come first. Kinds with a %s are numbered as shards when there are several, in the order of the
// layers; llama.cpp finds the others by the number.
var dockerKinds = []struct{ prefix, name string }{
	{"gguf.v3.mmproj", "model.mmproj"},
	{"gguf.v3.lora", "adapter.gguf"},
	{"gguf", "model%s.gguf"},
	{"safetensors", "model%s.safetensors"},
	{"dduf", "model.dduf"},
	{"mmproj", "model.mmproj"},
	{"chat.template.jinja", "template.jinja"},
	{"license", "LICENSE"},
}

func parseDockerModel(m *manifest) (Plan, error) {
	shards := map[string]int{}
	for i := range m.Layers {
		if d := &m.Layers[i]; d.path() == "" {
			shards[dockerName(d)]++
		}
	}
	var p Plan
	count := map[string]int{}
	for i := range m.Layers {
		d := &m.Layers[i]
		if d.isPlaceholder() {
			continue
		}
		l, err := dockerLayer(d, shards, count)
		if err != nil {
			return Plan{}, err
		}
		p.Layers = append(p.Layers, l)
	}
	return p, nil
}

func dockerLayer(d *descriptor, shards, count map[string]int) (Layer, error) {
	if packingOf(d.MediaType) == packedTar {
		// vllm.config.tar and dir.tar: their members are relative to the model, whatever the annotation says.
		l, err := d.archive()
		l.Annotation = ""
		return l, err
	}
	if d.path() != "" {
		return d.file(d.path())
	}
	name := dockerName(d)
	if name == "" {
		return d.file(d.digestName())
	}
	count[name]++
	if !strings.Contains(name, "%s") {
		return d.file(numbered(name, count[name]))
	}
	shard := ""
	if n := shards[name]; n > 1 {
		shard = fmt.Sprintf("-%05d-of-%05d", count[name], n)
	}
	return d.file(fmt.Sprintf(name, shard))
}

func dockerName(d *descriptor) string {
	kind := strings.TrimPrefix(d.MediaType, prefixDockerAI)
	for _, k := range dockerKinds {
		if strings.HasPrefix(kind, k.prefix) {
			return k.name
		}
	}
	return ""
}
