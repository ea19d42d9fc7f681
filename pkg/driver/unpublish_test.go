package driver

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/model-csi/model-csi/pkg/mount"
)

var mountOptions mount.Options

func TestUnpublishSucceedsWhenThereIsNothingToDo(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, e *env){
		"unknown volume": func(*testing.T, *env) {},
		"no directories": func(t *testing.T, e *env) { must(t, os.Remove(e.pod)) },
		"twice": func(t *testing.T, e *env) {
			must(t, e.publish(e.request()))
			must(t, e.unpublish())
		},
		"after a reboot": func(t *testing.T, e *env) {
			must(t, e.publish(e.request()))
			e.mounter.Reboot()
		},
		"directory left": func(t *testing.T, e *env) { must(t, os.Mkdir(e.target, 0o750)) },
		"mount without lease": func(t *testing.T, e *env) {
			must(t, e.publish(e.request()))
			must(t, e.store.DropLease("csi-0123", e.target))
		},
		"corrupted": func(t *testing.T, e *env) {
			must(t, e.publish(e.request()))
			e.mounter.Corrupt(e.target)
		},
		"disk full": func(t *testing.T, e *env) {
			must(t, e.publish(e.request()))
			e.store.failing("PutLease", errors.New("no space left on device"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			prepare(t, e)
			must(t, e.unpublish())
			e.checkNothingLeft()
		})
	}
}

func TestUnpublishDoesNotNeedTheStore(t *testing.T) {
	e := newEnv(t)
	must(t, e.publish(e.request()))
	e.store.failing("DropLease", errors.New("read-only file system"))
	must(t, e.unpublish())
	e.store.failing("DropLease", nil)
	must(t, e.unpublish())
	e.checkNothingLeft()
}

func TestUnpublishTellsWhatItCannotDo(t *testing.T) {
	e := newEnv(t)
	must(t, e.publish(e.request()))
	failOn(e, "unmount", errors.New("stuck"))
	wantCode(t, e.unpublish(), codes.Internal)
	if _, ok := e.store.Lease("csi-0123", e.target); !ok {
		t.Error("the lease of a mounted volume was dropped")
	}
	e.mounter.Fail(nil)
	must(t, e.unpublish())
	e.checkNothingLeft()
}

func TestUnpublishLeavesOthersAlone(t *testing.T) {
	t.Run("mount", func(t *testing.T) {
		e := newEnv(t)
		must(t, os.Mkdir(e.target, 0o750))
		must(t, e.mounter.BindReadOnly(t.TempDir(), e.target, mountOptions))
		wantCode(t, e.unpublish(), codes.FailedPrecondition)
		if !e.mounted().Mounted {
			t.Error("somebody else's mount was taken away")
		}
	})
	t.Run("volume", func(t *testing.T) {
		e := newEnv(t)
		must(t, e.publish(e.request()))
		_, err := e.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "csi-other", TargetPath: e.target})
		must(t, err)
		if !e.mounted().Mounted {
			t.Error("another volume's mount was taken away")
		}
		must(t, e.unpublish())
		e.checkNothingLeft()
	})
	t.Run("files", func(t *testing.T) {
		e := newEnv(t)
		must(t, os.Mkdir(e.target, 0o750))
		file := filepath.Join(e.target, "precious")
		must(t, os.WriteFile(file, nil, 0o600))
		must(t, e.unpublish())
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	})
	t.Run("files below a volume", func(t *testing.T) {
		e := newEnv(t)
		must(t, e.publish(e.request()))
		file := filepath.Join(e.target, "precious")
		must(t, os.WriteFile(file, nil, 0o600))
		must(t, e.unpublish())
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
		must(t, os.Remove(file))
		must(t, os.Remove(e.target))
		e.checkNothingLeft()
	})
}

func TestUnpublishBadRequests(t *testing.T) {
	e := newEnv(t)
	for name, r := range map[string]*csi.NodeUnpublishVolumeRequest{
		"no volume id":        {TargetPath: e.target},
		"no target":           {VolumeId: "v"},
		"relative":            {VolumeId: "v", TargetPath: "mount"},
		"dots":                {VolumeId: "v", TargetPath: e.pod + "/../x"},
		"root":                {VolumeId: "v", TargetPath: "/"},
		"the cache":           {VolumeId: "v", TargetPath: e.store.root + "/views"},
		"control character":   {VolumeId: "v\n", TargetPath: e.target},
		"NUL in target":       {VolumeId: "v", TargetPath: e.target + "\x00"},
		"kernel's filesystem": {VolumeId: "v", TargetPath: "/sys/fs/cgroup"},
	} {
		_, err := e.NodeUnpublishVolume(t.Context(), r)
		if err := toStatus(err); err == nil {
			t.Errorf("%s was accepted", name)
		} else {
			wantCode(t, err, codes.InvalidArgument)
		}
	}
}
