package mount_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/mount"
)

func TestTarget(t *testing.T) {
	base := t.TempDir()
	target := filepath.Join(base, "mount")
	for i, want := range []bool{true, false} {
		if created, err := mount.MakeTarget(target); err != nil || created != want {
			t.Fatalf("call %d: created %t, %v", i, created, err)
		}
	}
	info, err := os.Lstat(target)
	if err != nil || !info.IsDir() || info.Mode().Perm()&0o007 != 0 {
		t.Errorf("%v, %v: want a directory that others cannot enter", info, err)
	}
	file := filepath.Join(target, "precious")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := mount.RemoveTarget(target); !errors.Is(err, model.ErrConflict) {
		t.Errorf("removing a directory with a file in it: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Error("the file is gone:", err)
	}
	for i := range 2 {
		if err := mount.RemoveTarget(target); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
	if err := mount.RemoveTarget(filepath.Join(base, "no", "such")); err != nil {
		t.Error("no directory above:", err)
	}
}

func TestTargetRefusesWhatIsNotADirectory(t *testing.T) {
	base := t.TempDir()
	victim, link, file := filepath.Join(base, "victim"), filepath.Join(base, "link"), filepath.Join(base, "file")
	if err := errors.Join(os.Mkdir(victim, 0o755), os.Symlink(victim, link), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		link:                           model.ErrInvalid,
		file:                           model.ErrInvalid,
		filepath.Join(link, "below"):   model.ErrInvalid,
		filepath.Join(file, "below"):   model.ErrInvalid,
		filepath.Join(base, "no", "x"): fs.ErrNotExist,
		"relative":                     model.ErrInvalid,
		"/":                            model.ErrInvalid,
		base + "/../x":                 model.ErrInvalid,
	} {
		if _, err := mount.MakeTarget(path); !errors.Is(err, want) {
			t.Errorf("MakeTarget(%s): %v, want %v", path, err, want)
		}
		if errors.Is(want, fs.ErrNotExist) {
			continue
		}
		if err := mount.RemoveTarget(path); !errors.Is(err, want) {
			t.Errorf("RemoveTarget(%s): %v, want %v", path, err, want)
		}
	}
	entries, err := os.ReadDir(victim)
	if err != nil || len(entries) != 0 {
		t.Errorf("the directory behind the link changed: %v, %v", entries, err)
	}
}

func TestTargetInUse(t *testing.T) {
	_, source, target := tree(t)
	m := mount.New()
	if err := m.BindReadOnly(source, target, mount.Options{}); err != nil {
		t.Fatal(err)
	}
	defer m.Unmount(target)
	if err := mount.RemoveTarget(target); !errors.Is(err, model.ErrConflict) {
		t.Errorf("removing a mount point: %v", err)
	}
}
