package format

import (
	"encoding/json"
	"io/fs"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// fuzzFormat checks, for any manifest, config and members, what callers rely on: an error has a kind, the result is
// the same every time, and a tree holds nothing but blobs that the plan or its archives named.
func fuzzFormat(f *testing.F, name string) {
	for _, dir := range fixtureDirs(f, name) {
		fx := loadFixture(f, dir)
		var all []model.Member
		for _, list := range fx.members {
			all = append(all, list...)
		}
		members, err := json.Marshal(all)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(fx.in.Manifest, fx.in.Config, members)
	}
	f.Fuzz(func(t *testing.T, manifest, config, members []byte) {
		var list []model.Member
		if json.Unmarshal(members, &list) != nil {
			list = nil
		}
		for _, format := range []string{"", name} {
			in := Input{Manifest: manifest, Config: config, Format: format}
			p, err := Parse(in)
			if err != nil {
				requireKind(t, err)
				continue
			}
			checkTree(t, in, p, list)
		}
	})
}

func checkTree(t *testing.T, in Input, p Plan, list []model.Member) {
	known := map[digest.Digest]bool{}
	for _, l := range p.Needed(nil) {
		known[l.Blob.Digest] = true
	}
	for _, m := range list {
		known[m.Blob.Digest] = true
	}
	for _, i := range p.Inline {
		known[i.Blob().Digest] = true
	}
	members := func(digest.Digest) []model.Member { return list }
	tree, err := p.Tree(members, nil)
	if err != nil {
		requireKind(t, err)
		return
	}
	for _, b := range tree.Blobs() {
		if !known[b.Digest] {
			t.Errorf("tree holds blob %s, which nothing named", b.Digest)
		}
	}
	again, err := Parse(in)
	if err != nil {
		t.Fatalf("the second time: %v", err)
	}
	same, err := again.Tree(members, nil)
	if err != nil || same.Digest() != tree.Digest() {
		t.Errorf("the second time it is another tree: %v", err)
	}
	cache := HubCache{Repository: "org/name", Commit: strings.Repeat("0", 40)}
	shown, err := cache.Tree(tree)
	if err != nil {
		requireKind(t, err)
		return
	}
	if want := len(tree) + len(cache.Refs()); len(shown) != want {
		t.Errorf("as a cache it has %d entries, want %d", len(shown), want)
	}
	if _, err := Merge([]Placed{{Tree: tree}, {Dir: "mounted", Tree: tree}}); err != nil {
		requireKind(t, err)
	}
}

func requireKind(t *testing.T, err error) {
	t.Helper()
	if kindOf(err) == "none" {
		t.Errorf("error has no kind: %v", err)
	}
}

func FuzzModelPack(f *testing.F)   { fuzzFormat(f, "modelpack") }
func FuzzCNAI(f *testing.F)        { fuzzFormat(f, "cnai") }
func FuzzKitOps(f *testing.F)      { fuzzFormat(f, "kitops") }
func FuzzOllama(f *testing.F)      { fuzzFormat(f, "ollama") }
func FuzzDockerModel(f *testing.F) { fuzzFormat(f, "docker-model") }
func FuzzImage(f *testing.F)       { fuzzFormat(f, "image") }
func FuzzHub(f *testing.F)         { fuzzFormat(f, "huggingface") }
func FuzzGeneric(f *testing.F)     { fuzzFormat(f, "generic") }

// FuzzLayers puts foreign words into a manifest that is otherwise right, which reaches deeper than bytes that have to
// stay JSON: two layers with a type, a path, a title and a name each, a config type, and one archive's members.
func FuzzLayers(f *testing.F) {
	const words = "application/vnd.cncf.model.manifest.v1+json|application/vnd.cncf.model.config.v1+json|application/vnd.cncf.model.weight.v1.tar|a/b/c|t|application/vnd.cncf.model.doc.v1.raw|x/y|t/u"
	f.Add(words, "{}", "f c\nd d\nl l d\nh h c")
	f.Add("|application/vnd.kitops.modelkit.config.v1+json|application/vnd.kitops.modelkit.model.v1.tar||||application/vnd.kitops.modelkit.docs.v1.raw+gzip|d", `{"model":{"path":"a/b"},"datasets":[{"remotePath":"s3://x"}]}`, "f b")
	f.Add("|application/vnd.docker.container.image.v1+json|application/vnd.ollama.image.model|||application/vnd.ollama.image.json||", `{"model_format":"gguf"}`, "")
	f.Add("|application/vnd.docker.ai.model.config.v0.1+json|application/vnd.docker.ai.gguf.v3|||application/vnd.docker.ai.dir.tar||", "", "f a\nf b")
	f.Add("|application/vnd.oci.image.config.v1+json|application/vnd.oci.image.layer.v1.tar|||application/vnd.oci.image.layer.v1.tar||", `{"rootfs":{"diff_ids":["x"]}}`, "f models/a\nl l /models/a")
	f.Add("|application/vnd.oci.empty.v1+json|application/vnd.oci.image.layer.v1.tar||allfiles.tar|||", "{}", "f a")
	f.Fuzz(func(t *testing.T, words, config, script string) {
		w := append(strings.Split(words, "|"), make([]string, 8)...)
		var layers []map[string]any
		for i, at := range []int{2, 5} {
			layers = append(layers, map[string]any{
				"mediaType": w[at], "digest": digest.FromString(strconv.Itoa(i)), "size": i, "name": w[at+2],
				"annotations": map[string]string{annotationFilepath: w[at+1], annotationTitle: w[at+2]},
			})
		}
		manifest, err := json.Marshal(map[string]any{
			"schemaVersion": 2, "artifactType": w[0], "layers": layers,
			"config": map[string]any{"mediaType": w[1], "digest": digest.FromString(config), "size": len(config)},
		})
		if err != nil {
			t.Fatal(err)
		}
		in := Input{Manifest: manifest, Config: []byte(config)}
		p, err := Parse(in)
		if err != nil {
			requireKind(t, err)
			return
		}
		var list []model.Member
		for _, line := range splitLines(script, "--")[0] {
			list = append(list, scriptMember(line))
		}
		checkTree(t, in, p, list)
	})
}

// FuzzAnnotations has two layers of any type with any annotations: paths, titles and the attributes of files as producers
// write them into each other.
func FuzzAnnotations(f *testing.F) {
	const raw = "application/vnd.cncf.model.weight.v1.raw"
	f.Add(raw, `{"org.cncf.model.filepath":"a/b","org.cncf.model.file.metadata+json":"{\"name\":\"b\",\"mode\":493}"}`, `{"org.opencontainers.image.title":"c"}`)
	f.Add(raw, `{"org.cnai.model.filepath":"../x","org.cncf.model.file.metadata":"{\"mode\":-1}"}`, `{"org.cncf.model.filepath":"a\u0000b"}`)
	f.Add("application/vnd.oci.image.layer.v1.tar+gzip", `{"org.opencontainers.image.title":"d","io.deis.oras.content.unpack":"true"}`, `null`)
	f.Fuzz(func(t *testing.T, mediaType, first, second string) {
		var layers []map[string]any
		for i, text := range []string{first, second} {
			var annotations map[string]string
			if json.Unmarshal([]byte(text), &annotations) != nil {
				annotations = map[string]string{annotationTitle: text}
			}
			layers = append(layers, map[string]any{"mediaType": mediaType, "digest": digest.FromString(text), "size": i, "annotations": annotations})
		}
		manifest, err := json.Marshal(map[string]any{"schemaVersion": 2, "layers": layers, "annotations": layers[0]["annotations"]})
		if err != nil {
			t.Fatal(err)
		}
		in := Input{Manifest: manifest}
		p, err := Parse(in)
		if err != nil {
			requireKind(t, err)
			return
		}
		checkTree(t, in, p, []model.Member{scriptMember("f " + first), scriptMember("l l " + second)})
	})
}

// FuzzRootFS builds layers from words, which reaches deeper into whiteouts and links than JSON that has to stay valid.
func FuzzRootFS(f *testing.F) {
	f.Add("d a\nf a/b\nl a/l /a/b\n--\nf a/.wh.b\nh a/h a/b")
	f.Add("l lib usr/lib\n--\nd lib\nf lib/.wh..wh..opq\nf lib/x\nf x")
	f.Add("l a b\nl b /c/../../a\nf x\nl c ../../x")
	f.Fuzz(func(t *testing.T, script string) {
		lists := map[digest.Digest][]model.Member{}
		var p Plan
		p.RootFS = true
		for i, layer := range splitLines(script, "--") {
			d := digest.FromString(strconv.Itoa(i))
			p.Layers = append(p.Layers, Layer{Blob: model.Blob{Digest: d}, Archive: true})
			for _, line := range layer {
				lists[d] = append(lists[d], scriptMember(line))
			}
		}
		// That links stay inside is for NewTree to check.
		if _, err := p.Tree(func(d digest.Digest) []model.Member { return lists[d] }, nil); err != nil {
			requireKind(t, err)
		}
	})
}

// splitLines splits a script into parts at lines that equal sep.
func splitLines(script, sep string) [][]string {
	parts := [][]string{nil}
	for line := range strings.Lines(script) {
		line = strings.TrimSuffix(line, "\n")
		if line == sep {
			parts = append(parts, nil)
			continue
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], line)
	}
	return parts
}

