package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/model-csi/model-csi/pkg/model"
)

const (
	// maxManifest is above every limit that an operator may set for what is fetched.
	maxManifest = 64 << 20
	// maxLayers is several times what the largest models need that keep each tensor in a layer.
	maxLayers = 10000
	// maxAnnotations bounds the annotations of one descriptor, in bytes: Kubernetes' own limit for one object.
	maxAnnotations = 256 << 10
	// maxManifestAnnotations leaves room for a whole Modelfile or Kitfile, which producers store there.
	maxManifestAnnotations = 1 << 20
)

// manifest is a manifest or an index, checked for contradictions and for size, but not for sense.
type manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	ArtifactType  string            `json:"artifactType"`
	Config        descriptor        `json:"config"`
	Layers        []descriptor      `json:"layers"`
	Blobs         []descriptor      `json:"blobs"`
	Manifests     []descriptor      `json:"manifests"`
	Annotations   map[string]string `json:"annotations"`

	// document holds the bytes of the manifest itself.
	document []byte
	// config holds the bytes of the config blob, nil when there is none.
	config []byte
	// forced says that the user named the format.
	forced bool
}

// descriptor has the fields of all producers; image-spec's type would drop some of them.
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Digest       digest.Digest     `json:"digest"`
	Size         int64             `json:"size"`
	Annotations  map[string]string `json:"annotations"`
	Platform     *specs.Platform   `json:"platform"`
	// Name is Ollama's name of a tensor or a file.
	Name string `json:"name"`
	// Labels are what KitOps selects by in an index.
	Labels json.RawMessage `json:"modelMetadata"`
}

// knownKeys are the keys that decide what a document is. encoding/json takes any case for them and the last of
// several, other parsers do not; a document that two readers could read differently is refused.
var knownKeys = map[string]string{}

func init() {
	for _, k := range []string{
		"schemaVersion", "mediaType", "artifactType", "config", "layers", "blobs", "manifests", "annotations",
		"fsLayers", "digest", "size", "platform", "name", "modelMetadata",
	} {
		knownKeys[strings.ToLower(k)] = k
	}
}

// parseDocument reads a manifest or an index and checks that its parts agree with each other and with the media type
// that it was delivered under.
func parseDocument(doc []byte, delivered string) (*manifest, error) {
	bad := func(format string, args ...any) (*manifest, error) {
		return nil, fmt.Errorf("manifest: "+format+": %w", append(args, model.ErrInvalid)...)
	}
	if len(doc) > maxManifest {
		return nil, fmt.Errorf("manifest has %d bytes, the limit is %d: %w", len(doc), maxManifest, model.ErrTooLarge)
	}
	keys, err := checkKeys(doc)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	m := &manifest{}
	if keys["fsLayers"] || strings.HasPrefix(mediaType(delivered), typeDockerSchema1) {
		return nil, fmt.Errorf("manifest has schema 1, which registries gave up; push the artifact again with a current tool: %w", model.ErrUnsupported)
	}
	if err := json.Unmarshal(doc, m); err != nil {
		return bad("%v", err)
	}
	if m.SchemaVersion != 2 && m.SchemaVersion != 0 {
		return nil, fmt.Errorf("manifest has schema version %d, only 2 is read: %w", m.SchemaVersion, model.ErrUnsupported)
	}
	lists := 0
	for _, k := range []string{"layers", "blobs", "manifests"} {
		if keys[k] {
			lists++
		}
	}
	if lists > 1 {
		return bad("it has more than one of layers, blobs and manifests")
	}
	m.MediaType = mediaType(m.MediaType)
	if delivered = mediaType(delivered); m.MediaType == "" {
		m.MediaType = delivered
	} else if !generalType(delivered) && delivered != m.MediaType {
		return bad("it was delivered as %q and calls itself %q", delivered, m.MediaType)
	}
	if index := isIndexType(m.MediaType); index && (keys["layers"] || keys["blobs"]) || !index && isManifestType(m.MediaType) && keys["manifests"] {
		return bad("media type %q does not go with its content", m.MediaType)
	}
	return m, m.check()
}

// checkKeys lists the keys of the document and refuses ambiguous ones, in the document and in its descriptors.
func checkKeys(doc []byte) (map[string]bool, error) {
	top, err := object(doc)
	if err != nil {
		return nil, err
	}
	keys := make(map[string]bool, len(top))
	for k, raw := range top {
		keys[k] = !bytes.Equal(raw, []byte("null"))
		var list []json.RawMessage
		switch k {
		case "config":
			list = []json.RawMessage{raw}
		case "layers", "blobs", "manifests":
			if err := json.Unmarshal(raw, &list); err != nil {
				return nil, fmt.Errorf("%s: %v: %w", k, err, model.ErrInvalid)
			}
			if len(list) > maxLayers {
				return nil, fmt.Errorf("it lists %d %s, the limit is %d: %w", len(list), k, maxLayers, model.ErrTooLarge)
			}
		}
		for i, d := range list {
			if bytes.Equal(d, []byte("null")) && k == "config" {
				continue
			}
			if _, err := object(d); err != nil {
				return nil, fmt.Errorf("%s %d: %w", k, i, err)
			}
		}
	}
	return keys, nil
}

