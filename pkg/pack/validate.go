package pack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/model-csi/model-csi/pkg/inspect"
	"github.com/model-csi/model-csi/pkg/model"
)

// Level says how much a Finding matters.
type Level string

// The levels: what the specification forbids, and what it advises against.
const (
	LevelError   Level = "error"
	LevelWarning Level = "warning"
)

// Finding is something about an artifact or a directory that is not as it should be.
type Finding struct {
	Level Level `json:"level"`
	// Where is a document and a field in it, or a file: "manifest: layers[3].mediaType".
	Where   string `json:"where"`
	Message string `json:"message"`
}

func (f Finding) String() string { return string(f.Level) + ": " + f.Where + ": " + f.Message }

type findings []Finding

func (fs *findings) errorf(where, format string, args ...any) {
	*fs = append(*fs, Finding{LevelError, where, fmt.Sprintf(format, args...)})
}

func (fs *findings) warnf(where, format string, args ...any) {
	*fs = append(*fs, Finding{LevelWarning, where, fmt.Sprintf(format, args...)})
}

// maxFindings bounds what a hostile manifest can make of itself.
const maxFindings = 1000

// Validate holds the manifest of an artifact and its config against the specification, its older names included. Nothing
// found means that it follows every rule that can be seen in the two. config may be nil where there is none. The config
// is held against the schema; nil means the one of this package, which is written after the specification's text.
func Validate(manifest, config []byte, schema *Schema) []Finding {
	var fs findings
	var m ocispec.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		fs.errorf("manifest", "not a manifest in JSON: %v", err)
		return fs
	}
	names := fs.manifest(m)
	for i, l := range m.Layers {
		if len(fs) < maxFindings {
			fs.layer(names, fmt.Sprintf("manifest: layers[%d]", i), l)
		}
	}
	fs.paths(names, m.Layers)
	if config == nil {
		fs.errorf("manifest: config", "the config %s is not there or too large to be one", m.Config.Digest)
		return fs
	}
	fs = append(fs, ValidateConfig(names, config, schema)...)
	fs.diffIDs(names, m.Layers, config)
	return fs
}

// manifest checks what is not about layers, and finds out the generation.
func (fs *findings) manifest(m ocispec.Manifest) Names {
	if m.SchemaVersion != 2 {
		fs.errorf("manifest: schemaVersion", "it is %d and must be 2", m.SchemaVersion)
	}
	if m.MediaType != ocispec.MediaTypeImageManifest {
		fs.errorf("manifest: mediaType", "it is %q and must be %q", m.MediaType, ocispec.MediaTypeImageManifest)
	}
	names := ModelPack
	if n, ok := namesOf(m.ArtifactType); ok {
		names = n
	} else if n, ok := namesOf(m.Config.MediaType); ok {
		names = n
	}
	if m.ArtifactType != names.ManifestType() {
		fs.errorf("manifest: artifactType", "it is %q and must be %q", m.ArtifactType, names.ManifestType())
	}
	if m.Config.MediaType != names.ConfigType() {
		fs.errorf("manifest: config.mediaType", "it is %q and must be %q", m.Config.MediaType, names.ConfigType())
	}
	if names == CNAI {
		fs.warnf("manifest: artifactType", "the names are those of before the specification moved to the CNCF; push again without --spec cnai for today's")
	}
	fs.descriptor("manifest: config", m.Config)
	if len(m.Layers) == 0 {
		fs.errorf("manifest: layers", "there is none, so the model has no file")
	}
	return names
}

func (fs *findings) descriptor(where string, d ocispec.Descriptor) {
	if _, err := model.ParseDigest(d.Digest.String()); err != nil {
		fs.errorf(where+".digest", "%.100q is no digest", d.Digest)
	}
	if d.Size < 0 {
		fs.errorf(where+".size", "it is %d", d.Size)
	}
}

