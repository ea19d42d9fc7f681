package format

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestManifestLimits(t *testing.T) {
	layer := func(annotations int) string {
		return fmt.Sprintf(`{"mediaType":"application/vnd.cncf.model.weight.v1.raw","digest":%q,"size":1,"annotations":{"k":%q}}`,
			digest.FromString("x"), strings.Repeat("v", annotations))
	}
	for name, c := range map[string]struct{ doc, kind string }{
		"all is well":         {`{"layers":[` + layer(10) + `]}`, ""},
		"layer annotations":   {`{"layers":[` + layer(maxAnnotations) + `]}`, "too large"},
		"annotations":         {`{"layers":[` + layer(1) + `],"annotations":{"k":"` + strings.Repeat("v", maxManifestAnnotations) + `"}}`, "too large"},
		"layers":              {`{"layers":[` + strings.Repeat(layer(1)+",", maxLayers) + layer(1) + `]}`, "too large"},
		"bytes":               {`{"layers":[` + layer(1) + `]}` + strings.Repeat(" ", maxManifest), "too large"},
		"depth":               {`{"layers":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`, "invalid"},
		"layer is no object":  {`{"layers":[7]}`, "invalid"},
		"layers is no list":   {`{"layers":{}}`, "invalid"},
		"config is no object": {`{"layers":[` + layer(1) + `],"config":[]}`, "invalid"},
		"config is null":      {`{"layers":[` + layer(1) + `],"config":null}`, ""},
		"bad config digest":   {`{"layers":[` + layer(1) + `],"config":{"digest":"x"}}`, "invalid"},
		"annotation types":    {`{"layers":[` + layer(1) + `],"annotations":{"k":1}}`, "invalid"},
		"trailing document":   {`{"layers":[` + layer(1) + `]}{"layers":[]}`, "invalid"},
	} {
		_, err := Parse(Input{Manifest: []byte(c.doc)})
		if kind := kindOf(err); err == nil && c.kind != "" || err != nil && kind != c.kind {
			t.Errorf("%s: got %v (%s), want kind %q", name, err, kind, c.kind)
		}
	}
}

// TestContentType: what a plain file server sends says nothing; what a registry sends must agree, parameters aside.
func TestContentType(t *testing.T) {
	f := loadFixture(t, "testdata/modelpack/modctl-raw")
	for mediaType, ok := range map[string]bool{
		"":                          true,
		"application/json":          true,
		"application/octet-stream":  true,
		"text/plain; charset=utf-8": true,
		"application/vnd.oci.image.manifest.v1+json":               true,
		"Application/Vnd.OCI.image.manifest.v1+json; charset=utf8": true,
		"application/vnd.oci.image.index.v1+json":                  false,
		typeDockerManifest:   false,
		typeDockerSchema1:    false,
		"application/x-what": false,
	} {
		in := f.in
		in.MediaType = mediaType
		if _, err := Parse(in); (err == nil) != ok {
			t.Errorf("%q: got %v", mediaType, err)
		}
	}
}

// TestConfigNeverMatters: whatever the config says, the files of a ModelPack are where they are.
func TestConfigNeverMatters(t *testing.T) {
	f := loadFixture(t, "testdata/modelpack/modctl-raw")
	want, err := f.describe(t)
	if err != nil {
		t.Fatal(err)
	}
	for _, config := range []string{"", "{}", "null", "[]", "not json", `{"modelfs":{"diffIds":["sha256:00"]}}`} {
		f.in.Config = []byte(config)
		if got, err := f.describe(t); err != nil || got != want {
			t.Errorf("config %q: got %v\n%s", config, err, got)
		}
	}
}

// TestNeededWithSelection: what a selection leaves out is not fetched, except archives.
func TestNeededWithSelection(t *testing.T) {
	f := loadFixture(t, "testdata/modelpack/exclude")
	p, err := Parse(f.in)
	if err != nil {
		t.Fatal(err)
	}
	all, some, none := p.Needed(nil), p.Needed(f.keep), p.Needed(func(string) bool { return false })
	if len(all) != 3 || len(some) != 2 || len(none) != 1 || !none[0].Archive {
		t.Errorf("needed %d, %d and %d layers, want 3, 2 and the archive", len(all), len(some), len(none))
	}
	if _, err := p.Tree(f.lookup(t), func(string) bool { return false }); kindOf(err) != "invalid" {
		t.Errorf("an empty selection gave %v", err)
	}
}

// TestFormatsAreDetectedOnce: every good fixture is claimed by the format whose directory it is in, and reading it as
// that format by name gives the same files.
func TestFormatsAreDetectedOnce(t *testing.T) {
	for _, d := range Names() {
		for _, dir := range fixtureDirs(t, d.Name) {
			f := loadFixture(t, dir)
			p, err := Parse(f.in)
			if err != nil || f.in.Format != "" {
				continue
			}
			if p.Format != d.Name {
				t.Errorf("%s is read as %s", dir, p.Format)
			}
			forced := f.in
			forced.Format = d.Name
			q, err := Parse(forced)
			if err != nil || !slices.Equal(p.Layers, q.Layers) && d.Name != "generic" {
				t.Errorf("%s: named format gives %v, %v; detected %v", dir, q.Layers, err, p.Layers)
			}
		}
	}
}

// TestPlanIsData: a plan survives JSON, so that it can be stored with a pull.
func TestPlanIsData(t *testing.T) {
	for _, dir := range fixtureDirs(t, "*") {
		f := loadFixture(t, dir)
		p, err := Parse(f.in)
		if err != nil {
			continue
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var q Plan
		if err := json.Unmarshal(text, &q); err != nil {
			t.Fatal(err)
		}
		want, err1 := p.Tree(f.lookup(t), nil)
		got, err2 := q.Tree(f.lookup(t), nil)
		if (err1 == nil) != (err2 == nil) || got.Digest() != want.Digest() {
			t.Errorf("%s: tree differs after JSON: %v, %v", dir, err1, err2)
		}
	}
}

// TestDuplicateOrder: of archives as of files, the later layer wins.
func TestDuplicateOrder(t *testing.T) {
	member := func(content string) []model.Member {
		return []model.Member{{Name: "x", Mode: 0o644, Blob: model.Blob{Digest: digest.FromString(content), Size: 1}}}
	}
	lists := map[digest.Digest][]model.Member{digest.FromString("a"): member("from a"), digest.FromString("b"): member("from b")}
	a := Layer{Blob: model.Blob{Digest: digest.FromString("a")}, Archive: true}
	b := Layer{Blob: model.Blob{Digest: digest.FromString("b")}, Archive: true}
	for want, layers := range map[string][]Layer{"from b": {a, b}, "from a": {b, a}} {
		tree, err := Plan{Layers: layers}.Tree(func(d digest.Digest) []model.Member { return lists[d] }, nil)
		if err != nil || len(tree) != 1 || tree[0].Blob.Digest != digest.FromString(want) {
			t.Errorf("got %v, %v; want the file %s", tree, err, want)
		}
	}
}
