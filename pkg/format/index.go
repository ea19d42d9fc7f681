package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/model-csi/model-csi/pkg/model"
)

// Chosen is the entry of an index that was selected. It can be an index again; the caller bounds how deep it follows.
type Chosen struct {
	Digest    digest.Digest
	Size      int64
	MediaType string
}

// Select picks the entry of an index. Attestations and what is no manifest are left out. What want asks for decides: the
// platform, labels. Then a model artifact comes before images; then the only entry is taken whatever its platform, and of
// several the first for the node's platform. Where nothing fits it fails with model.ErrNotFound and lists what is there,
// because any other choice would be a random model.
func Select(index []byte, mediaType string, want model.Selection) (Chosen, error) {
	m, err := parseDocument(index, mediaType)
	if err != nil {
		return Chosen{}, err
	}
	if len(m.Layers) > 0 || isManifestType(m.MediaType) {
		return Chosen{}, fmt.Errorf("index: media type %q is that of a manifest: %w", m.MediaType, model.ErrInvalid)
	}
	all := candidates(m.Manifests)
	if len(all) == 0 {
		return Chosen{}, fmt.Errorf("index lists no manifest that could be a model (%d entries): %w", len(m.Manifests), model.ErrNotFound)
	}
	entries := all
	if want.Platform != "" {
		if entries = forPlatform(all, want.Platform); len(entries) == 0 {
			return Chosen{}, fmt.Errorf("index has no entry for platform %s; it lists %s: %w", clip(want.Platform), list(all), model.ErrNotFound)
		}
	}
	if len(want.Labels) > 0 {
		return byLabels(entries, want.Labels)
	}
	if models := slices.DeleteFunc(slices.Clone(entries), func(d descriptor) bool { return isModelEntry(d) == want.Image }); len(models) > 0 {
		entries = models
	}
	if len(entries) > 1 && want.Platform == "" {
		entries = forPlatform(entries, want.Node)
	}
	if len(entries) == 0 {
		return Chosen{}, fmt.Errorf("index has several entries and none for platform %s; select one as the volume's variant: it lists %s: %w", want.Node, list(all), model.ErrNotFound)
	}
	return chosen(entries[0]), nil
}

// forPlatform keeps the entries for a platform: those that name it exactly, else those whose variant is not known.
func forPlatform(entries []descriptor, platform string) []descriptor {
	for _, fits := range []func(want, has specs.Platform) bool{samePlatform, anyVariant} {
		fitting := slices.DeleteFunc(slices.Clone(entries), func(d descriptor) bool {
			return d.Platform == nil || !fits(parsePlatform(platform), normalise(*d.Platform))
		})
		if len(fitting) > 0 {
			return fitting
		}
	}
	return nil
}

func chosen(d descriptor) Chosen {
	return Chosen{Digest: d.Digest, Size: d.Size, MediaType: d.MediaType}
}

// candidates leaves out attestations, entries of unknown types, and the second mention of a manifest.
func candidates(entries []descriptor) []descriptor {
	seen := map[digest.Digest]bool{}
	var out []descriptor
	for _, d := range entries {
		known := isManifestType(d.MediaType) || isIndexType(d.MediaType)
		if !known || seen[d.Digest] || isAttestation(d) {
			continue
		}
		seen[d.Digest] = true
		out = append(out, d)
	}
	return out
}

func isAttestation(d descriptor) bool {
	if d.Annotations["vnd.docker.reference.type"] != "" || strings.Contains(d.ArtifactType, "in-toto") {
		return true
	}
	p := d.Platform
	return p != nil && p.OS == "unknown" && p.Architecture == "unknown" && !isModelEntry(d)
}

func isModelEntry(d descriptor) bool {
	return strings.HasPrefix(d.ArtifactType, prefixModelPack) || strings.HasPrefix(d.ArtifactType, prefixCNAI) ||
		d.Annotations["io.opendatahub.modelcar.manifest.type"] == "modelpack"
}

// byLabels selects by KitOps' modelMetadata, whose values are JSON: a string, or the text of anything else.
func byLabels(entries []descriptor, want map[string]string) (Chosen, error) {
	var found []descriptor
	for _, d := range entries {
		if labels := d.labels(); matches(labels, want) {
			found = append(found, d)
		}
	}
	if len(found) == 1 {
		return chosen(found[0]), nil
	}
	return Chosen{}, fmt.Errorf("index has %d entries with these labels, one is needed; it lists %s: %w", len(found), list(entries), model.ErrNotFound)
}

func (d *descriptor) labels() map[string]string {
	var raw map[string]json.RawMessage
	if json.Unmarshal(d.Labels, &raw) != nil {
		return nil
	}
	out := make(map[string]string, len(raw))
	for k, v := range raw {
		var text string
		if json.Unmarshal(v, &text) != nil {
			var compact bytes.Buffer
			_ = json.Compact(&compact, v)
			text = compact.String()
		}
		out[k] = text
	}
	return out
}

func matches(has, want map[string]string) bool {
	for k, v := range want {
		if got, ok := has[k]; !ok || got != v {
			return false
		}
	}
	return true
}

func parsePlatform(s string) specs.Platform {
	parts := append(strings.Split(s, "/"), "", "", "")
	return normalise(specs.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]})
}

// normalise makes the two ways to write 64-bit ARM the same.
func normalise(p specs.Platform) specs.Platform {
	if p.Architecture == "arm64" && p.Variant == "v8" {
		p.Variant = ""
	}
	return p
}

func samePlatform(want, has specs.Platform) bool {
	return want.OS == has.OS && want.Architecture == has.Architecture && want.Variant == has.Variant
}

func anyVariant(want, has specs.Platform) bool {
	return want.OS == has.OS && want.Architecture == has.Architecture && (want.Variant == "" || has.Variant == "")
}

// list says for people what an index offers.
func list(entries []descriptor) string {
	const most = 12
	var out []string
	for _, d := range entries {
		if len(out) == most {
			out = append(out, fmt.Sprintf("and %d more", len(entries)-most))
			break
		}
		var parts []string
		if p := d.Platform; p != nil {
			parts = append(parts, strings.TrimSuffix(clip(p.OS)+"/"+clip(p.Architecture)+"/"+clip(p.Variant), "/"))
		}
		if tag := d.Annotations["ml.kitops.modelkit.original-tag"]; tag != "" {
			parts = append(parts, "tag "+clip(tag))
		}
		labels := d.labels()
		for _, k := range slices.Sorted(maps.Keys(labels)) {
			parts = append(parts, clip(k)+"="+clip(labels[k]))
		}
		if d.ArtifactType != "" {
			parts = append(parts, clip(d.ArtifactType))
		}
		out = append(out, strings.TrimSpace(string(d.Digest[:min(len(d.Digest), 19)])+" "+strings.Join(parts, " ")))
	}
	return strings.Join(out, "; ")
}
