package store

import (
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestStateOfBefore opens a root as the first release left it. Mounted volumes depend on it: what is in testdata is added to,
// and never changed.
func TestStateOfBefore(t *testing.T) {
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS("testdata/state-1")); err != nil {
		t.Fatal(err)
	}
	s := open(t, root, Options{})
	const target = "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/models/mount"
	l, ok := s.Lease("csi-1", target)
	want := Lease{
		VolumeID: "csi-1", Target: target, Reference: "registry.example.com/team/m:v1",
		Digest: "sha256:1111111111111111111111111111111111111111111111111111111111111111",
		View:   "sha256:2222222222222222222222222222222222222222222222222222222222222222", SubPath: "sub", Format: "modelpack",
		Bytes: 5, Files: 2, Attributes: `{"reference":"registry.example.com/team/m:v1","subPath":"sub"}`, Pod: "default/pod",
		Created: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	if !ok || !reflect.DeepEqual(l, want) {
		t.Errorf("lease %+v, want %+v", l, want)
	}
	var pinned struct {
		Digest digest.Digest `json:"digest"`
		At     time.Time     `json:"at"`
	}
	if !s.Record("tags", "registry.example.com/team/m:v1", &pinned) || pinned.Digest != want.Digest || !pinned.At.Equal(want.Created) {
		t.Errorf("record %+v", pinned)
	}
}