// scriptMember reads "f name", "d name", "l name target" or "h name target".
func scriptMember(line string) model.Member {
	kind, rest, _ := strings.Cut(line, " ")
	name, target, _ := strings.Cut(rest, " ")
	m := model.Member{Name: name, Mode: 0o644, Blob: model.Blob{Digest: digest.FromString(line), Size: 1}}
	switch kind {
	case "d":
		m.Mode |= fs.ModeDir
	case "l":
		m.Mode, m.Link = m.Mode|fs.ModeSymlink, target
	case "h":
		m.Hard, m.Link = true, target
	}
	return m
}

func FuzzSelect(f *testing.F) {
	f.Add(indexOf(f, typeDockerList, entry{name: "a", platform: "linux/amd64"}, entry{name: "b", platform: "linux/arm64", labels: `{"a":1}`}), "linux/amd64")
	f.Add(indexOf(f, "", entry{name: "a", platform: "unknown/unknown"}, entry{name: "b", artifactType: prefixCNAI}), "linux/arm/v7")
	f.Fuzz(func(t *testing.T, index []byte, platform string) {
		got, err := Select(index, "", model.Selection{Node: platform})
		if err != nil {
			requireKind(t, err)
			return
		}
		if _, err := model.ParseDigest(got.Digest.String()); err != nil || got.Size < 0 {
			t.Errorf("selected %v", got)
		}
	})
}
