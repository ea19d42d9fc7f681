package e2e

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/test/e2e/product"
	"github.com/model-csi/model-csi/test/e2e/registry"
)

// below puts files into a directory.
func below(dir string, files []registry.File) (out []registry.File) {
	for _, f := range files {
		f.Path = path.Join(dir, f.Path)
		out = append(out, f)
	}
	return out
}

// adapters: a base model and two LoRA adapters are one tree. What they share is transferred once, and each is there for
// others too.
func adapters(t *testing.T) {
	ns, base := namespace(t), newModel(73, 2<<20)
	shared := registry.File{Path: "tokenizer.json", Data: newModel(74, 512<<10)[2].Data}
	lora := func(seed uint64) []registry.File {
		files := newModel(seed, 256<<10)
		return []registry.File{{Path: "adapter_config.json", Data: files[0].Data}, {Path: "adapter_model.safetensors", Data: files[3].Data}, shared}
	}
	base = append(base, shared)
	sql, chat := lora(75), lora(76)
	reference := push(t, env.Public, "adapted/base", base)
	mounts := "adapters/sql=" + push(t, env.Public, "loras/sql", sql) + "\nadapters/chat=" + push(t, env.Public, "loras/chat", chat)
	want := append(append(below("adapters/sql", sql), below("adapters/chat", chat)...), base...)
	checkModel(t, start(t, newPod(ns, "together", volume(reference, "mounts", mounts))), want)

	distinct := map[string]registry.File{}
	for _, f := range want {
		distinct[f.Digest()] = f
	}
	var digests []string
	var bytes int64
	for d, f := range distinct {
		digests, bytes = append(digests, d), bytes+int64(len(f.Data))
	}
	sent := env.Public.Total(digests)
	if sent.Bytes < bytes || float64(sent.Bytes) > 1.05*float64(bytes) {
		t.Errorf("%d bytes were sent for %d in distinct layers", sent.Bytes, bytes)
	}
	// The base alone, and the other way round: nothing is transferred again, but for a byte where the registry is asked
	// whether it opens a layer of one repository in another, too.
	checkModel(t, start(t, newPod(ns, "base", volume(reference))), base)
	checkModel(t, start(t, newPod(ns, "adapter", volume(env.Public.Reference("loras/sql", "v1"), "mounts", "base="+reference))), append(below("base", base), sql...))
	if now := env.Public.Total(digests); now.Bytes > sent.Bytes+int64(len(digests)) {
		t.Errorf("cached layers were asked for again: %+v, before %+v", now, sent)
	}
}

// layouts: the directories that the Hugging Face libraries and Ollama look for.
func layouts(t *testing.T) {
	ns := namespace(t)
	t.Run("hf", func(t *testing.T) {
		t.Parallel()
		files := newModel(77, 1<<20)
		manifest, err := env.Public.PushModel(t.Context(), env.Trust, "hub/org/name", "v1", files)
		if err != nil {
			t.Fatal(err)
		}
		reference, commit := env.Public.Reference("hub/org/name", "v1"), strings.TrimPrefix(manifest, "sha256:")[:40]
		cache := func(name string) []registry.File {
			return append(below("hub/models--"+name+"/snapshots/"+commit, files),
				registry.File{Path: "hub/models--" + name + "/refs/main", Data: []byte(commit)},
				registry.File{Path: "hub/models--" + name + "/refs/v1", Data: []byte(commit)})
		}
		checkModel(t, start(t, newPod(ns, "hf", volume(reference, "layout", "hf"))), cache("org--name"))
		checkModel(t, start(t, newPod(ns, "hf-named", volume(reference, "layout", "hf", "layoutName", "Qwen/Qwen3-8B"))), cache("Qwen--Qwen3-8B"))
		snapshot := volume(reference, "layout", "hf", "subPath", "hub/models--org--name/snapshots/"+commit)
		checkModel(t, start(t, newPod(ns, "hf-snapshot", snapshot)), files)
	})
	t.Run("ollama", func(t *testing.T) {
		t.Parallel()
		config, weights := []byte(`{"model_format":"gguf","model_family":"llama"}`), newModel(78, 1<<20)[3].Data
		template := []byte("{{ .Prompt }} of the store")
		const ollama = "application/vnd.ollama.image."
		_, err := env.Public.PushArtifact(t.Context(), env.Trust, "ollama/llama", "1b", registry.Artifact{
			MediaType: "application/vnd.docker.distribution.manifest.v2+json", ConfigType: "application/vnd.docker.container.image.v1+json", Config: config,
			Layers: []registry.Layer{{MediaType: ollama + "model", Data: weights}, {MediaType: ollama + "template", Data: template}},
		})
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := env.Public.Manifest(t.Context(), env.Trust, "ollama/llama", "1b")
		if err != nil {
			t.Fatal(err)
		}
		store := func(name string) []registry.File {
			out := []registry.File{{Path: "manifests/" + name, Data: manifest}}
			for _, data := range [][]byte{config, weights, template} {
				out = append(out, registry.File{Path: "blobs/" + strings.Replace(digest.FromBytes(data).String(), ":", "-", 1), Data: data})
			}
			return out
		}
		// Named as OCI does and as Ollama does.
		reference := env.Public.Reference("ollama/llama", "1b")
		checkModel(t, start(t, newPod(ns, "ollama", volume(reference, "layout", "ollama"))), store(env.Public.Address+"/ollama/llama/1b"))
		checkModel(t, start(t, newPod(ns, "ollama-named", volume("ollama://"+reference, "layout", "ollama", "layoutName", "llama3.2:1b"))),
			store("registry.ollama.ai/library/llama3.2/1b"))
	})
}