// object takes one JSON object apart. It refuses a key twice and a known key in other letters.
func object(raw []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("it is not a JSON object: %w", model.ErrInvalid)
	}
	out := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("it is not JSON: %v: %w", err, model.ErrInvalid)
		}
		key, _ := t.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("it is not JSON: %v: %w", err, model.ErrInvalid)
		}
		if _, twice := out[key]; twice {
			return nil, fmt.Errorf("key %q appears twice: %w", clip(key), model.ErrInvalid)
		}
		if known, ok := knownKeys[strings.ToLower(key)]; ok && known != key {
			return nil, fmt.Errorf("key %q is not spelled %q: %w", clip(key), known, model.ErrInvalid)
		}
		out[key] = value
	}
	return out, nil
}

// check verifies every descriptor and moves an artifact manifest's blobs to where layers are.
func (m *manifest) check() error {
	if n := annotationSize(m.Annotations); n > maxManifestAnnotations {
		return fmt.Errorf("manifest has %d bytes of annotations, the limit is %d: %w", n, maxManifestAnnotations, model.ErrTooLarge)
	}
	if len(m.Blobs) > 0 {
		m.Layers, m.Blobs = m.Blobs, nil
	}
	m.ArtifactType = mediaType(m.ArtifactType)
	if m.Config.Digest != "" {
		if err := m.Config.check(); err != nil {
			return fmt.Errorf("manifest: config: %w", err)
		}
	}
	m.Config.MediaType = mediaType(m.Config.MediaType)
	for _, list := range [][]descriptor{m.Layers, m.Manifests} {
		sizes := make(map[digest.Digest]int64, len(list))
		for i := range list {
			d := &list[i]
			if err := d.check(); err != nil {
				return fmt.Errorf("manifest: entry %d: %w", i, err)
			}
			if size, ok := sizes[d.Digest]; ok && size != d.Size {
				return fmt.Errorf("manifest: entry %d: blob %s has two sizes, %d and %d: %w", i, d.Digest, size, d.Size, model.ErrInvalid)
			}
			sizes[d.Digest] = d.Size
		}
	}
	return nil
}

func (d *descriptor) check() error {
	if _, err := model.ParseDigest(d.Digest.String()); err != nil {
		return err
	}
	if d.Size < 0 {
		return fmt.Errorf("blob %s has the negative size %d: %w", d.Digest, d.Size, model.ErrInvalid)
	}
	if n := annotationSize(d.Annotations); n > maxAnnotations {
		return fmt.Errorf("blob %s has %d bytes of annotations, the limit is %d: %w", d.Digest, n, maxAnnotations, model.ErrTooLarge)
	}
	d.MediaType, d.ArtifactType = mediaType(d.MediaType), mediaType(d.ArtifactType)
	return nil
}

// parseManifest reads a document that must be a manifest.
func parseManifest(in Input) (*manifest, error) {
	m, err := parseDocument(in.Manifest, in.MediaType)
	if err != nil {
		return nil, err
	}
	if len(m.Manifests) > 0 || isIndexType(m.MediaType) {
		return nil, fmt.Errorf("manifest is an index; one of its entries has to be selected first: %w", model.ErrInvalid)
	}
	m.document, m.config = in.Manifest, in.Config
	return m, nil
}

// checkSupported refuses layers that nobody could read as files, whatever the format.
func (m *manifest) checkSupported() error {
	for i, l := range m.Layers {
		switch {
		case strings.Contains(l.MediaType, "+encrypted"):
			return fmt.Errorf("%s: layer %d is encrypted (%s); push it without encryption: %w", m, i, l.MediaType, model.ErrUnsupported)
		case strings.Contains(l.MediaType, "nydus.blob") || hasKeyPrefix(l.Annotations, "containerd.io/snapshot/nydus-"):
			return fmt.Errorf("%s: layer %d is in Nydus' own format; use the image that it was converted from: %w", m, i, model.ErrUnsupported)
		}
	}
	return nil
}

// String says what was found, for errors.
func (m *manifest) String() string {
	var parts []string
	if m.ArtifactType != "" {
		parts = append(parts, "type "+clip(m.ArtifactType))
	}
	if m.Config.MediaType != "" {
		parts = append(parts, "config "+clip(m.Config.MediaType))
	}
	seen := map[string]bool{}
	for _, l := range m.Layers {
		if !seen[l.MediaType] && len(seen) < 4 {
			seen[l.MediaType] = true
			parts = append(parts, "layer "+clip(l.MediaType))
		}
	}
	return fmt.Sprintf("artifact (%s; %d layers)", strings.Join(parts, ", "), len(m.Layers))
}

// hasPrefix reports whether the artifact type, the config or any layer has a media type with one of the prefixes.
func (m *manifest) hasPrefix(prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(m.ArtifactType, p) || strings.HasPrefix(m.Config.MediaType, p) {
			return true
		}
		for _, l := range m.Layers {
			if strings.HasPrefix(l.MediaType, p) {
				return true
			}
		}
	}
	return false
}

func annotationSize(a map[string]string) int {
	n := 0
	for k, v := range a {
		n += len(k) + len(v)
	}
	return n
}

func hasKeyPrefix(a map[string]string, prefix string) bool {
	for k := range a {
		if strings.HasPrefix(k, prefix) {
			return true
		}
	}
	return false
}

// clip bounds foreign text in messages.
func clip(s string) string {
	const most = 120
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
