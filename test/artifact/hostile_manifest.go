package artifact

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func rawFile(path, content string) HostileLayer {
	return HostileLayer{MediaType: rawLayer, Path: path, Content: []byte(content)}
}

var safeLayer = rawFile("safe.txt", "safe")

func annotated(name string, codes []string, tree map[string]string, annotations map[string]string) Hostile {
	return Hostile{Name: "annotations: " + name, Codes: codes, Tree: tree, Layers: []HostileLayer{safeLayer, {
		MediaType: rawLayer, Content: []byte("x"), Spoil: func(d *ocispec.Descriptor) { d.Annotations = annotations },
	}}}
}

func hostilePaths(outside string) []Hostile {
	const filepath, legacy, title, metadata = "org.cncf.model.filepath", "org.cnai.model.filepath", ocispec.AnnotationTitle, "org.cncf.model.file.metadata+json"
	withSafe := func(path, what string) map[string]string {
		return map[string]string{"safe.txt": "f safe", path: what}
	}
	out := []Hostile{
		annotated("title up", refused, nil, map[string]string{title: "../../evil"}),
		annotated("older path up", refused, nil, map[string]string{legacy: "../../evil"}),
		annotated("name in the metadata up", refused, nil, map[string]string{metadata: `{"name":"../../evil"}`}),
		annotated("good path, title up", nil, withSafe("good", "f x"), map[string]string{filepath: "good", title: "../../evil"}),
		annotated("setuid in the metadata", nil, withSafe("good", "x x"), map[string]string{filepath: "good", metadata: `{"name":"good","mode":36863,"uid":1000,"gid":1000,"typeflag":51}`}),
		annotated("metadata of another kind", nil, withSafe("good", "f x"), map[string]string{filepath: "good", metadata: `[{"mode":"` + strings.Repeat("7", 1000) + `"}]`}),
		annotated("of 300 KiB", []string{"InvalidArgument", "OutOfRange"}, nil, map[string]string{filepath: "good", "x": strings.Repeat("x", 300<<10)}),
		annotated("with a line end and escapes", nil, withSafe("a\n\x1b[31m", "f x"), map[string]string{filepath: "a\n\x1b[31m"}),
		{Name: "layers: the same path twice", Layers: []HostileLayer{rawFile("a", "first"), rawFile("a", "second")}, Tree: map[string]string{"a": "f second"}},
		{Name: "layers: the same path in other forms", Layers: []HostileLayer{rawFile("a/b", "first"), rawFile("./a//b", "second")}, Tree: map[string]string{"a/b": "f second"}},
		{Name: "layers: the same blob at many paths", Layers: []HostileLayer{rawFile("a", "x"), rawFile("b", "x"), rawFile("c", "x")}, Tree: map[string]string{"a": "f x", "b": "f x", "c": "f x"}},
		{Name: "layers: a file and a directory", Layers: []HostileLayer{rawFile("a", "x"), rawFile("a/b", "y")}, Codes: refused},
		{Name: "layers: an archive's link, and a file through it", Layers: []HostileLayer{{MediaType: tarLayer, Content: archiveOf(symlink("d", "."), safe)}, rawFile("d/evil", "x")}, Codes: refused},
	}
	for _, path := range []string{"../evil", "../../evil", "a/../../evil", "..", "./..", outside + "/evil", "/", "//evil", "a\x00b", "../evil\x00.txt",
		strings.Repeat("a", 256), strings.Repeat("a/", 100) + "x", strings.Repeat("abcdefghi/", 250) + "x", ".", "./", "a/b/../../../evil"} {
		out = append(out, annotated(fmt.Sprintf("path %.20q", path), refused, nil, map[string]string{filepath: path}))
	}
	return out
}

func hostileDescriptors() []Hostile {
	spoilt := func(name string, codes []string, spoil func(*ocispec.Descriptor)) Hostile {
		h := Hostile{Name: "descriptor: " + name, Codes: codes, Layers: []HostileLayer{safeLayer, {MediaType: rawLayer, Path: "x", Content: []byte("ten bytes!"), Spoil: spoil}}}
		if codes == nil {
			h.Tree = map[string]string{"safe.txt": "f safe", "x": "f ten bytes!"}
		}
		return h
	}
	named := func(name, d string) Hostile {
		return spoilt("digest "+name, refused, func(l *ocispec.Descriptor) { l.Digest = digest.Digest(d) })
	}
	hex := digest.FromString("x").Encoded()
	return []Hostile{
		named("none", ""),
		named("md5", "md5:d41d8cd98f00b204e9800998ecf8427e"),
		named("sha1", "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709"),
		named("sha384", digest.SHA384.FromString("x").String()),
		named("upper case", "sha256:"+strings.ToUpper(hex)),
		named("upper case algorithm", "SHA256:"+hex),
		named("short", "sha256:"+hex[:63]),
		named("long", "sha256:"+hex+"00"),
		named("up", "sha256:../../../../evil"),
		named("with a path", "sha256:"+hex+"/../../evil"),
		named("with a line end", "sha256:"+hex+"\n"),
		named("with a query", "sha256:"+hex+"?x=y"),
		spoilt("size too small", damaged, func(d *ocispec.Descriptor) { d.Size = 5 }),
		spoilt("size too large", damaged, func(d *ocispec.Descriptor) { d.Size = 5000 }),
		spoilt("size zero", damaged, func(d *ocispec.Descriptor) { d.Size = 0 }),
		spoilt("size negative", refused, func(d *ocispec.Descriptor) { d.Size = -1 }),
		spoilt("size of exabytes", []string{"ResourceExhausted", "OutOfRange"}, func(d *ocispec.Descriptor) { d.Size = 1<<63 - 1 }),
		spoilt("URLs to fetch from", nil, func(d *ocispec.Descriptor) { d.URLs = []string{"http://169.254.169.254/", "file:///etc/shadow"} }),
		spoilt("other bytes inside", nil, func(d *ocispec.Descriptor) { d.Data = []byte("evil bytes") }),
		spoilt("bytes of somebody else's digest", []string{"NotFound"}, func(d *ocispec.Descriptor) { d.Digest, d.Size = digest.FromString("absent"), 6 }),
	}
}

