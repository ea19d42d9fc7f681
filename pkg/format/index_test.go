package format

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/model-csi/model-csi/pkg/model"
)

// entry is one descriptor of an index; name stands for its digest.
type entry struct {
	name, platform, artifactType, mediaType string
	annotations                             map[string]string
	labels                                  string
}

func indexOf(t testing.TB, mediaType string, entries ...entry) []byte {
	t.Helper()
	var list []map[string]any
	for _, e := range entries {
		d := map[string]any{"digest": digest.FromString(e.name), "size": len(e.name), "mediaType": e.mediaType}
		if e.mediaType == "" {
			d["mediaType"] = specs.MediaTypeImageManifest
		}
		if e.platform != "" {
			p := strings.SplitN(e.platform+"//", "/", 4)
			d["platform"] = map[string]string{"os": p[0], "architecture": p[1], "variant": p[2]}
		}
		if e.artifactType != "" {
			d["artifactType"] = e.artifactType
		}
		if e.annotations != nil {
			d["annotations"] = e.annotations
		}
		if e.labels != "" {
			d["modelMetadata"] = json.RawMessage(e.labels)
		}
		list = append(list, d)
	}
	out, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": mediaType, "manifests": list})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSelect(t *testing.T) {
	const modelType = "application/vnd.cncf.model.manifest.v1+json"
	attestation := map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	olot := map[string]string{"io.opendatahub.modelcar.manifest.type": "modelpack"}
	for _, c := range []struct {
		name    string
		entries []entry
		sel     model.Selection
		want    string // name of the entry, or an error's kind and part of its text
	}{
		{"only one, other platform", []entry{{name: "a", platform: "linux/s390x"}}, model.Selection{Node: "linux/amd64"}, "a"},
		{"platform", []entry{{name: "a", platform: "linux/amd64"}, {name: "b", platform: "linux/arm64"}}, model.Selection{Node: "linux/arm64"}, "b"},
		{"arm64 has variant v8", []entry{{name: "a", platform: "linux/amd64"}, {name: "b", platform: "linux/arm64/v8"}}, model.Selection{Node: "linux/arm64"}, "b"},
		{"first match wins", []entry{{name: "a", platform: "linux/amd64"}, {name: "b", platform: "linux/amd64"}}, model.Selection{Node: "linux/amd64"}, "a"},
		{"exact variant first", []entry{{name: "a", platform: "linux/arm/v6"}, {name: "b", platform: "linux/arm/v7"}}, model.Selection{Node: "linux/arm/v7"}, "b"},
		{"plain before variant", []entry{{name: "a", platform: "linux/amd64/v3"}, {name: "b", platform: "linux/amd64"}}, model.Selection{Node: "linux/amd64"}, "b"},
		{"any variant when none is asked for", []entry{{name: "a", platform: "linux/amd64/v3"}, {name: "b", platform: "linux/arm64"}}, model.Selection{Node: "linux/amd64"}, "a"},
		{"no platform fits", []entry{{name: "a", platform: "linux/amd64"}, {name: "b", platform: "windows/amd64"}}, model.Selection{Node: "linux/arm64"}, "not found: it lists sha256:"},
		{"several without platform", []entry{{name: "a"}, {name: "b"}}, model.Selection{Node: "linux/amd64"}, "not found: none for platform"},
		{"attestations do not count", []entry{
			{name: "a", platform: "linux/amd64"}, {name: "b", platform: "unknown/unknown", annotations: attestation},
			{name: "c", platform: "unknown/unknown"}, {name: "d", artifactType: "application/vnd.in-toto+json"},
		}, model.Selection{Node: "linux/arm64"}, "a"},
		{"unknown types do not count", []entry{{name: "a", mediaType: "application/vnd.example+json"}, {name: "b"}}, model.Selection{}, "b"},
		{"same manifest twice", []entry{{name: "a", platform: "linux/amd64"}, {name: "a", platform: "linux/amd64/v2"}}, model.Selection{Node: "linux/arm64"}, "a"},
		{"model before images", []entry{{name: "a", platform: "linux/amd64"}, {name: "b", artifactType: modelType}}, model.Selection{Node: "linux/amd64"}, "b"},
		{"olot's model", []entry{{name: "a", platform: "linux/amd64"}, {name: "b", platform: "unknown/unknown", annotations: olot}}, model.Selection{Node: "linux/amd64"}, "b"},
		{"platform that is asked for", []entry{{name: "a", platform: "linux/amd64"}, {name: "b", platform: "linux/arm64"}}, model.Selection{Node: "linux/amd64", Platform: "linux/arm64"}, "b"},
		{"even before a model", []entry{{name: "a", platform: "linux/amd64"}, {name: "b", artifactType: modelType}}, model.Selection{Node: "linux/amd64", Platform: "linux/amd64"}, "a"},
		{"model of the platform first", []entry{{name: "a", platform: "linux/amd64"}, {name: "b", platform: "linux/amd64", artifactType: modelType}}, model.Selection{Platform: "linux/amd64"}, "b"},
		{"the only one is not it", []entry{{name: "a", platform: "linux/amd64"}}, model.Selection{Node: "linux/amd64", Platform: "linux/arm64"}, "not found: no entry for platform linux/arm64; it lists"},
		{"platform and labels", []entry{{name: "a", platform: "linux/amd64", labels: `{"q":1}`}, {name: "b", platform: "linux/arm64", labels: `{"q":1}`}}, model.Selection{Platform: "linux/arm64", Labels: map[string]string{"q": "1"}}, "b"},
		{"image view", []entry{{name: "a", platform: "linux/amd64"}, {name: "b", artifactType: modelType}}, model.Selection{Node: "linux/amd64", Image: true}, "a"},
		{"several models", []entry{{name: "a", platform: "linux/amd64"}, {name: "b", artifactType: modelType}, {name: "c", artifactType: modelType}}, model.Selection{Node: "linux/amd64"}, "not found: " + modelType},
		{"nested index", []entry{{name: "a", mediaType: specs.MediaTypeImageIndex}}, model.Selection{}, "a"},
		{"empty", nil, model.Selection{}, "not found: no manifest"},
		{"only attestations", []entry{{name: "a", annotations: attestation}}, model.Selection{}, "not found: 1 entries"},
		{"labels", []entry{{name: "a", labels: `{"quant":"q4","ctx":4096}`}, {name: "b", labels: `{"quant":"q8","ctx":4096}`}}, model.Selection{Labels: map[string]string{"quant": "q8", "ctx": "4096"}}, "b"},
		{"labels, none", []entry{{name: "a", labels: `{"quant":"q4"}`}}, model.Selection{Labels: map[string]string{"quant": "q8"}}, "not found: quant=q4"},
		{"labels, several", []entry{{name: "a", labels: `{"quant":"q4"}`}, {name: "b", labels: `{"quant":"q4"}`}}, model.Selection{Labels: map[string]string{"quant": "q4"}}, "not found: 2 entries with these labels"},
		{"labels, not an object", []entry{{name: "a", labels: `[1]`}}, model.Selection{Labels: map[string]string{"quant": "q8"}}, "not found: 0 entries"},
		{"labels not asked for", []entry{{name: "a", labels: `{"quant":"q4"}`, annotations: map[string]string{"ml.kitops.modelkit.original-tag": "v1-q4"}}, {name: "b"}}, model.Selection{Node: "linux/amd64"}, "not found: tag v1-q4 quant=q4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, mediaType := range []string{specs.MediaTypeImageIndex, typeDockerList} {
				got, err := Select(indexOf(t, mediaType, c.entries...), mediaType+"; charset=utf-8", c.sel)
				if kind, text, wantErr := strings.Cut(c.want, ": "); wantErr {
					if err == nil || kindOf(err) != kind || !strings.Contains(err.Error(), text) {
						t.Errorf("got %v, %v; want an error %q", got, err, c.want)
					}
					continue
				}
				if err != nil || got.Digest != digest.FromString(c.want) || got.Size != int64(len(c.want)) {
					t.Errorf("got %v, %v; want %s", got, err, c.want)
				}
			}
		})
	}
}

