package pack_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/model-csi/model-csi/pkg/inspect"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pack"
)

// sound is an artifact without fault, to be spoilt.
func sound(t *testing.T, names pack.Names) (ocispec.Manifest, []byte) {
	t.Helper()
	m, _ := push(t, directory(t, files), pack.Options{Names: names})
	manifest := m.parsed(t)
	return manifest, m.blobs[manifest.Config.Digest]
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestValidateManifest(t *testing.T) {
	const path, metadata, untested = "org.cncf.model.filepath", "org.cncf.model.file.metadata+json", "org.cncf.model.file.mediatype.untested"
	tests := map[string]struct {
		spoil func(m *ocispec.Manifest)
		want  string // level and place
	}{
		"mediaType":       {func(m *ocispec.Manifest) { m.MediaType = "" }, "error: manifest: mediaType"},
		"schemaVersion":   {func(m *ocispec.Manifest) { m.SchemaVersion = 1 }, "error: manifest: schemaVersion"},
		"artifactType":    {func(m *ocispec.Manifest) { m.ArtifactType = "" }, "error: manifest: artifactType"},
		"config type":     {func(m *ocispec.Manifest) { m.Config.MediaType = ocispec.MediaTypeEmptyJSON }, "error: manifest: config.mediaType"},
		"config digest":   {func(m *ocispec.Manifest) { m.Config.Digest = "md5:x" }, "error: manifest: config.digest"},
		"layer size":      {func(m *ocispec.Manifest) { m.Layers[1].Size = -1 }, "error: manifest: layers[1].size"},
		"layer type":      {func(m *ocispec.Manifest) { m.Layers[0].MediaType = "application/x" }, "warning: manifest: layers[0].mediaType"},
		"no layer":        {func(m *ocispec.Manifest) { m.Layers = nil }, "error: manifest: layers"},
		"a layer too few": {func(m *ocispec.Manifest) { m.Layers = m.Layers[1:] }, "error: config: modelfs.diffIds"},
		"another order":   {func(m *ocispec.Manifest) { slices.Reverse(m.Layers) }, "error: config: modelfs.diffIds[0]"},
		"path":            {func(m *ocispec.Manifest) { m.Layers[0].Annotations[path] = "../x" }, `error: manifest: layers[0].annotations["` + path + `"]`},
		"no path":         {func(m *ocispec.Manifest) { delete(m.Layers[0].Annotations, path) }, `warning: manifest: layers[0].annotations["` + path + `"]`},
		"path twice":      {func(m *ocispec.Manifest) { m.Layers[1].Annotations[path] = m.Layers[0].Annotations[path] }, "error: manifest: layers[1]"},
		"no attributes":   {func(m *ocispec.Manifest) { delete(m.Layers[0].Annotations, metadata) }, `error: manifest: layers[0].annotations["` + metadata + `"]`},
		"some attributes": {func(m *ocispec.Manifest) {
			m.Layers[0].Annotations[metadata] = `{"name":"x","uid":0,"gid":0,"mode":420}`
		}, `error: manifest: layers[0].annotations["` + metadata + `"]`},
		"bad attributes": {func(m *ocispec.Manifest) { m.Layers[0].Annotations[metadata] = `[` }, `error: manifest: layers[0].annotations["` + metadata + `"]`},
		"time": {func(m *ocispec.Manifest) {
			m.Layers[0].Annotations[metadata] = `{"uid":0,"gid":0,"mode":420,"mtime":"x"}`
		}, `error: manifest: layers[0].annotations["` + metadata + `"]`},
		"untested":         {func(m *ocispec.Manifest) { m.Layers[0].Annotations[untested] = "no" }, `warning: manifest: layers[0].annotations["` + untested + `"]`},
		"compressed layer": {func(m *ocispec.Manifest) { m.Layers[1].MediaType = "application/vnd.cncf.model.weight.v1.tar+gzip" }, "warning: manifest: layers[1].mediaType"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m, config := sound(t, pack.ModelPack)
			tt.spoil(&m)
			for _, f := range pack.Validate(encode(t, m), config, nil) {
				if strings.HasPrefix(f.String(), tt.want+": ") {
					return
				}
			}
			t.Errorf("%q is not among %v", tt.want, pack.Validate(encode(t, m), config, nil))
		})
	}
	if found := pack.Validate([]byte("{"), nil, nil); len(found) != 1 {
		t.Errorf("%v", found)
	}
	m, _ := sound(t, pack.ModelPack)
	if found := pack.Validate(encode(t, m), nil, nil); len(found) != 1 || found[0].Where != "manifest: config" {
		t.Errorf("without a config: %v", found)
	}
}

