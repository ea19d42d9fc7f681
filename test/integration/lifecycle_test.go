package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/node"
	"github.com/model-csi/model-csi/test/registry"
)

func TestASecondDaemonIsRefused(t *testing.T) {
	w := newWorld(t, registry.Options{})
	second := w.options
	second.Dir = filepath.Join(w.dir, "second")
	if err := os.MkdirAll(second.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(w.node.Root(), filepath.Join(second.Dir, "root")); err != nil {
		t.Fatal(err)
	}
	n, err := node.Start(t.Context(), second)
	if err == nil {
		n.Kill()
		t.Fatal("two daemons run on one root")
	}
	if want := fmt.Sprint(w.node.PID()); !strings.Contains(err.Error(), want) {
		t.Errorf("the error does not name the holder, process %s: %v", want, err)
	}
	reference, _ := w.push("m/tiny", artifact.TinyModel(0), artifact.Options{})
	w.mustPublish(volume("csi-1", reference))
	w.mustUnpublish("csi-1")
}

// TestStopDuringAPull: SIGTERM ends the daemon soon and in order, a waiting caller is told to come again, and the pull goes on later.
func TestStopDuringAPull(t *testing.T) {
	w := newWorld(t, registry.Options{})
	files := []artifact.File{artifact.Random("a.bin", 64<<20, 1)}
	reference, _ := w.push("m/slow", files, artifact.Options{})
	stall := w.registry.Inject(registry.Rule{Kind: registry.KindBlob}, registry.Stall(1<<20))
	result := make(chan error, 1)
	go func() { result <- w.node.Publish(t.Context(), volume("csi-slow", reference)) }()
	until(t, "bytes come", func() bool { return w.registry.Stats().BlobBytes > 0 })
	began := time.Now()
	if err := w.node.Stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 30*time.Second { // kubelet's grace
		t.Errorf("stopping took %s", took)
	}
	if err := <-result; err == nil {
		t.Error("the publish succeeded")
	}
	if _, err := os.Lstat(w.node.Target("csi-slow")); err == nil {
		t.Error("the target is left")
	}
	stall.Remove()
	w.start()
	shows(t, w.mustPublish(volume("csi-slow", reference)), files)
	w.mustUnpublish("csi-slow")
}

// TestSocketAndStatePermissions: nobody else on the node may talk to the daemon or read its state.
func TestSocketAndStatePermissions(t *testing.T) {
	w := newWorld(t, registry.Options{})
	reference, _ := w.push("m/tiny", artifact.TinyModel(0), artifact.Options{})
	w.mustPublish(volume("csi-1", reference))
	for name, want := range map[string]os.FileMode{w.node.Socket(): 0o600, w.node.Root(): 0o700} {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, want %v (%v)", name, info.Mode(), want, err)
		}
	}
	err := filepath.WalkDir(w.node.Root(), func(name string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.Type()&os.ModeSocket == 0 {
			return nil
		}
		info, err := e.Info()
		if err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v", name, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	w.mustUnpublish("csi-1")
}
