package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

// below returns the files as they are seen when they are mounted at dir.
func below(dir string, files []artifact.File) []artifact.File {
	files = slices.Clone(files)
	for i := range files {
		files[i].Path = dir + "/" + files[i].Path
	}
	return files
}

// TestMounts: a base model with an adapter of its own registry and one of another's is one tree. What they share comes
// once, each registry decides about what it holds, and a credential that names no registry goes to that of the base.
func TestMounts(t *testing.T) {
	w := newWorld(t, registry.Options{Users: map[string]string{"alice": "canary-alice"}})
	elsewhere, err := registry.Start(registry.Options{Users: map[string]string{"bob": "canary-bob"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := elsewhere.Close(); err != nil {
			t.Error(err)
		}
	})
	shared := artifact.Random("tokenizer.bin", 3<<20, 1)
	base := []artifact.File{artifact.Random("model.bin", 5<<20, 2), shared, artifact.Text("adapters/README", "see the mounts")}
	first := []artifact.File{artifact.Random("adapter.bin", 1<<20, 3), shared}
	second := []artifact.File{artifact.Random("adapter.bin", 1<<20, 4), shared}
	asAlice := artifact.Options{User: "alice", Password: "canary-alice"}
	reference, _ := w.push("m/base", base, asAlice)
	near, _ := w.push("loras/first", first, asAlice)
	if _, err := artifact.Push(t.Context(), elsewhere.Host(), "loras/second", "v1", second, artifact.Options{User: "bob", Password: "canary-bob"}); err != nil {
		t.Fatal(err)
	}
	far := elsewhere.Host() + "/loras/second:v1"
	w.registry.ResetStats()
	elsewhere.ResetStats()

	v := volume("csi-mounts", reference, "mounts", "adapters/first = "+near+"\nadapters/second = "+far)
	v.Secrets = basic("alice", "canary-alice")
	w.refused(v, w.node.Publish(t.Context(), v), codes.Unauthenticated, "mount adapters/second", far)
	for _, q := range elsewhere.Requests() {
		if q.User != "" {
			t.Errorf("the registry of a mount saw the credential of %q, which was meant for that of the reference", q.User)
		}
	}
	v.Secrets = dockerConfig(elsewhere.Host(), "bob", "canary-bob")
	w.refused(v, w.node.Publish(t.Context(), v), codes.Unauthenticated, "credential for registry "+w.registry.Host())

	v.Secrets = map[string]string{".dockerconfigjson": fmt.Sprintf(`{"auths":{%q:{"username":"alice","password":"canary-alice"},%q:{"username":"bob","password":"canary-bob"}}}`,
		w.registry.Host(), elsewhere.Host())}
	want := slices.Concat(base, below("adapters/first", first), below("adapters/second", second))
	shows(t, w.mustPublish(v), want)
	until(t, "the other registry has served all requests", func() bool { return elsewhere.Stats().Active == 0 })
	one, other := w.stats(), elsewhere.Stats()
	if sum, limit := one.BlobBytes+other.BlobBytes, int64(10<<20+64<<10); sum > limit {
		t.Errorf("%d bytes came for 10 MiB: what the models share came more than once", sum)
	}
	if d := contentDigest(t, shared); one.BlobGets[d] > 0 == (other.BlobGets[d] > 0) {
		t.Errorf("the shared file was fetched %d times from one registry, %d from the other", one.BlobGets[d], other.BlobGets[d])
	}
	again := v
	again.ID = "csi-again"
	shows(t, w.mustPublish(again), want)
	if s := w.stats(); s.BlobBytes != one.BlobBytes {
		t.Errorf("the second volume took %d bytes", s.BlobBytes-one.BlobBytes)
	}
	conflict := volume("csi-conflict", reference, "mounts", "adapters="+near)
	conflict.Secrets = v.Secrets
	w.refused(conflict, w.node.Publish(t.Context(), conflict), codes.InvalidArgument, reference, "mount adapters="+near, "is there already")
	w.mustUnpublish("csi-mounts", "csi-again")
	leaksNothing(t, w, "canary-alice")
	leaksNothing(t, w, "canary-bob")
}

// TestHubLayout: a published volume is a cache as the Hugging Face libraries read it, byte by byte, and a snapshot can
// be mounted alone.
func TestHubLayout(t *testing.T) {
	w := newWorld(t, registry.Options{})
	files := append(artifact.TinyModel(0), artifact.Text("sub/file.txt", "x"))
	reference, a := w.push("teams/org/name", files, artifact.Options{})
	adapter := []artifact.File{artifact.Text("adapter_config.json", "{}")}
	lora, b := w.push("lora", adapter, artifact.Options{})
	commit, other := a.Digest.Encoded()[:40], b.Digest.Encoded()[:40]

	snapshot := "hub/models--org--name/snapshots/" + commit
	target := w.mustPublish(volume("csi-hub", reference, "layout", "hf", "mounts", "me/lora="+lora))
	shows(t, target, slices.Concat(below(snapshot, files), below("hub/models--me--lora/snapshots/"+other, adapter), []artifact.File{
		artifact.Text("hub/models--org--name/refs/main", commit), artifact.Text("hub/models--org--name/refs/v1", commit),
		artifact.Text("hub/models--me--lora/refs/main", other), artifact.Text("hub/models--me--lora/refs/v1", other),
	}))
	// What huggingface_hub does offline for hf_hub_download("org/name", "config.json"): read the ref, take the path.
	ref, err := os.ReadFile(filepath.Join(target, "hub/models--org--name/refs/main"))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(target, "hub/models--org--name/snapshots", string(ref), "config.json")); err != nil || !info.Mode().IsRegular() {
		t.Errorf("the ref %q leads to %v, %v", ref, info, err)
	}
	before := w.stats().BlobBytes
	shows(t, w.mustPublish(volume("csi-snapshot", reference, "layout", "hf", "subPath", snapshot)), files)
	shows(t, w.mustPublish(volume("csi-flat", reference)), files)
	if bytes := w.stats().BlobBytes - before; bytes != 0 {
		t.Errorf("another layout of the same model took %d bytes", bytes)
	}
	w.mustUnpublish("csi-hub", "csi-snapshot", "csi-flat")
}

