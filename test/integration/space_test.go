package integration

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

// smallFilesystem mounts an ext4 of so many bytes and inodes at dir until the test ends.
func smallFilesystem(t *testing.T, dir string, bytes int64, inodes int) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, bytes); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		{"mkfs.ext4", "-q", "-m", "0", "-N", fmt.Sprint(inodes), image},
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(command, " "), err, out)
		}
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount the small filesystem: %v", err)
		}
	})
}

// small starts a world whose state root is a small filesystem.
func small(t *testing.T, bytes int64, inodes int) *world {
	t.Helper()
	w := newWorldWith(t, registry.Options{}, func(dir string) { smallFilesystem(t, filepath.Join(dir, "root"), bytes, inodes) }, "--cache-reserve", "1Mi")
	return w
}

func TestNoSpaceIsFoundBeforeTheDownload(t *testing.T) {
	w := small(t, 64<<20, 4096)
	fits := []artifact.File{artifact.Random("a.bin", 20<<20, 1)}
	reference, _ := w.push("m/fits", fits, artifact.Options{})
	shows(t, w.mustPublish(volume("csi-fits", reference)), fits)

	large, _ := w.push("m/large", []artifact.File{artifact.Random("b.bin", 100<<20, 2)}, artifact.Options{})
	v := volume("csi-large", large)
	w.refused(v, w.node.Publish(t.Context(), v), codes.ResourceExhausted, large)
	if s := w.stats(); s.BlobBytes > 64<<10 {
		t.Errorf("%d bytes were fetched of a model that cannot fit", s.BlobBytes)
	}
	// What is cached is still published, on a node without space.
	shows(t, w.mustPublish(volume("csi-again", reference)), fits)

	// When the first model is not used any more it makes room for another one by itself.
	w.mustUnpublish("csi-fits", "csi-again")
	other := []artifact.File{artifact.Random("c.bin", 35<<20, 3)}
	reference, _ = w.push("m/other", other, artifact.Options{})
	shows(t, w.mustPublish(volume("csi-other", reference)), other)
	w.mustUnpublish("csi-other")
}

func TestNoSpaceInTheMiddleOfAnArchive(t *testing.T) {
	t.Parallel()
	w := small(t, 64<<20, 4096)
	// Nothing says beforehand how large this becomes: mostly zeros, but too little compressed to be taken for a bomb.
	zeros := artifact.Text("zeros.bin", strings.Repeat(noise(t, 1<<10)+strings.Repeat("\x00", 63<<10), 100<<4))
	reference, _ := w.push("m/zeros", []artifact.File{zeros}, artifact.Options{Packing: artifact.TarGzip})
	v := volume("csi-zeros", reference)
	w.refused(v, w.node.Publish(t.Context(), v), codes.ResourceExhausted, reference)
	w.freeAgain(32 << 20)
	fits := []artifact.File{artifact.Random("a.bin", 20<<20, 1)}
	reference, _ = w.push("m/fits", fits, artifact.Options{})
	shows(t, w.mustPublish(volume("csi-fits", reference)), fits)
	w.mustUnpublish("csi-fits")
}

func noise(t *testing.T, size int64) string {
	t.Helper()
	body, err := artifact.Random("noise", size, 1).Open()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestNoInodes(t *testing.T) {
	w := small(t, 64<<20, 128)
	tiny := artifact.TinyModel(0)
	first, _ := w.push("m/tiny", tiny, artifact.Options{})
	w.mustPublish(volume("csi-tiny", first))
	var many []artifact.File
	for i := range 300 {
		many = append(many, artifact.Text(fmt.Sprintf("%03d.txt", i), fmt.Sprint("content ", i)))
	}
	for _, options := range []artifact.Options{{}, {Packing: artifact.Tar, Together: true}} {
		reference, _ := w.push("m/many"+strings.ToLower(string(options.Packing)), many, options)
		v := volume("csi-many", reference)
		w.refused(v, w.node.Publish(t.Context(), v), codes.ResourceExhausted, reference)
	}
	shows(t, w.mustPublish(volume("csi-second", first)), tiny)
	w.mustUnpublish("csi-tiny", "csi-second")
}

// freeAgain waits until the filesystem of the root has so much space, since work may end just after its answer.
func (w *world) freeAgain(want int64) {
	w.t.Helper()
	until(w.t, fmt.Sprintf("%d MiB are free", want>>20), func() bool {
		var s unix.Statfs_t
		if err := unix.Statfs(w.node.Root(), &s); err != nil {
			w.t.Error(err)
		}
		return int64(s.Bavail)*s.Bsize >= want
	})
}

func TestGarbageIsWhatNobodyUses(t *testing.T) {
	w := newWorld(t, registry.Options{})
	used, unused := []artifact.File{artifact.Random("a.bin", 3<<20, 1)}, []artifact.File{artifact.Random("b.bin", 5<<20, 2)}
	keep, _ := w.push("m/used", used, artifact.Options{})
	drop, _ := w.push("m/unused", unused, artifact.Options{})
	w.mustPublish(volume("csi-used", keep))
	w.mustPublish(volume("csi-unused", drop))
	w.mustUnpublish("csi-unused")
	out, err := exec.Command(binary, "cache", "gc", "--root", w.node.Root()).CombinedOutput()
	if err != nil {
		t.Fatalf("cache gc: %v: %s", err, out)
	}
	if !strings.Contains(string(out), "5.0 MiB") {
		t.Errorf("cache gc says %s", out)
	}
	if left := w.blobs(); len(left) != 1 {
		t.Errorf("%d blobs are left", len(left))
	}
	shows(t, w.node.Target("csi-used"), used)
	shows(t, w.mustPublish(volume("csi-back", drop)), unused)
	w.mustUnpublish("csi-used", "csi-back")
	if out, err = exec.Command(binary, "cache", "gc", "--root", w.node.Root()).CombinedOutput(); err != nil {
		t.Fatalf("cache gc: %v: %s", err, out)
	}
	if left := w.blobs(); len(left) != 0 {
		t.Errorf("%d blobs are left", len(left))
	}
}
