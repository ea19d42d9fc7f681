package mounttest

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/mount"
)

// Subject is one kind of Mounter under test.
type Subject struct {
	Mounter mount.Mounter
	// Corrupt breaks what is mounted at the target, or mounts something broken there.
	Corrupt func(t *testing.T, target string)
}

// Conform checks the promises of mount.Mounter. fresh is called once for each of them.
func Conform(t *testing.T, fresh func(t *testing.T) Subject) {
	for name, check := range map[string]func(*testing.T, Subject){
		"bind and unmount":            bindAndUnmount,
		"exec":                        bindWithExec,
		"two targets":                 twoTargets,
		"stacked":                     stacked,
		"nothing there":               nothingThere,
		"refused":                     refused,
		"directory below a mount":     belowMount,
		"corrupted":                   corrupted,
		"list":                        list,
		"concurrent different target": concurrent,
	} {
		t.Run(name, func(t *testing.T) { check(t, fresh(t)) })
	}
}

// dirs makes a source, which holds a file and a directory, and an empty target.
func dirs(t *testing.T) (source, target string) {
	t.Helper()
	// t.TempDir may lie behind a symbolic link on the machine of a developer.
	base, err := filepath.EvalSymlinks(t.TempDir())
	noError(t, err)
	source, target = filepath.Join(base, "source dir"), filepath.Join(base, "target")
	noError(t, os.MkdirAll(filepath.Join(source, "sub"), 0o755))
	noError(t, os.WriteFile(filepath.Join(source, "file"), []byte("content"), 0o644))
	noError(t, os.Mkdir(target, 0o755))
	return source, target
}

func bindAndUnmount(t *testing.T, s Subject) {
	source, target := dirs(t)
	noError(t, s.Mounter.BindReadOnly(source, target, mount.Options{}))
	state := stateOf(t, s, target)
	if !state.Mounted || !state.ReadOnly || !state.NoExec || state.Corrupted {
		t.Errorf("state after bind: %+v", state)
	}
	points, err := s.Mounter.List()
	noError(t, err)
	device, root, ok := mount.Locate(points, source)
	if !ok || state.Source != root || state.Device != device {
		t.Errorf("state says %s on %s, the source lies at %s on %s", state.Source, state.Device, root, device)
	}
	noError(t, s.Mounter.Unmount(target))
	if state := stateOf(t, s, target); state != (mount.State{}) {
		t.Errorf("state after unmount: %+v", state)
	}
}

func bindWithExec(t *testing.T, s Subject) {
	source, target := dirs(t)
	noError(t, s.Mounter.BindReadOnly(source, target, mount.Options{Exec: true}))
	defer unmount(t, s, target)
	if state := stateOf(t, s, target); !state.ReadOnly || state.NoExec {
		t.Errorf("state with exec: %+v", state)
	}
}

func twoTargets(t *testing.T, s Subject) {
	source, target := dirs(t)
	other := target + "-2"
	noError(t, os.Mkdir(other, 0o755))
	noError(t, s.Mounter.BindReadOnly(source, target, mount.Options{}))
	noError(t, s.Mounter.BindReadOnly(filepath.Join(source, "sub"), other, mount.Options{}))
	defer unmount(t, s, other)
	noError(t, s.Mounter.Unmount(target))
	if state := stateOf(t, s, other); !state.Mounted || filepath.Base(state.Source) != "sub" {
		t.Errorf("unmounting one target changed the other: %+v", state)
	}
}

func stacked(t *testing.T, s Subject) {
	source, target := dirs(t)
	for _, dir := range []string{source, source, filepath.Join(source, "sub")} {
		noError(t, s.Mounter.BindReadOnly(dir, target, mount.Options{}))
	}
	if state := stateOf(t, s, target); filepath.Base(state.Source) != "sub" {
		t.Errorf("the topmost mount is %q, want sub", state.Source)
	}
	noError(t, s.Mounter.Unmount(target))
	if stateOf(t, s, target).Mounted {
		t.Error("a mount is left after Unmount")
	}
	noError(t, os.Remove(target))
}

func nothingThere(t *testing.T, s Subject) {
	_, target := dirs(t)
	for _, path := range []string{target, target + "/missing", target + "-missing/below"} {
		noError(t, s.Mounter.Unmount(path))
		if state := stateOf(t, s, path); state != (mount.State{}) {
			t.Errorf("state of %s: %+v", path, state)
		}
	}
}

