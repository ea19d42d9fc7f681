package integration

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

func TestEveryPackingAndGenerationShowsTheSameModel(t *testing.T) {
	w := newWorld(t, registry.Options{})
	files := append(artifact.TinyModel(0), artifact.Weights("text_encoder/model.safetensors", 3<<20+17, 5), artifact.Text("empty.txt", ""))
	tests := map[string]artifact.Options{
		"raw":          {Packing: artifact.Raw},
		"tar":          {Packing: artifact.Tar},
		"gzip":         {Packing: artifact.TarGzip},
		"zstd":         {Packing: artifact.TarZstd},
		"tar-together": {Packing: artifact.Tar, Together: true},
		"gz-together":  {Packing: artifact.TarGzip, Together: true},
		"zst-together": {Packing: artifact.TarZstd, Together: true},
		"cnai":         {Generation: artifact.CNAI},
		"cnai-gzip":    {Generation: artifact.CNAI, Packing: artifact.TarGzip},
		"cnai-image":   {Generation: artifact.CNAIImage, Packing: artifact.Tar},
		"cnai-draft":   {Generation: artifact.CNAIDraft, Packing: artifact.Tar},
	}
	for name, options := range tests {
		t.Run(name, func(t *testing.T) {
			repository := "m/" + name
			a, err := artifact.Upload(t.Context(), w.registry.Host(), repository, files, options)
			if err != nil {
				t.Fatal(err)
			}
			// Registries refuse the manifest of the draft, so it is served around the real one.
			w.registry.SetManifest(repository, "v1", a.MediaType, a.Manifest)
			target := w.mustPublish(volume("csi-"+name, w.registry.Host()+"/"+repository+":v1"))
			shows(t, target, files)
			w.mustUnpublish("csi-" + name)
		})
	}
}

func TestTheMountIsReadOnlyAndShared(t *testing.T) {
	w := newWorld(t, registry.Options{})
	files := artifact.TinyModel(1 << 20)
	reference, a := w.push("m/tiny", files, artifact.Options{})
	first := w.mustPublish(volume("csi-1", reference))
	cold := w.stats()
	if cold.BlobBytes < a.LayerBytes || float64(cold.BlobBytes) > 1.01*float64(a.LayerBytes)+4096 {
		t.Errorf("the registry sent %d bytes for a model of %d", cold.BlobBytes, a.LayerBytes)
	}
	second := w.mustPublish(volume("csi-2", reference))
	if warm := w.stats(); warm.BlobBytes != cold.BlobBytes {
		t.Errorf("the second volume took %d bytes from the registry", warm.BlobBytes-cold.BlobBytes)
	}
	shows(t, first, files)

	var one, two syscall.Stat_t
	if err := errors.Join(syscall.Stat(first+"/config.json", &one), syscall.Stat(second+"/config.json", &two)); err != nil {
		t.Fatal(err)
	}
	if one.Ino != two.Ino || one.Dev != two.Dev {
		t.Error("the volumes do not share the inode of config.json")
	}
	for what, err := range map[string]error{
		"create": os.WriteFile(first+"/new", nil, 0o600),
		"write":  os.WriteFile(first+"/config.json", []byte("x"), 0o600),
		"remove": os.Remove(first + "/config.json"),
		"chmod":  os.Chmod(first+"/config.json", 0o777),
	} {
		if !errors.Is(err, syscall.EROFS) {
			t.Errorf("%s on the volume: %v", what, err)
		}
	}
	var s unix.Statfs_t
	if err := unix.Statfs(first, &s); err != nil {
		t.Fatal(err)
	}
	const want = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
	if s.Flags&want != want {
		t.Errorf("mount flags %#x, want %#x", s.Flags, want)
	}

	// Publishing again is no error, and other wishes for the same volume are.
	w.mustPublish(volume("csi-1", reference))
	err := w.node.Publish(t.Context(), volume("csi-1", reference, "include", "*.json"))
	if err == nil || !strings.Contains(err.Error(), "AlreadyExists") {
		t.Errorf("another selection for a live volume: %v", err)
	}
	w.mustUnpublish("csi-1")
	shows(t, second, files)
	w.mustUnpublish("csi-2", "csi-1", "csi-never-seen")
}