func (fs *findings) layer(names Names, where string, l ocispec.Descriptor) {
	fs.descriptor(where, l)
	category, archive, known := parseLayerType(names, l.MediaType)
	switch {
	case !known:
		fs.warnf(where+".mediaType", "%.100q is none of the layer types of the specification, and tools need not support it", l.MediaType)
	case category == Weight && (archive == TarGzip || archive == TarZstd):
		fs.warnf(where+".mediaType", "weights should not be compressed: they hardly shrink, and every node has to decompress them")
	}
	at := func(name string) string { return fmt.Sprintf("%s.annotations[%q]", where, names.Annotation(name)) }
	switch p, ok := l.Annotations[names.Annotation(annotationFilepath)]; {
	case !ok:
		fs.warnf(at(annotationFilepath), "there is none: tools that select or name files by it cannot")
	default:
		if _, err := model.CleanPath(p); err != nil {
			fs.errorf(at(annotationFilepath), "%v", err)
		}
	}
	fs.metadata(at(annotationMetadata), l, names, known && archive == Raw)
	if v, ok := l.Annotations[names.Annotation(annotationUntested)]; ok && v != "true" && v != "false" {
		fs.warnf(at(annotationUntested), "%.50q is neither true nor false", v)
	}
}

// metadata checks the attributes of a file. A raw layer has no other place for them; a tar has them in its headers too.
func (fs *findings) metadata(where string, l ocispec.Descriptor, names Names, raw bool) {
	value, ok := l.Annotations[names.Annotation(annotationMetadata)]
	if !ok {
		if raw {
			fs.errorf(where, "there is none: the file's mtime, uid, gid and mode must be told")
		}
		return
	}
	var keys map[string]json.RawMessage
	var m fileMetadata
	if err := json.Unmarshal([]byte(value), &keys); err != nil {
		fs.errorf(where, "not a JSON object")
		return
	}
	for _, key := range []string{"mtime", "uid", "gid", "mode"} {
		if _, ok := keys[key]; !ok {
			fs.errorf(where, "%q is missing", key)
		}
	}
	if err := json.Unmarshal([]byte(value), &m); err != nil {
		fs.errorf(where, "%v", err)
		return
	}
	if raw && m.Size != l.Size {
		fs.warnf(where, "it says %d bytes and the layer has %d", m.Size, l.Size)
	}
}

// paths finds files that would overwrite each other.
func (fs *findings) paths(names Names, layers []ocispec.Descriptor) {
	seen := map[string]int{}
	for i, l := range layers {
		_, archive, _ := parseLayerType(names, l.MediaType)
		p := l.Annotations[names.Annotation(annotationFilepath)]
		clean, err := model.CleanPath(p)
		if err != nil || archive != Raw {
			continue // what is in an archive its headers say
		}
		if first, twice := seen[clean]; twice {
			fs.errorf(fmt.Sprintf("manifest: layers[%d]", i), "%q is also the path of layers[%d]", clean, first)
			continue
		}
		seen[clean] = i
	}
}

// diffIDs compares the config's list with the layers.
func (fs *findings) diffIDs(names Names, layers []ocispec.Descriptor, config []byte) {
	var c struct {
		Layers struct {
			New    []digest.Digest `json:"diffIds"`
			Legacy []digest.Digest `json:"diff_ids"`
		} `json:"modelfs"`
	}
	if json.Unmarshal(config, &c) != nil {
		return // reported already
	}
	key, ids := "diffIds", c.Layers.New
	if len(ids) == 0 && names == CNAI {
		key, ids = "diff_ids", c.Layers.Legacy
	}
	if len(ids) != len(layers) {
		fs.errorf("config: modelfs."+key, "it lists %d digests and the manifest %d layers", len(ids), len(layers))
		return
	}
	for i, id := range ids {
		where := fmt.Sprintf("config: modelfs.%s[%d]", key, i)
		_, archive, known := parseLayerType(names, layers[i].MediaType)
		if _, err := model.ParseDigest(id.String()); err != nil {
			fs.errorf(where, "%.100q is no digest", id)
		} else if known && (archive == Raw || archive == Tar) && id != layers[i].Digest {
			fs.errorf(where, "the layer is not compressed, so it must be the layer's digest %s", layers[i].Digest)
		}
	}
}

