package driver

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/mount"
)

// The kernel's own mounts instead of the fake ones.
func TestPublishForReal(t *testing.T) {
	e := newEnv(t, func(o *Options) { o.Mounter = mount.New() })
	must(t, e.publish(e.request()))
	must(t, e.publish(e.request()))
	file := filepath.Join(e.target, "onnx", "model.onnx")
	if content, err := os.ReadFile(file); err != nil || string(content) != "onnx weights" {
		t.Errorf("content %q, %v", content, err)
	}
	if err := os.WriteFile(file, nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing: %v", err)
	}
	used, err := e.InUse()
	if err != nil || !used[e.puller.tree.Digest()] {
		t.Errorf("in use: %v, %v", used, err)
	}
	second := e.request()
	second.VolumeId, second.TargetPath = "csi-second", filepath.Join(e.pod, "second")
	must(t, e.publish(second))
	first, err := os.Stat(file)
	must(t, err)
	other, err := os.Stat(filepath.Join(second.GetTargetPath(), "onnx", "model.onnx"))
	must(t, err)
	if !os.SameFile(first, other) {
		t.Error("two volumes of one model do not share its inodes")
	}
	must(t, e.unpublish())
	if _, err := os.Stat(filepath.Join(second.GetTargetPath(), "onnx", "model.onnx")); err != nil {
		t.Error("unpublishing one volume disturbed the other:", err)
	}
	must(t, mount.New().Unmount(second.GetTargetPath())) // as a reboot would
	must(t, os.Remove(second.GetTargetPath()))
	must(t, e.store.DropLease(second.GetVolumeId(), second.GetTargetPath()))
	e.checkNothingLeft()
}

func TestPublishSubPathForReal(t *testing.T) {
	e := newEnv(t, func(o *Options) { o.Mounter = mount.New() })
	must(t, e.publish(e.request("subPath", "latest")))
	if content, err := os.ReadFile(filepath.Join(e.target, "model.onnx")); err != nil || string(content) != "int8" {
		t.Errorf("content %q, %v", content, err)
	}
	must(t, e.publish(e.request("subPath", "latest")))
	must(t, e.unpublish())
	e.checkNothingLeft()
}