// plainManifest is a manifest of these layers, in JSON.
func plainManifest(layers string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":"application/vnd.cncf.model.manifest.v1+json","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[%s]}`,
		ocispec.MediaTypeImageManifest, ocispec.DescriptorEmptyJSON.Digest, layers)
}

func hostileDocuments() []Hostile {
	document := func(name string, codes []string, text string) Hostile {
		return Hostile{Name: "manifest: " + name, Manifest: []byte(text), Codes: codes}
	}
	edited := func(name string, codes []string, old, with string) Hostile {
		h := Hostile{Name: "manifest: " + name, Layers: []HostileLayer{safeLayer}, Codes: codes, Edit: func(m string) string { return strings.Replace(m, old, with, 1) }}
		if codes == nil {
			h.Tree = map[string]string{"safe.txt": "f safe"}
		}
		return h
	}
	one := fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":1,"annotations":{"org.cncf.model.filepath":"f"}}`, rawLayer, digest.FromString("x"))
	var distinct []string
	for i := range 2500 {
		distinct = append(distinct, strings.Replace(one, `"f"`, fmt.Sprintf(`"f%d"`, i), 1))
	}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex})
	if err != nil {
		panic(err) // plain data
	}
	empty := string(ocispec.DescriptorEmptyJSON.Digest)
	return []Hostile{
		document("10,001 layers", tooLarge, plainManifest(strings.Repeat(one+",", 10_000)+one)),
		document("100,000 layers", tooLarge, plainManifest(strings.Repeat(one+",", 100_000)+one)),
		document("100,000 layers of nothing", tooLarge, plainManifest(strings.Repeat("{},", 100_000)+"{}")),
		document("more files than max-files", tooLarge, plainManifest(strings.Join(distinct, ","))),
		document("layers of strings", refused, plainManifest(`"a","b"`)),
		document("layers of null", refused, plainManifest(`null`)),
		document("no layers", []string{"FailedPrecondition", "InvalidArgument"}, plainManifest("")),
		document("layers is an object", refused, strings.Replace(plainManifest("{}"), "[{}]", "{}", 1)),
		document("an array", refused, "["+plainManifest(one)+"]"),
		document("two documents", refused, plainManifest(one)+plainManifest(one)),
		document("a string", refused, `"manifest"`),
		document("not JSON", refused, "layers: []"),
		document("deep", refused, strings.Repeat(`{"a":`, 100_000)),
		document("empty index", append([]string{"NotFound", "FailedPrecondition"}, refused...), string(index)),
		document("manifests and layers", refused, strings.Replace(plainManifest(one), `"layers"`, `"manifests":[],"layers"`, 1)),
		document("layers and blobs", refused, strings.Replace(plainManifest(one), `"layers"`, `"blobs":[],"layers"`, 1)),
		document("layers twice", refused, strings.Replace(plainManifest(one), `"layers"`, `"layers":[],"layers"`, 1)),
		document("layers in capitals besides", refused, strings.Replace(plainManifest(one), `"layers"`, `"LAYERS":[],"layers"`, 1)),
		document("digest twice", refused, plainManifest(strings.Replace(one, `"digest"`, `"Digest":"sha256:00","digest"`, 1))),
		document("schema 1", []string{"FailedPrecondition", "InvalidArgument"}, `{"schemaVersion":1,"fsLayers":[{"blobSum":"sha256:aa"}],"history":[]}`),
		document("size as a string", refused, plainManifest(strings.Replace(one, `"size":1`, `"size":"1"`, 1))),
		document("size beyond numbers", refused, plainManifest(strings.Replace(one, `"size":1`, `"size":99999999999999999999`, 1))),
		document("size with a fraction", refused, plainManifest(strings.Replace(one, `"size":1`, `"size":1.5`, 1))),
		edited("schema version as a string", refused, `"schemaVersion":2`, `"schemaVersion":"2"`),
		edited("schema version 3", []string{"FailedPrecondition", "InvalidArgument"}, `"schemaVersion":2`, `"schemaVersion":3`),
		edited("media type as a list", refused, `"mediaType":"`+ocispec.MediaTypeImageManifest+`"`, `"mediaType":["x"]`),
		edited("says it is an index", refused, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex),
		edited("config of 100 GB", nil, `"digest":"`+empty+`","size":2`, `"digest":"`+digest.FromString("config").String()+`","size":100000000000`),
		edited("config of negative size", refused, `"digest":"`+empty+`","size":2`, `"digest":"`+empty+`","size":-2`),
		edited("config with a digest up", refused, `"digest":"`+empty+`","size":2`, `"digest":"sha256:../../evil","size":2`),
		edited("config that is not there", nil, `"digest":"`+empty+`","size":2`, `"digest":"`+digest.FromString("config").String()+`","size":6`),
		edited("subject elsewhere", nil, `"layers"`, `"subject":{"mediaType":"x","digest":"sha256:../..","size":-1},"layers"`),
		edited("annotations of 2 MiB", []string{"OutOfRange", "InvalidArgument"}, `"layers"`, `"annotations":{"x":"`+strings.Repeat("x", 2<<20)+`"},"layers"`),
		edited("annotations that are numbers", refused, `"layers"`, `"annotations":{"x":1},"layers"`),
	}
}
