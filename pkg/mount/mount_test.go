package mount_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/mount"
	"github.com/model-csi/model-csi/pkg/mount/mounttest"
)

var systems = map[string]func() *mount.System{"by descriptor": mount.New, "classic": mount.NewClassic}

// each runs the test with both ways of mounting.
func each(t *testing.T, test func(t *testing.T, m *mount.System)) {
	for name, system := range systems {
		t.Run(name, func(t *testing.T) { test(t, system()) })
	}
}

func TestConformance(t *testing.T) {
	each(t, func(t *testing.T, m *mount.System) {
		mounttest.Conform(t, func(*testing.T) mounttest.Subject {
			return mounttest.Subject{Mounter: m, Corrupt: mountDeadFUSE}
		})
	})
}

// mountDeadFUSE mounts a FUSE filesystem whose server ended at once.
func mountDeadFUSE(t *testing.T, target string) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal("open /dev/fuse:", err)
	}
	err = unix.Mount("dead", target, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
	unix.Close(fd)
	if err != nil {
		t.Fatal("mount fuse:", err)
	}
	if _, err := os.Stat(target); !errors.Is(err, unix.ENOTCONN) {
		t.Fatalf("stat of a dead mount: %v", err)
	}
}

func tree(t *testing.T) (base, source, target string) {
	t.Helper()
	base = t.TempDir()
	source, target = filepath.Join(base, "source"), filepath.Join(base, "target")
	for _, dir := range []string{source, target} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script := []byte("#!/bin/sh\nexit 0\n")
	if err := os.WriteFile(filepath.Join(source, "script"), script, 0o755); err != nil {
		t.Fatal(err)
	}
	return base, source, target
}

func TestWhatIsMountedIsReadOnly(t *testing.T) {
	each(t, func(t *testing.T, m *mount.System) {
		_, source, target := tree(t)
		if err := m.BindReadOnly(source, target, mount.Options{}); err != nil {
			t.Fatal(err)
		}
		defer m.Unmount(target)
		script := filepath.Join(target, "script")
		if got, err := os.ReadFile(script); err != nil || len(got) == 0 {
			t.Errorf("read: %q, %v", got, err)
		}
		for what, err := range map[string]error{
			"write":  os.WriteFile(script, nil, 0o644),
			"create": os.WriteFile(filepath.Join(target, "new"), nil, 0o644),
			"chmod":  os.Chmod(script, 0o777),
			"remove": os.Remove(script),
		} {
			if !errors.Is(err, unix.EROFS) {
				t.Errorf("%s: %v, want a read-only filesystem", what, err)
			}
		}
		if err := exec.Command(script).Run(); !errors.Is(err, unix.EACCES) {
			t.Errorf("exec: %v, want permission denied", err)
		}
		var st unix.Statfs_t
		if err := unix.Statfs(target, &st); err != nil {
			t.Fatal(err)
		}
		if want := int64(unix.ST_NOSUID | unix.ST_NODEV | unix.ST_RDONLY); st.Flags&want != want {
			t.Errorf("flags %#x lack some of %#x", st.Flags, want)
		}
	})
}

func TestExec(t *testing.T) {
	each(t, func(t *testing.T, m *mount.System) {
		_, source, target := tree(t)
		if err := m.BindReadOnly(source, target, mount.Options{Exec: true}); err != nil {
			t.Fatal(err)
		}
		defer m.Unmount(target)
		if err := exec.Command(filepath.Join(target, "script")).Run(); err != nil {
			t.Error("exec:", err)
		}
	})
}

// A container runtime sees the mounts because they propagate; mounts and unmounts have to reach the peer.
func TestPropagation(t *testing.T) {
	each(t, func(t *testing.T, m *mount.System) {
		base, source, _ := tree(t)
		shared, peer := filepath.Join(base, "shared"), filepath.Join(base, "peer")
		for _, dir := range []string{filepath.Join(shared, "pod"), peer} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		mustMount(t, shared, shared, unix.MS_BIND)
		mustMount(t, "", shared, unix.MS_SHARED)
		mustMount(t, shared, peer, unix.MS_BIND)
		target := filepath.Join(shared, "pod")
		if err := m.BindReadOnly(source, target, mount.Options{}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(peer, "pod", "script")); err != nil {
			t.Error("the mount did not reach the peer:", err)
		}
		if err := os.WriteFile(filepath.Join(peer, "pod", "script"), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Error("the peer is writable:", err)
		}
		if err := m.Unmount(target); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(peer, "pod", "script")); !errors.Is(err, os.ErrNotExist) {
			t.Error("the unmount did not reach the peer:", err)
		}
	})
}

func mustMount(t *testing.T, source, target string, flags uintptr) {
	t.Helper()
	if err := unix.Mount(source, target, "", flags, ""); err != nil {
		t.Fatalf("mount %s: %v", target, err)
	}
	if flags&unix.MS_BIND != 0 {
		t.Cleanup(func() { unix.Unmount(target, unix.MNT_DETACH) })
	}
}

