package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

// What push takes from a directory is what a volume shows: the same bytes, paths and execute bits, for every archive.
func TestPushedModelIsMounted(t *testing.T) {
	w := newWorld(t, registry.Options{})
	dir := filepath.Join(w.dir, "model")
	files := map[string]string{
		"config.json": `{"model_type":"qwen2"}`, "model.safetensors.part": strings.Repeat("weights", 300_000), "text_encoder/deep/model.gguf.txt": "a",
		"code/run.sh": "#!/bin/sh\n", "empty.py": "", "README.md": "# A model\n", "data/train.jsonl": "{}\n",
	}
	for name, content := range files {
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "code/run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	want, err := artifact.FromDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{nil, {"--archive", "tar"}, {"--archive", "tar+gzip"}, {"--archive", "tar+zstd"}, {"--spec", "cnai", "--archive", "weight=tar"}} {
		name := strings.NewReplacer("+", "-", "=", "-").Replace(strings.TrimPrefix(strings.Join(append(args, "raw"), "-"), "--"))
		t.Run(name, func(t *testing.T) {
			reference := w.registry.Host() + "/pushed/" + name + ":v1"
			cmd := exec.CommandContext(t.Context(), binary, append(append([]string{"push", "-q"}, args...), dir, reference)...)
			cmd.Env = append(os.Environ(), "DOCKER_CONFIG="+w.dir)
			pinned, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, pinned)
			}
			target := w.mustPublish(volume(name, strings.TrimSpace(string(pinned))))
			shows(t, target, want)
			if info, err := os.Stat(filepath.Join(target, "code/run.sh")); err != nil || info.Mode()&0o111 == 0 {
				t.Errorf("the script cannot be executed: %v, %v", info, err)
			}
			w.mustUnpublish(name)
		})
	}
}
