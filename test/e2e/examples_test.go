package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/model-csi/model-csi/test/e2e/cluster"
	"github.com/model-csi/model-csi/test/e2e/product"
	"github.com/model-csi/model-csi/test/e2e/registry"
)

// examples: each manifest of deploy/examples with this cluster's registries in it. Those of model servers, whose images
// are not here, meet the API server alone.
func examples(t *testing.T) {
	files := newModel(60, 1<<20)
	push(t, env.Public, "models/tiny", files)
	push(t, env.Private, "private/tiny", files)
	selected := slices.DeleteFunc(slices.Clone(files), func(f registry.File) bool {
		return !strings.HasSuffix(f.Path, ".safetensors") && !strings.HasSuffix(f.Path, ".json")
	})
	photon := registry.File{Path: "chat.photon", Data: []byte("PK a photon")}
	byORAS := artifactOf(t, "generic")
	for repository, artifact := range map[string]registry.Artifact{
		"models/by-oras": byORAS.artifact,
		"photons/chat": {ConfigType: "application/vnd.oci.empty.v1+json", Config: []byte(`{}`), Layers: []registry.Layer{
			{MediaType: "application/zip", Data: photon.Data, Annotations: map[string]string{"org.opencontainers.image.title": photon.Path}},
		}},
	} {
		if _, err := env.Public.PushArtifact(t.Context(), env.Trust, repository, "v1", artifact); err != nil {
			t.Fatal(err)
		}
	}
	// What each example's pods see; nil is for a dry run.
	expected := map[string][]registry.File{
		"inline-volume.yaml": files, "private-registry.yaml": files, "persistent-volume.yaml": files,
		"deployment.yaml": files, "include-exclude.yaml": selected, "oras.yaml": byORAS.want,
		"lepton.yaml": append(below("weights", byORAS.want), photon), "kitops.yaml": pushKits(t, "kits/llama", "v1", 90)["q4_k_m"],
		"vllm.yaml": nil, "sglang.yaml": nil, "llama-cpp.yaml": nil, "docker-model-runner.yaml": nil, "kserve.yaml": nil,
		"lora-adapters.yaml": nil, "hugging-face-cache.yaml": nil, "hugging-face-gated.yaml": nil,
		"harbor.yaml": nil, "ollama.yaml": nil, "model-registry.yaml": nil,
	}
	paths, err := filepath.Glob(product.RepositoryRoot + "/deploy/examples/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) != len(expected) {
		t.Errorf("deploy/examples has %d manifests, this test knows %d", len(paths), len(expected))
	}
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			want, known := expected[filepath.Base(path)]
			if !known {
				t.Fatal("this test does not know the example")
			}
			t.Parallel()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			ns := namespace(t)
			text := strings.NewReplacer("registry.example.com/private/", env.Private.Address+"/private/",
				`"registry.example.com"`, `"`+env.Private.Address+`"`, "registry.example.com/", env.Public.Address+"/",
				"busybox:1.37", cluster.BusyboxName, "namespace: default", "namespace: "+ns).Replace(string(data))
			if filepath.Base(path) == "inline-volume.yaml" {
				text = string(data) // the README's pod, to the letter
			}
			objects := decode(t, text)
			for _, o := range objects {
				if o.GetKind() != "PersistentVolume" {
					o.SetNamespace(ns)
				}
			}
			apply(t, objects, want == nil)
			if want != nil {
				checkPods(t, ns, objects, want)
			}
		})
	}
}

// checkPods waits for the pods of an example and proves what they see.
func checkPods(t *testing.T, ns string, objects []*unstructured.Unstructured, files []registry.File) {
	t.Helper()
	pods := 0
	for _, o := range objects {
		switch o.GetKind() {
		case "Pod":
			pods++
		case "Deployment":
			replicas, _, _ := unstructured.NestedInt64(o.Object, "spec", "replicas")
			pods += int(replicas)
		case "PersistentVolume":
			name := o.GetName()
			t.Cleanup(func() {
				if err := env.Client.CoreV1().PersistentVolumes().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
					t.Error(err)
				}
			})
		}
	}
	var list *corev1.PodList
	eventually(t, "the example's pods", func(ctx context.Context) (err error) {
		if list, err = env.Client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{}); err == nil && len(list.Items) != pods {
			err = fmt.Errorf("there are %d, want %d", len(list.Items), pods)
		}
		return err
	})
	for i := range list.Items {
		checkModel(t, waitRunning(t, &list.Items[i], limit), files)
	}
}

// yamlBlock is a fenced block of a document.
var yamlBlock = regexp.MustCompile("(?s)\n```yaml\n(.*?)```")

// TestDocumentation offers to the API server what the documentation shows, whole objects and parts of pods, and renders
// the chart with the values that it shows.
func TestDocumentation(t *testing.T) {
	var paths []string
	for _, pattern := range []string{"/docs/*.md", "/charts/*/README.md"} {
		found, err := filepath.Glob(product.RepositoryRoot + pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: there are no documents: %v", pattern, err)
		}
		paths = append(paths, found...)
	}
	known := valuesOf(t, product.ChartPath+"/values.yaml")
	shown := map[string]int{}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range yamlBlock.FindAllStringSubmatch(string(data), -1) {
			file := filepath.Join(t.TempDir(), fmt.Sprint(i, ".yaml"))
			if err := os.WriteFile(file, []byte(block[1]), 0o600); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(block[1], "apiVersion:") {
				shown["objects"]++
				t.Run(filepath.Base(path), func(t *testing.T) { apply(t, decode(t, block[1]), true) })
				continue
			}
			values := valuesOf(t, file)
			if _, volumes := values["volumes"]; volumes {
				shown["volumes"]++
				t.Run(filepath.Base(path), func(t *testing.T) { apply(t, []*unstructured.Unstructured{podAround(values)}, true) })
				continue
			}
			for key := range known {
				delete(values, key)
			}
			if len(values) > 0 {
				continue // another file
			}
			shown["values"]++
			t.Run(filepath.Base(path), func(t *testing.T) {
				if _, err := env.Helm(t.Context(), "template", "documented", product.ChartPath, "--values", file); err != nil {
					t.Errorf("%v with\n%s", err, block[1])
				}
			})
		}
	}
	if shown["objects"] == 0 || shown["values"] == 0 || shown["volumes"] == 0 {
		t.Errorf("the documentation shows too little: %v", shown)
	}
}

// podAround is a pod of the volumes and variables that are shown of one.
func podAround(part map[string]any) *unstructured.Unstructured {
	container := map[string]any{"name": "main", "image": cluster.BusyboxName}
	if env, ok := part["env"]; ok {
		container["env"] = env
	}
	spec := map[string]any{"containers": []any{container}}
	for key, value := range part {
		if key != "env" {
			spec[key] = value
		}
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "documented"}, "spec": spec,
	}}
}

// valuesOf reads the mapping in a YAML file.
func valuesOf(t *testing.T, path string) (values map[string]any) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := yaml.NewYAMLOrJSONDecoder(file, 4096).Decode(&values); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return values
}