// TestOllamaLayout: a published volume is Ollama's own store, with the manifest exactly as it was pushed.
func TestOllamaLayout(t *testing.T) {
	w := newWorld(t, registry.Options{})
	client := artifact.NewClient(w.registry.Host(), "team/llama3.2", "", "")
	type descriptor struct {
		MediaType string        `json:"mediaType"`
		Digest    digest.Digest `json:"digest"`
		Size      int64         `json:"size"`
	}
	var want []artifact.File
	blob := func(mediaType, content string) descriptor {
		d, err := client.Blob(t.Context(), strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, artifact.Text("blobs/sha256-"+d.Digest.Encoded(), content))
		return descriptor{mediaType, d.Digest, d.Size}
	}
	manifest, err := json.MarshalIndent(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
		"config": blob("application/vnd.docker.container.image.v1+json", `{"model_format":"gguf"}`),
		"layers": []descriptor{
			blob("application/vnd.ollama.image.model", "GGUF"+strings.Repeat("x", 100_000)),
			blob("application/vnd.ollama.image.template", "{{ .Prompt }}"),
			blob("application/vnd.ollama.image.license", "free"),
		},
	}, "", "   ")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Manifest(t.Context(), "3b", "application/vnd.docker.distribution.manifest.v2+json", manifest); err != nil {
		t.Fatal(err)
	}
	reference := w.registry.Host() + "/team/llama3.2:3b"
	for id, c := range map[string]struct{ name, path string }{
		"csi-own":   {"", w.registry.Host() + "/team/llama3.2/3b"},
		"csi-named": {"llama3.2", "registry.ollama.ai/library/llama3.2/latest"},
	} {
		target := w.mustPublish(volume(id, reference, "layout", "ollama", "layoutName", c.name))
		shows(t, target, append(slices.Clone(want), artifact.Text("manifests/"+c.path, string(manifest))))
		if got, err := os.ReadFile(filepath.Join(target, "manifests", c.path)); err != nil || !bytes.Equal(got, manifest) {
			t.Errorf("%s: the manifest is not what was pushed: %v", id, err)
		}
	}
	w.mustUnpublish("csi-own", "csi-named")

	other, _ := w.push("m/modelpack", artifact.TinyModel(0), artifact.Options{})
	v := volume("csi-other", other, "layout", "ollama")
	w.refused(v, w.node.Publish(t.Context(), v), codes.FailedPrecondition, "no Ollama model")
	if s := w.stats(); s.BlobBytes > 1024 {
		t.Errorf("%d bytes were transferred for a volume that cannot be", s.BlobBytes)
	}
}

// TestVariant: the same tag of an index is another model for another variant, also when it is cached.
func TestVariant(t *testing.T) {
	w := newWorld(t, registry.Options{})
	client := artifact.NewClient(w.registry.Host(), "m/kit", "", "")
	var entries []map[string]any
	models := map[string][]artifact.File{}
	for i, quantization := range []string{"q4", "q8"} {
		files := []artifact.File{artifact.Random(quantization+".gguf", 1<<16, uint64(i))}
		_, a := w.push("m/kit", files, artifact.Options{})
		models[quantization] = files
		entries = append(entries, map[string]any{
			"mediaType": a.MediaType, "digest": a.Digest, "size": len(a.Manifest),
			"modelMetadata": map[string]any{"quantization": quantization, "contextLength": 4096},
		})
	}
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
		"artifactType": "application/vnd.kitops.modelkit.index.v1+json", "manifests": entries,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Manifest(t.Context(), "all", "application/vnd.oci.image.index.v1+json", index); err != nil {
		t.Fatal(err)
	}
	reference := w.registry.Host() + "/m/kit:all"
	for _, round := range []string{"cold", "warm"} {
		for quantization, files := range models {
			id := "csi-" + round + "-" + quantization
			shows(t, w.mustPublish(volume(id, reference, "variant", "contextLength=4096,quantization="+quantization)), files)
			w.mustUnpublish(id)
		}
	}
	v := volume("csi-none", reference)
	w.refused(v, w.node.Publish(t.Context(), v), codes.NotFound, "quantization=q4", "quantization=q8")
	v = volume("csi-two", reference, "variant", "contextLength=4096")
	w.refused(v, w.node.Publish(t.Context(), v), codes.NotFound, "2 entries")
}