func TestSelectRefusesWhatIsNoIndex(t *testing.T) {
	for name, c := range map[string]struct{ doc, mediaType, kind string }{
		"manifest":        {`{"schemaVersion":2,"layers":[]}`, specs.MediaTypeImageManifest, "invalid"},
		"manifest type":   {`{"schemaVersion":2,"manifests":[]}`, specs.MediaTypeImageManifest, "invalid"},
		"both":            {`{"schemaVersion":2,"manifests":[],"layers":[]}`, specs.MediaTypeImageIndex, "invalid"},
		"body disagrees":  {`{"schemaVersion":2,"mediaType":"` + typeDockerList + `","manifests":[]}`, specs.MediaTypeImageIndex, "invalid"},
		"negative size":   {`{"manifests":[{"mediaType":"` + specs.MediaTypeImageManifest + `","digest":"` + digest.FromString("").String() + `","size":-5}]}`, "", "invalid"},
		"bad digest":      {`{"manifests":[{"mediaType":"` + specs.MediaTypeImageManifest + `","digest":"sha256:1","size":5}]}`, "", "invalid"},
		"schema 1":        {`{"schemaVersion":1,"fsLayers":[]}`, "", "unsupported"},
		"not an object":   {`[]`, "", "invalid"},
		"too many":        {`{"manifests":[` + strings.Repeat("{},", maxLayers) + `{}]}`, "", "too large"},
		"too large":       {`{"manifests":[]}` + strings.Repeat(" ", maxManifest), "", "too large"},
		"manifests twice": {`{"manifests":[],"manifests":[]}`, "", "invalid"},
	} {
		if got, err := Select([]byte(c.doc), c.mediaType, model.Selection{Node: "linux/amd64"}); err == nil || kindOf(err) != c.kind {
			t.Errorf("%s: got %v, %v; want an error of kind %s", name, got, err, c.kind)
		}
	}
}

// TestSelectByShape: without any media type the content says that it is an index.
func TestSelectByShape(t *testing.T) {
	index := indexOf(t, "", entry{name: "a", platform: "linux/amd64"})
	got, err := Select(index, "application/json", model.Selection{Node: "linux/amd64"})
	if err != nil || got.Digest != digest.FromString("a") || got.MediaType != specs.MediaTypeImageManifest {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := Parse(Input{Manifest: index}); kindOf(err) != "invalid" {
		t.Errorf("Parse of an index gave %v, want %v", err, model.ErrInvalid)
	}
}