var (
	paramSizePattern = regexp.MustCompile(`^[0-9]+(\.[0-9])?[KkMmBbTtQq]$`)
	languagePattern  = regexp.MustCompile(`^[a-z]{2}$`)
	// spdxPattern is the shape of an SPDX license expression.
	spdxPattern = regexp.MustCompile(`^\(*[A-Za-z0-9.+:-]+\)*( (AND|OR|WITH) \(*[A-Za-z0-9.+:-]+\)*)*$`)
)

var modalities = []string{"text", "image", "audio", "video", "embedding", "other"}

// ValidateConfig holds a config against a JSON schema, as Validate does, and against what the specification says in words.
func ValidateConfig(names Names, config []byte, schema *Schema) []Finding {
	var fs findings
	instance, err := decode(config)
	if err != nil {
		fs.errorf("config", "not valid JSON: %v", err)
		return fs
	}
	if schema == nil {
		if schema, err = ownSchema(); err != nil {
			fs.errorf("config", "%v", err)
			return fs
		}
		if names == CNAI {
			modernise(instance)
		}
	}
	for _, f := range schema.findings(instance) {
		fs.errorf("config: "+f.where, "%s", f.message)
	}
	var c struct {
		Descriptor Descriptor `json:"descriptor"`
		Config     struct {
			Model
			Capabilities struct {
				Embedding *bool `json:"embedding"`
			} `json:"capabilities"`
		} `json:"config"`
	}
	if json.Unmarshal(config, &c) != nil {
		return fs // the schema has said why
	}
	if c.Config.ParamSize != "" && !paramSizePattern.MatchString(c.Config.ParamSize) {
		fs.errorf("config: config.paramSize", "%.50q is not a count with at most one decimal and a scale (K, M, B, T or Q), such as 6.7B", c.Config.ParamSize)
	}
	if c.Config.Capabilities.Embedding != nil {
		fs.warnf("config: config.capabilities.embedding", "the specification had it up to v0.0.7; since then \"embedding\" among the outputTypes says so")
	}
	for i, l := range c.Descriptor.Licenses {
		if !spdxPattern.MatchString(l) {
			fs.warnf(fmt.Sprintf("config: descriptor.licenses[%d]", i), "%.100q is not an SPDX license expression, such as Apache-2.0", l)
		}
	}
	return fs
}

func decode(data []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if d.More() {
		return nil, fmt.Errorf("something follows the value")
	}
	return v, nil
}

// modernise gives the fields of an older config the names that the schema knows.
func modernise(instance any) {
	rename := func(in map[string]any, names map[string]string) {
		for from, to := range names {
			if v, ok := in[from]; ok {
				delete(in, from)
				in[to] = v
			}
		}
	}
	object := func(in any, key string) map[string]any {
		m, _ := in.(map[string]any)
		child, _ := m[key].(map[string]any)
		return child
	}
	rename(object(instance, "modelfs"), map[string]string{"diff_ids": "diffIds"})
	rename(object(object(instance, "config"), "capabilities"), map[string]string{
		"input_types": "inputTypes", "output_types": "outputTypes", "knowledge_cutoff": "knowledgeCutoff", "tool_usage": "toolUsage",
	})
}

// Check says what is wrong with an inventory before it is packed: weights that are not whole, settings that are not
// JSON, files that no rule knows.
func Check(inv Inventory, problems []inspect.Problem) []Finding {
	var fs findings
	for _, p := range problems {
		fs.errorf(p.Path, "%v", p.Err)
	}
	if !slices.ContainsFunc(inv.Files, func(f File) bool { return f.Category == Weight }) {
		fs.warnf(inv.Dir, "it has no weights")
	}
	for _, f := range inv.Files {
		if f.Untested && len(fs) < maxFindings {
			fs.warnf(f.Path, "no rule knows what it is; it is packed as %s (--category '%s=...' says otherwise)", f.Category, strings.ReplaceAll(f.Path, "'", "?"))
		}
	}
	return fs
}