// mirror: what the chart's values say about a registry's mirror. It is asked first; what it lacks or spoils comes from the
// registry.
func mirror(t *testing.T) {
	ns := namespace(t)
	for i, c := range []struct {
		name           string
		pushed, spoilt bool // at the mirror
	}{
		{"there", true, false},
		{"missing", false, false},
		{"spoilt", true, true},
	} {
		files := newModel(uint64(92+i), 1<<20)
		push(t, env.Public, "mirrored/"+c.name, files)
		if c.pushed {
			push(t, env.Mirror, "mirrored/"+c.name, files)
		}
		if c.spoilt {
			env.Mirror.Corrupt(files[3].Digest())
		}
		checkModel(t, start(t, newPod(ns, c.name, volume(product.MirroredHost+"/mirrored/"+c.name+":v1"))), files)
		if sent := env.Public.Total(blobs(files)); c.pushed && !c.spoilt && sent.Bytes > size(files)/2 {
			t.Errorf("%s: the registry sent what the mirror has: %+v", c.name, sent)
		}
		if sent := env.Mirror.Total(blobs(files)); c.pushed != (sent.Bytes > 0) {
			t.Errorf("%s: the mirror sent %+v", c.name, sent)
		}
	}
}

// variants: labels choose from an index of ModelKits, and without them nothing is picked at random.
func variants(t *testing.T) {
	ns := namespace(t)
	want := pushKits(t, "kits/several", "all", 81)
	reference := env.Public.Reference("kits/several", "all")
	for i, c := range []struct{ variant, want string }{
		{"quantization=q8_0", "q8_0"},
		{"format=gguf,quantization=q4_k_m", "q4_k_m"},
		{"contextLength=8192", "q8_0"},
	} {
		checkModel(t, start(t, newPod(ns, fmt.Sprint("variant-", i), volume(reference, "variant", c.variant))), want[c.want])
	}
	for i, attributes := range [][]string{nil, {"variant", "format=gguf"}, {"variant", "quantization=q2_k"}} {
		pod := create(t, newPod(ns, fmt.Sprint("unclear-", i), volume(reference, attributes...)))
		waitEvent(t, pod, limit, "FailedMount", "NotFound", "quantization=q4_k_m", "quantization=q8_0")
	}
}

// pushKits pushes an index of two ModelKits with labels, and returns the files of each by its quantization.
func pushKits(t *testing.T, repository, tag string, seed uint64) map[string][]registry.File {
	t.Helper()
	var entries []map[string]any
	want := map[string][]registry.File{}
	for i, quantization := range []string{"q4_k_m", "q8_0"} {
		files := below("weights", newModel(seed+uint64(i), 128<<10))
		kit, kitfile := modelKit(quantization, zipped(t, archive(t, files)))
		d, err := env.Public.PushArtifact(t.Context(), env.Trust, repository, quantization, kit)
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := env.Public.Manifest(t.Context(), env.Trust, repository, quantization)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, map[string]any{
			"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": d, "size": len(manifest),
			"annotations":   map[string]string{"ml.kitops.modelkit.original-tag": quantization},
			"modelMetadata": map[string]any{"quantization": quantization, "format": "gguf", "contextLength": 4096 << i},
		})
		want[quantization] = append(files, kitfile)
	}
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
		"artifactType": "application/vnd.kitops.modelkit.index.v1+json", "manifests": entries,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := env.Public.PushIndex(t.Context(), env.Trust, repository, tag, index); err != nil {
		t.Fatal(err)
	}
	return want
}