func TestSelection(t *testing.T) {
	w := newWorld(t, registry.Options{})
	files := append(artifact.TinyModel(1<<18), artifact.Text("sub/dir/a.txt", "a"), artifact.Text("sub/b.txt", "b"))
	reference, _ := w.push("m/select", files, artifact.Options{})
	select_ := func(keep func(string) bool) (out []artifact.File) {
		for _, f := range files {
			if keep(f.Path) {
				out = append(out, f)
			}
		}
		return out
	}

	target := w.mustPublish(volume("csi-json", reference, "include", "*.json"))
	shows(t, target, select_(func(p string) bool { return strings.HasSuffix(p, ".json") }))
	if s := w.stats(); s.BlobBytes > 64<<10 {
		t.Errorf("%d bytes were transferred for small files", s.BlobBytes)
	}
	target = w.mustPublish(volume("csi-small", reference, "exclude", "*.safetensors\n*.md"))
	shows(t, target, select_(func(p string) bool { return !strings.HasSuffix(p, ".safetensors") && !strings.HasSuffix(p, ".md") }))

	target = w.mustPublish(volume("csi-sub", reference, "subPath", "sub"))
	shows(t, target, []artifact.File{artifact.Text("dir/a.txt", "a"), artifact.Text("b.txt", "b")})
	w.mustUnpublish("csi-json", "csi-small", "csi-sub")
}

func TestExecIsOptIn(t *testing.T) {
	w := newWorld(t, registry.Options{})
	script := artifact.Text("run.sh", "#!/bin/sh\nexit 0\n")
	script.Mode = 0o755
	reference, _ := w.push("m/exec", []artifact.File{script}, artifact.Options{})
	for id, attributes := range map[string][]string{"csi-plain": nil, "csi-exec": {"exec", "true"}} {
		target := w.mustPublish(volume(id, reference, attributes...))
		info, err := os.Stat(filepath.Join(target, "run.sh"))
		if err != nil || info.Mode().Perm() != 0o555 {
			t.Errorf("%s: %v, %v", id, info, err)
		}
		_, err = os.StartProcess(filepath.Join(target, "run.sh"), []string{"run.sh"}, &os.ProcAttr{})
		if allowed := err == nil; allowed != (attributes != nil) {
			t.Errorf("%s: execution: %v", id, err)
		} else if err != nil && !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%s: %v", id, err)
		}
	}
	w.mustUnpublish("csi-plain", "csi-exec")
}

func TestTheNextVersionTakesOnlyWhatChanged(t *testing.T) {
	w := newWorld(t, registry.Options{})
	var files []artifact.File
	for i, name := range []string{"a.bin", "b.bin", "c.bin", "d.bin"} {
		files = append(files, artifact.Random(name, 2<<20, uint64(i)))
	}
	reference, _ := w.push("m/versions", files, artifact.Options{})
	w.mustPublish(volume("csi-v1", reference))
	next := slices.Clone(files)
	next[2] = artifact.Random("c.bin", 2<<20, 99)
	if _, err := artifact.Push(t.Context(), w.registry.Host(), "m/versions", "v2", next, artifact.Options{}); err != nil {
		t.Fatal(err)
	}
	w.registry.ResetStats()
	target := w.mustPublish(volume("csi-v2", strings.TrimSuffix(reference, "v1")+"v2"))
	shows(t, target, next)
	if s := w.stats(); float64(s.BlobBytes) > 1.01*(2<<20) {
		t.Errorf("%d bytes were transferred for a changed file of 2 MiB", s.BlobBytes)
	}
	w.mustUnpublish("csi-v1", "csi-v2")
}
