package mount_test

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/model-csi/model-csi/pkg/mount"
	"github.com/model-csi/model-csi/pkg/mount/mounttest"
)

func ExampleMounter() {
	base, _ := os.MkdirTemp("", "mount-")
	defer os.RemoveAll(base)
	view, target := filepath.Join(base, "view"), filepath.Join(base, "target")
	_ = os.Mkdir(view, 0o755)

	var mounter mount.Mounter = mounttest.NewFake() // mount.New() as root
	if _, err := mount.MakeTarget(target); err != nil {
		fmt.Println(err)
	}
	if err := mounter.BindReadOnly(view, target, mount.Options{}); err != nil {
		fmt.Println(err)
	}
	state, err := mounter.State(target)
	fmt.Println(state.Mounted, state.ReadOnly, state.Source == view, err)
	fmt.Println(mounter.Unmount(target), mount.RemoveTarget(target))
	// Output:
	// true true true <nil>
	// <nil> <nil>
}
