package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

// disk is an ext4 in a file.
type disk struct{ image string }

func newDisk(t *testing.T, mib int) disk {
	t.Helper()
	// In memory, where a copy takes no time.
	dir, err := os.MkdirTemp("/dev/shm", "it-disk-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := disk{filepath.Join(dir, "image")}
	if err := errors.Join(os.WriteFile(d.image, nil, 0o600), os.Truncate(d.image, int64(mib)<<20)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-m", "0", d.image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	return d
}

func (d disk) mount(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-o", "loop", d.image, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
}

// written tells how much the kernel has written to the disk so far.
func (d disk) written(t *testing.T) string {
	t.Helper()
	name, err := exec.Command("losetup", "-j", d.image, "-n", "-O", "NAME").Output()
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(strings.TrimSpace(string(name))), "stat"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(stat))[4:9], " ")
}

// powerCut copies what is on the disk at one moment: the daemon stands still meanwhile, and the kernel writes nothing.
func (d disk) powerCut(t *testing.T, pid int, name string) disk {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(pid, syscall.SIGCONT) }()
	out := disk{filepath.Join(filepath.Dir(d.image), name)}
	for range 100 {
		before := d.written(t)
		if text, err := exec.Command("cp", "--sparse=always", d.image, out.image).CombinedOutput(); err != nil {
			t.Fatalf("copy: %v: %s", err, text)
		}
		if d.written(t) == before {
			return out
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the kernel does not stop writing")
	return out
}

// TestPowerLoss takes the power away in the middle of a pull, in three places: what is there afterwards is right, and the
// pull goes on from it.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	d := newDisk(t, 160)
	w := newWorldWith(t, registry.Options{}, func(dir string) { d.mount(t, filepath.Join(dir, "root")) }, "--cache-reserve", "1Mi")
	files := []artifact.File{artifact.Random("a.bin", 12<<20, 1), artifact.Random("b.bin", 12<<20, 2), artifact.Random("c.bin", 12<<20, 3)}
	for i := range 60 {
		files = append(files, artifact.Random(fmt.Sprintf("small/%d", i), 20<<10, uint64(10+i)))
	}
	reference, a := w.push("m/power", files, artifact.Options{})
	w.registry.SetPace(2 << 20)
	done := make(chan error, 1)
	go func() { done <- w.publish(volume("csi-power", reference)) }()
	var copies []disk
	for i := range 3 {
		for w.registry.Stats().BlobBytes < a.LayerBytes*int64(2*i+1)/6 {
			time.Sleep(5 * time.Millisecond)
		}
		copies = append(copies, d.powerCut(t, w.node.PID(), fmt.Sprintf("copy%d", i)))
	}
	w.registry.SetPace(0)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	copies = append(copies, d.powerCut(t, w.node.PID(), "copy-of-all"))
	w.mustUnpublish("csi-power")

	for i, c := range copies {
		after := &world{t: t, dir: filepath.Join(w.dir, fmt.Sprintf("after%d", i)), options: w.options, registry: w.registry}
		after.options.Dir = after.dir
		c.mount(t, filepath.Join(after.dir, "root"))
		kept := after.blobs()
		after.start()
		w.registry.ResetStats()
		shows(t, after.mustPublish(volume("csi-after", reference)), files)
		sent := w.registry.Stats().BlobBytes
		t.Logf("cut %d: %d of %d blobs were there, %d of %d bytes were fetched again", i, len(kept), len(a.Layers), sent, a.LayerBytes)
		if i == len(copies)-1 && sent > 0 {
			t.Errorf("a published model lost %d bytes of %d", sent, a.LayerBytes)
		}
		after.mustUnpublish("csi-after")
		if err := after.node.Stop(); err != nil {
			t.Error(err)
		}
	}
}

// TestServesSoonAfterAKill: what is in the cache does not hold up a start.
func TestServesSoonAfterAKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registry.Options{})
	var files []artifact.File
	for i := range 1000 {
		files = append(files, artifact.Text(fmt.Sprintf("%d/file", i), fmt.Sprint("content ", i)))
	}
	reference, _ := w.push("m/thousand", files, artifact.Options{Packing: artifact.Tar, Together: true})
	w.mustPublish(volume("csi-thousand", reference))
	if n := len(w.blobs()); n != 1000 {
		t.Fatalf("%d blobs", n)
	}
	w.node.Kill()
	began := time.Now()
	w.start()
	took := time.Since(began)
	t.Logf("serves after %s", took)
	if took > 20*time.Second { // five are promised to whoever has the machine for himself
		t.Errorf("serving again took %s", took)
	}
	shows(t, w.node.Target("csi-thousand"), files)
	w.mustUnpublish("csi-thousand")
}
