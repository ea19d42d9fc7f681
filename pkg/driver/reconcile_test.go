package driver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/mount"
	"github.com/model-csi/model-csi/pkg/mount/mounttest"
	"github.com/model-csi/model-csi/pkg/store"
)

func TestReconcile(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(t *testing.T, e *env)
		kept    bool
	}{
		"mounted":         {func(*testing.T, *env) {}, true},
		"corrupted":       {func(_ *testing.T, e *env) { e.mounter.Corrupt(e.target) }, true},
		"rebooted":        {func(_ *testing.T, e *env) { e.mounter.Reboot() }, true},
		"directory alone": {func(t *testing.T, e *env) { e.mounter.Reboot(); must(t, os.Remove(e.target)) }, true},
		"pod is gone": {func(t *testing.T, e *env) {
			e.mounter.Reboot()
			must(t, os.RemoveAll(filepath.Dir(e.pod)))
		}, false},
		"mounts cannot be read": {func(t *testing.T, e *env) {
			e.mounter.Reboot()
			must(t, os.RemoveAll(e.pod))
			failOn(e, "state", errors.New("broken"))
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			must(t, e.publish(e.request()))
			c.prepare(t, e)
			for range 2 {
				e.reconcile(t.Context())
			}
			if _, kept := e.store.Lease("csi-0123", e.target); kept != c.kept {
				t.Errorf("lease kept: %t, want %t\n%s", kept, c.kept, e.log)
			}
			if e.mounter.Calls("unmount") > 0 {
				t.Error("something was unmounted")
			}
		})
	}
}

// What a person has mounted is gone after a reboot, and nobody asks for it again.
func TestReconcileLocalVolumes(t *testing.T) {
	e := newEnv(t)
	r := e.request()
	r.VolumeId, r.VolumeContext = LocalPrefix+"0123", map[string]string{"reference": r.VolumeContext["reference"]}
	must(t, e.publish(r))
	e.reconcile(t.Context())
	if _, kept := e.store.Lease(r.VolumeId, e.target); !kept {
		t.Fatal("the lease of a mount was dropped")
	}
	e.mounter.Reboot()
	e.reconcile(t.Context())
	if _, kept := e.store.Lease(r.VolumeId, e.target); kept {
		t.Error("the lease is kept after a reboot")
	}
}

func TestReconcileLeavesMountsWithoutLease(t *testing.T) {
	e := newEnv(t)
	must(t, e.publish(e.request()))
	must(t, e.store.DropLease("csi-0123", e.target))
	e.reconcile(t.Context())
	if !e.mounted().Mounted {
		t.Error("a mount that a pod may read was taken away")
	}
	if !strings.Contains(e.log.String(), "mounted without a lease") {
		t.Errorf("the log says nothing of it: %s", e.log)
	}
	must(t, e.unpublish())
	e.checkNothingLeft()
}

func TestInUse(t *testing.T) {
	e := newEnv(t)
	must(t, e.publish(e.request("subPath", "onnx")))
	mounted := e.puller.tree.Digest()
	must(t, e.store.DropLease("csi-0123", e.target))
	leased := digest.FromString("leased")
	must(t, e.store.PutLease(store.Lease{VolumeID: "v", Target: "/gone", View: leased}))
	must(t, e.mounter.BindReadOnly(t.TempDir(), t.TempDir(), mount.Options{}))
	used, err := e.InUse()
	must(t, err)
	if len(used) != 2 || !used[mounted] || !used[leased] {
		t.Errorf("in use: %v, want %s and %s", used, mounted, leased)
	}
	must(t, e.unpublish())
	if used, err = e.InUse(); err != nil || len(used) != 1 {
		t.Errorf("in use after unpublish: %v, %v", used, err)
	}
	failOn(e, "list", errors.New("broken"))
	if _, err := e.InUse(); err == nil {
		t.Error("mounts that cannot be read count as none; eviction would take the model of a running pod")
	}
}

func TestViewOf(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	other := strings.Repeat("f", 64)
	for source, want := range map[string]string{
		"/var/lib/model-csi/views/" + id:                     id + " ",
		"/views/" + id:                                       id + " ",
		"/views/" + id + "/a/b":                              id + " a/b",
		"/views/" + id + "/views/" + other:                   id + " views/" + other,
		"/views/views/" + id:                                 id + " ",
		"/views/data/views/" + id + "/x":                     id + " x",
		"/var/lib/model-csi/views":                           "",
		"/var/lib/model-csi/views/":                          "",
		"/var/lib/model-csi/views/.tmp-1":                    "",
		"/var/lib/model-csi/views/" + id[:63]:                "",
		"/var/lib/model-csi/views/" + strings.ToUpper(other): "",
		"/var/lib/model-csi/blobs/" + id:                     "",
		"/var/lib/model-csi/myviews/" + id:                   "",
		"":                                                   "",
	} {
		view, sub, ok := viewOf(source)
		got := ""
		if ok {
			got = view.Encoded() + " " + sub
		}
		if got != want {
			t.Errorf("viewOf(%q) = %q, want %q", source, got, want)
		}
	}
}

// otherDevice makes a fake look as if its mounts were of another filesystem than the cache.
type otherDevice struct{ *mounttest.Fake }

func (m otherDevice) List() ([]mount.Point, error) {
	points, err := m.Fake.List()
	for i := range points[1:] {
		points[i+1].Device = "9:9"
	}
	return points, err
}

func TestMountedViewsLooksAtTheDevice(t *testing.T) {
	fake := mounttest.NewFake()
	source := filepath.Join(t.TempDir(), "views", strings.Repeat("a", 64))
	must(t, os.MkdirAll(source, 0o755))
	must(t, fake.BindReadOnly(source, t.TempDir(), mount.Options{}))
	for _, c := range []struct {
		mounter mount.Mounter
		want    int
	}{{fake, 1}, {otherDevice{fake}, 0}} {
		used, err := MountedViews(c.mounter, "/var/lib/model-csi/views")
		if err != nil || len(used) != c.want {
			t.Errorf("%T: %v, %v, want %d", c.mounter, used, err, c.want)
		}
	}
}

func ExampleMountedViews() {
	used, err := MountedViews(mounttest.NewFake(), "/var/lib/model-csi/views")
	fmt.Println(len(used), err)
	// Output: 0 <nil>
}
