// Package mounttest helps to test what mounts: a [Fake] that needs no privileges, [Main] which gives a test binary a
// mount namespace of its own, and [Conform], the suite that every mount.Mounter passes.
package mounttest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/mount"
)

// Device is the device of every mount of a Fake.
const Device = "8:1"

// Fake is a Mounter that only remembers. The directories must exist, as for the real one; nothing appears in them.
// Create it with NewFake. It is safe for concurrent use.
type Fake struct {
	mu     sync.Mutex
	points []fakePoint // in the order in which they were attached
	fail   func(op, target string) error
	calls  map[string]int
}

type fakePoint struct {
	mount.Point
	options   mount.Options
	corrupted bool
}

var _ mount.Mounter = (*Fake)(nil)

// NewFake returns a Fake of a host whose only filesystem is mounted at /.
func NewFake() *Fake { return &Fake{calls: map[string]int{}} }

// Fail makes f decide before each operation ("bind", "unmount", "state", "list") whether it fails. nil ends that.
func (m *Fake) Fail(f func(op, target string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = f
}

// Calls says how often the operation was asked for.
func (m *Fake) Calls(op string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[op]
}

// Corrupt breaks what is mounted at the target, as the death of a FUSE server would.
func (m *Fake) Corrupt(target string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i := m.top(target); i >= 0 {
		m.points[i].corrupted = true
	}
}

// Reboot forgets every mount.
func (m *Fake) Reboot() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.points = nil
}

// BindReadOnly implements mount.Mounter.
func (m *Fake) BindReadOnly(source, target string, o mount.Options) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.begin("bind", target); err != nil {
		return err
	}
	for _, dir := range []string{source, target} {
		if err := checkDirectory(dir); err != nil {
			return fmt.Errorf("mount %s at %s: %w", source, target, err)
		}
	}
	m.points = append(m.points, fakePoint{mount.Point{Target: target, Root: source, Device: Device}, o, false})
	return nil
}

// Unmount implements mount.Mounter.
func (m *Fake) Unmount(target string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.begin("unmount", target); err != nil {
		return err
	}
	if err := mount.CheckPath(target); err != nil {
		return err
	}
	m.points = slices.DeleteFunc(m.points, func(p fakePoint) bool { return p.Target == target })
	return nil
}

// State implements mount.Mounter.
func (m *Fake) State(target string) (mount.State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.begin("state", target); err != nil {
		return mount.State{}, err
	}
	if err := mount.CheckPath(target); err != nil {
		return mount.State{}, err
	}
	i := m.top(target)
	if i < 0 {
		return mount.State{}, nil
	}
	p := m.points[i]
	return mount.State{
		Mounted: true, Source: p.Root, Device: Device, ReadOnly: true, NoExec: !p.options.Exec, Corrupted: p.corrupted,
	}, nil
}

// List implements mount.Mounter.
func (m *Fake) List() ([]mount.Point, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.begin("list", ""); err != nil {
		return nil, err
	}
	points := []mount.Point{{Target: "/", Root: "/", Device: Device}}
	for _, p := range m.points {
		points = append(points, p.Point)
	}
	return points, nil
}

func (m *Fake) begin(op, target string) error {
	m.calls[op]++
	if m.fail == nil {
		return nil
	}
	return m.fail(op, target)
}

func (m *Fake) top(target string) int {
	for i, p := range slices.Backward(m.points) {
		if p.Target == target {
			return i
		}
	}
	return -1
}

func checkDirectory(path string) error {
	if err := mount.CheckPath(path); err != nil {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if real != path || info.Mode().Type() != fs.ModeDir {
		return fmt.Errorf("%s is not a directory, or a symbolic link leads there: %w", path, model.ErrInvalid)
	}
	return nil
}