// Whoever still reads when kubelet asks for the unmount keeps what is open; the target is free at once.
func TestUnmountInUse(t *testing.T) {
	_, source, target := tree(t)
	m := mount.New()
	if err := m.BindReadOnly(source, target, mount.Options{}); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(filepath.Join(target, "script"))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if err := m.Unmount(target); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(target); err != nil {
		t.Error("the target is not free:", err)
	}
	if got, err := io.ReadAll(reader); err != nil || len(got) == 0 {
		t.Errorf("the reader lost its file: %q, %v", got, err)
	}
}

// A short use of the mount must not make it a lazy one.
func TestUnmountWaitsForShortUse(t *testing.T) {
	_, source, target := tree(t)
	m := mount.New()
	if err := m.BindReadOnly(source, target, mount.Options{}); err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(filepath.Join(target, "script"))
	if err != nil {
		t.Fatal(err)
	}
	const use = 200 * time.Millisecond
	start := time.Now()
	time.AfterFunc(use, func() { reader.Close() })
	if err := m.Unmount(target); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < use || took > 20*use {
		t.Errorf("Unmount took %s, the mount was in use for %s", took, use)
	}
}

// Directories that users name are on mount points of pods, and some names have been used to forge table entries.
func TestOddNames(t *testing.T) {
	base, source, target := tree(t)
	m := mount.New()
	for i, name := range []string{"space d", "tab\td", "line\nd", `back\slash`, "nbsp\u00a0" + "d", `\040`, "quote\"d", "émoji😀"} {
		odd := filepath.Join(base, name, "x "+target+" ro")
		if err := os.MkdirAll(odd, 0o755); err != nil {
			// The third component holds slashes on purpose: it is a path that ends like the target.
			t.Fatal(err)
		}
		if err := m.BindReadOnly(source, odd, mount.Options{}); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if state, err := m.State(odd); err != nil || !state.Mounted || state.Source == "" {
			t.Errorf("%q: %+v, %v", name, state, err)
		}
		if state, err := m.State(target); err != nil || state.Mounted {
			t.Errorf("%q makes the target look mounted: %+v, %v", name, state, err)
		}
		points, err := m.List()
		if err != nil {
			t.Fatal(err)
		}
		if last := points[len(points)-1]; last.Target != odd {
			t.Errorf("List shows %q, want %q", last.Target, odd)
		}
		if err := m.Unmount(odd); err != nil {
			t.Error(err)
		}
	}
}

func TestRemovedSource(t *testing.T) {
	_, source, target := tree(t)
	m := mount.New()
	if err := m.BindReadOnly(source, target, mount.Options{}); err != nil {
		t.Fatal(err)
	}
	defer m.Unmount(target)
	before, err := m.State(target)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(source); err != nil {
		t.Fatal(err)
	}
	if after, err := m.State(target); err != nil || after != before {
		t.Errorf("state %+v, %v; before %+v", after, err, before)
	}
}

// Somebody swaps the target for a symbolic link again and again. The victim must never be covered.
func TestSwappedTarget(t *testing.T) {
	each(t, func(t *testing.T, m *mount.System) {
		base, source, target := tree(t)
		victim, link := filepath.Join(base, "victim"), filepath.Join(base, "link")
		if err := os.Mkdir(victim, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(victim, link); err != nil {
			t.Fatal(err)
		}
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-stop:
					return
				default: // EBUSY while something is mounted
					_ = unix.Renameat2(unix.AT_FDCWD, target, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
				}
			}
		}()
		var made, refused int
		for range 300 {
			switch err := m.BindReadOnly(source, target, mount.Options{}); {
			case err == nil:
				made++
			case errors.Is(err, model.ErrInvalid), errors.Is(err, os.ErrNotExist):
				refused++
			default:
				t.Errorf("unexpected error: %v", err)
			}
			if state, err := m.State(victim); err != nil || state.Mounted {
				t.Fatalf("the victim was covered: %+v, %v", state, err)
			}
			for _, dir := range []string{target, link} {
				_ = m.Unmount(dir) // whichever is the directory now
			}
		}
		close(stop)
		<-done
		if made+refused == 0 {
			t.Error("nothing happened")
		}
		t.Logf("%d mounted, %d refused", made, refused)
	})
}

func TestLocate(t *testing.T) {
	points := []mount.Point{
		{Target: "/", Root: "/", Device: "8:1"},
		{Target: "/var", Root: "/", Device: "8:2"},
		{Target: "/var/lib/x", Root: "/@x", Device: "0:30"},
		{Target: "/var/lib/x", Root: "/data", Device: "8:3"},
	}
	for path, want := range map[string]string{
		"/":              "8:1 /",
		"/etc":           "8:1 /etc",
		"/var":           "8:2 /",
		"/variable":      "8:1 /variable",
		"/var/lib":       "8:2 /lib",
		"/var/lib/x":     "8:3 /data",
		"/var/lib/x/y/z": "8:3 /data/y/z",
		"/var/lib/xy":    "8:2 /lib/xy",
	} {
		device, root, ok := mount.Locate(points, path)
		if got := device + " " + root; !ok || got != want {
			t.Errorf("Locate(%q) = %q, want %q", path, got, want)
		}
	}
	if _, _, ok := mount.Locate(nil, "/"); ok {
		t.Error("found a mount in an empty table")
	}
}