// What is written under the older names is as they were: nothing but the names is found.
func TestOlderNames(t *testing.T) {
	m, config := sound(t, pack.CNAI)
	if strings.Contains(string(encode(t, m)), "cncf") || !strings.Contains(string(config), "diff_ids") {
		t.Errorf("%s", config)
	}
	if found := pack.Validate(encode(t, m), config, nil); len(found) != 1 || found[0].Level != pack.LevelWarning {
		t.Errorf("%v", found)
	}
}

func TestValidateConfig(t *testing.T) {
	const (
		fs   = `"modelfs":{"type":"layers","diffIds":["sha256:x"]}`
		good = `{"descriptor":{"name":"m","createdAt":"2025-01-01T00:00:00Z","licenses":["Apache-2.0","MIT OR (BSD-3-Clause AND ISC)"]},"config":{"paramSize":"6.7B","capabilities":{"inputTypes":["text"],"languages":["en"],"reasoning":true,"knowledgeCutoff":"2024-05-21T00:00:00Z"}},` + fs + `}`
	)
	tests := map[string]struct{ config, want string }{
		"good":           {good, ""},
		"not JSON":       {`{`, "error: config: not valid JSON"},
		"two values":     {good + "{}", "error: config: not valid JSON"},
		"a list":         {`[]`, "error: config: top level: "},
		"no descriptor":  {`{"config":{},` + fs + `}`, "error: config: top level: missing property 'descriptor'"},
		"no config":      {`{"descriptor":{},` + fs + `}`, "error: config: top level: missing property 'config'"},
		"no modelfs":     {`{"descriptor":{},"config":{}}`, "error: config: top level: missing property 'modelfs'"},
		"unknown field":  {`{"descriptor":{"nmae":"x"},"config":{},` + fs + `}`, "error: config: descriptor: additional properties 'nmae' not allowed"},
		"type":           {`{"descriptor":{"name":7},"config":{},` + fs + `}`, "error: config: descriptor.name: got number, want string"},
		"empty name":     {`{"descriptor":{"name":""},"config":{},` + fs + `}`, "error: config: descriptor.name: "},
		"date":           {`{"descriptor":{"createdAt":"yesterday"},"config":{},` + fs + `}`, "error: config: descriptor.createdAt: "},
		"cut-off":        {`{"descriptor":{},"config":{"capabilities":{"knowledgeCutoff":"2024"}},` + fs + `}`, "error: config: config.capabilities.knowledgeCutoff: "},
		"modality":       {`{"descriptor":{},"config":{"capabilities":{"inputTypes":["text","smell"]}},` + fs + `}`, "error: config: config.capabilities.inputTypes[1]: "},
		"language":       {`{"descriptor":{},"config":{"capabilities":{"languages":["english"]}},` + fs + `}`, "error: config: config.capabilities.languages[0]: "},
		"modelfs type":   {`{"descriptor":{},"config":{},"modelfs":{"type":"files","diffIds":["x"]}}`, "error: config: modelfs.type: "},
		"no diff ids":    {`{"descriptor":{},"config":{},"modelfs":{"type":"layers","diffIds":[]}}`, "error: config: modelfs.diffIds: "},
		"older key":      {`{"descriptor":{},"config":{},"modelfs":{"type":"layers","diff_ids":["x"]}}`, "error: config: modelfs: "},
		"size":           {`{"descriptor":{},"config":{"paramSize":"7 billion"},` + fs + `}`, "error: config: config.paramSize: "},
		"two decimals":   {`{"descriptor":{},"config":{"paramSize":"7.25B"},` + fs + `}`, "error: config: config.paramSize: "},
		"license":        {`{"descriptor":{"licenses":["Llama 3 Community"]},"config":{},` + fs + `}`, "warning: config: descriptor.licenses[0]: "},
		"of v0.0.7":      {`{"descriptor":{},"config":{"capabilities":{"embedding":true}},` + fs + `}`, "warning: config: config.capabilities.embedding: "},
		"empty document": {``, "error: config: not valid JSON"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			found := pack.ValidateConfig(pack.ModelPack, []byte(tt.config), nil)
			if tt.want == "" && len(found) > 0 || tt.want != "" && !slices.ContainsFunc(found, func(f pack.Finding) bool { return strings.HasPrefix(f.String(), tt.want) }) {
				t.Errorf("%v", found)
			}
		})
	}
}