func refused(t *testing.T, s Subject) {
	source, target := dirs(t)
	base := filepath.Dir(target)
	noError(t, os.Symlink(target, filepath.Join(base, "link")))
	noError(t, os.Symlink(base, filepath.Join(base, "parent")))
	file := filepath.Join(source, "file")
	for name, c := range map[string]struct {
		source, target string
		want           error
	}{
		"relative source":       {"source dir", target, model.ErrInvalid},
		"relative target":       {source, "target", model.ErrInvalid},
		"unclean target":        {source, target + "/../target", model.ErrInvalid},
		"trailing slash":        {source, target + "/", model.ErrInvalid},
		"root":                  {source, "/", model.ErrInvalid},
		"NUL":                   {source, target + "\x00", model.ErrInvalid},
		"target is a link":      {source, filepath.Join(base, "link"), model.ErrInvalid},
		"target behind a link":  {source, filepath.Join(base, "parent", "target"), model.ErrInvalid},
		"source behind a link":  {filepath.Join(base, "parent", "source dir"), target, model.ErrInvalid},
		"target is a file":      {source, file, model.ErrInvalid},
		"source is a file":      {file, target, model.ErrInvalid},
		"target does not exist": {source, target + "-missing", fs.ErrNotExist},
		"source does not exist": {source + "-missing", target, fs.ErrNotExist},
	} {
		if err := s.Mounter.BindReadOnly(c.source, c.target, mount.Options{}); !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
	}
	if stateOf(t, s, target).Mounted {
		t.Error("a refused mount was made all the same")
	}
	for _, path := range []string{"target", "/", target + "/"} {
		if err := s.Mounter.Unmount(path); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("Unmount(%q): %v", path, err)
		}
		if _, err := s.Mounter.State(path); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("State(%q): %v", path, err)
		}
	}
}

func belowMount(t *testing.T, s Subject) {
	source, target := dirs(t)
	noError(t, s.Mounter.BindReadOnly(source, target, mount.Options{}))
	defer unmount(t, s, target)
	if state := stateOf(t, s, filepath.Join(target, "sub")); state.Mounted {
		t.Errorf("a directory inside of a mount counts as mounted: %+v", state)
	}
}

func corrupted(t *testing.T, s Subject) {
	source, target := dirs(t)
	noError(t, s.Mounter.BindReadOnly(source, target, mount.Options{}))
	s.Corrupt(t, target)
	if state := stateOf(t, s, target); !state.Mounted || !state.Corrupted {
		t.Errorf("state of a corrupted mount: %+v", state)
	}
	noError(t, s.Mounter.Unmount(target))
	noError(t, os.Remove(target))
}

func list(t *testing.T, s Subject) {
	source, target := dirs(t)
	noError(t, s.Mounter.BindReadOnly(source, target, mount.Options{}))
	defer unmount(t, s, target)
	points, err := s.Mounter.List()
	noError(t, err)
	state := stateOf(t, s, target)
	want := mount.Point{Target: target, Root: state.Source, Device: state.Device}
	if !slices.Contains(points, want) {
		t.Errorf("List has no %+v", want)
	}
}

func concurrent(t *testing.T, s Subject) {
	source, target := dirs(t)
	var wg sync.WaitGroup
	for i := range 8 {
		own := filepath.Join(filepath.Dir(target), "target"+string(rune('a'+i)))
		noError(t, os.Mkdir(own, 0o755))
		wg.Go(func() {
			for range 5 {
				if err := s.Mounter.BindReadOnly(source, own, mount.Options{}); err != nil {
					t.Error(err)
				}
				if state, err := s.Mounter.State(own); err != nil || !state.Mounted {
					t.Errorf("state %+v, %v", state, err)
				}
				if err := s.Mounter.Unmount(own); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func stateOf(t *testing.T, s Subject, target string) mount.State {
	t.Helper()
	state, err := s.Mounter.State(target)
	noError(t, err)
	return state
}

func unmount(t *testing.T, s Subject, target string) {
	t.Helper()
	noError(t, s.Mounter.Unmount(target))
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