// Every field that can be set ends in the config where the specification has it.
func TestSettings(t *testing.T) {
	values := map[string]string{
		"createdAt": "2025-01-31", "knowledgeCutoff": "2024-05-21T00:00:00Z", "reasoning": "true", "toolUsage": "false", "reward": "true", "languages": "en, de",
		"inputTypes": "text,image", "outputTypes": "embedding", "paramSize": "7B", "licenses": "MIT,Apache-2.0",
	}
	var c pack.Config
	for _, key := range pack.Keys() {
		value := values[key]
		if value == "" {
			value = "x"
		}
		if err := c.Set(key + "=" + value); err != nil {
			t.Errorf("%s: %v", key, err)
		}
	}
	config, err := c.JSON(pack.ModelPack, []digest.Digest{digest.FromString("x")})
	if err != nil {
		t.Fatal(err)
	}
	if found := pack.ValidateConfig(pack.ModelPack, config, nil); len(found) > 0 {
		t.Errorf("%v", found)
	}
	for _, key := range pack.Keys() {
		if !strings.Contains(string(config), `"`+key+`":`) {
			t.Errorf("%s is not in %s", key, config)
		}
		if err := c.Set(key + "="); err != nil {
			t.Errorf("removing %s: %v", key, err)
		}
	}
	if config, err = c.JSON(pack.ModelPack, []digest.Digest{"sha256:x"}); err != nil || string(config) != `{"descriptor":{},"modelfs":{"type":"layers","diffIds":["sha256:x"]},"config":{}}` {
		t.Errorf("%s, %v", config, err)
	}
	for setting, want := range map[string]string{
		"familly=x": `did you mean "family"?`, "name": "key=value", "config.name=x": "no field", "descriptor.name=x": "", "config.capabilities.toolUsage=yes": "neither true",
		"toolUsage=true": "", "createdAt=soon": "not a date", "inputTypes=smell": "not one of", "languages=english": "two lower case", "paramSize=big": "such as 7B",
	} {
		err := c.Set(setting)
		if want == "" && err != nil || want != "" && (!errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", setting, err)
		}
	}
}

func TestLayoutIsVerified(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	l, err := pack.NewLayout(dir, "v1")
	if err != nil {
		t.Fatal(err)
	}
	inv := scan(t, directory(t, files), pack.ScanOptions{})
	for range 2 {
		if _, err := pack.Push(t.Context(), inv, pack.Config{}, l, pack.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	found, err := pack.ValidateLayout(dir, "v1", true, nil)
	if err != nil || len(found) > 0 {
		t.Fatalf("%v, %v", found, err)
	}
	weights := filepath.Join(dir, "blobs/sha256", digest.FromString("weights").Encoded())
	for name, tt := range map[string]struct {
		content string
		full    bool
		want    string
	}{"short": {"w", false, "another size"}, "other": {"WEIGHTS", true, "other content"}, "unseen": {"WEIGHTS", false, ""}} {
		if err := os.WriteFile(weights, []byte(tt.content), 0o644); err != nil {
			t.Fatal(err)
		}
		found, err := pack.ValidateLayout(dir, "", tt.full, nil)
		if err != nil || (tt.want == "") != (len(found) == 0) || tt.want != "" && !strings.Contains(found[0].Message, tt.want) {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
	if err := os.Remove(weights); err != nil {
		t.Fatal(err)
	}
	if found, err = pack.ValidateLayout(dir, "", false, nil); err != nil || len(found) != 2 || !strings.Contains(found[0].Message, "is not in the layout") {
		t.Errorf("%v, %v", found, err)
	}
	if _, err := pack.ValidateLayout(dir, "v2", false, nil); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := pack.ValidateLayout(t.TempDir(), "", false, nil); !errors.Is(err, model.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if _, err := pack.NewLayout(directory(t, files), ""); !errors.Is(err, model.ErrInvalid) {
		t.Errorf("%v", err)
	}
}

func TestCheck(t *testing.T) {
	inv := scan(t, directory(t, map[string]string{"odd": "x"}), pack.ScanOptions{})
	found := pack.Check(inv, []inspect.Problem{{Path: "a.safetensors", Err: model.ErrCorrupt}})
	if len(found) != 3 || found[0].Level != pack.LevelError || found[1].Level != pack.LevelWarning || found[2].Where != "odd" {
		t.Errorf("%v", found)
	}
}

func FuzzValidate(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"layers":[{"annotations":{"org.cncf.model.file.metadata+json":"{}"}}]}`), []byte(`{"descriptor":{},"config":{},"modelfs":{"type":"layers","diffIds":["x"]}}`))
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		found := pack.Validate(manifest, config, nil)
		for _, finding := range found {
			if finding.Where == "" || finding.Message == "" {
				t.Errorf("%+v", finding)
			}
		}
	})
}
