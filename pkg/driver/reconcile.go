package driver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/mount"
	"github.com/model-csi/model-csi/pkg/store"
)

// reconcile compares leases with mounts. What it cannot decide it leaves alone: a lease too many keeps a model from being
// evicted, a lease too few lets the model of a running pod be.
func (d *Driver) reconcile(ctx context.Context) {
	leased := make(map[string]bool)
	var kept, dropped int
	for _, l := range d.opts.Store.Leases() {
		leased[l.Target] = true
		stale, err := d.stale(l)
		if err == nil && stale {
			err = d.dropStale(ctx, l)
		}
		switch {
		case err != nil:
			d.log.Warn("lease not reconciled", "volume", l.VolumeID, "target", l.Target, "error", err)
		case stale:
			dropped++
			d.log.Info("lease of a pod that is gone dropped", "volume", l.VolumeID, "target", l.Target, "pod", l.Pod)
		default:
			kept++
		}
	}
	orphans := d.logOrphans(leased)
	if !d.reconciled.Load() || dropped > 0 {
		d.log.Info("volumes reconciled", "kept", kept, "dropped", dropped, "withoutLease", orphans)
	}
}

// LocalPrefix begins the ids of volumes that a person has mounted, without a pod. Nobody asks for them again after a
// reboot.
const LocalPrefix = "local-"

// stale says that the volume is not mounted and that its pod is gone. Kubelet removes the directory around a target only
// with the pod's volume; while the directory is there, kubelet will publish the volume again (after a reboot) or
// unpublish it.
func (d *Driver) stale(l store.Lease) (bool, error) {
	state, err := d.opts.Mounter.State(l.Target)
	if err != nil || state.Mounted {
		return false, err
	}
	if strings.HasPrefix(l.VolumeID, LocalPrefix) && l.Pod == "" {
		return true, nil
	}
	_, err = os.Lstat(filepath.Dir(l.Target))
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return podsVisible(l.Target)
}

// podsVisible reports whether kubelet's directory of pods is there. When it is not, because a filesystem comes late or a
// path was changed, every pod seems to be gone, and nothing may be concluded from that. Kubelet's targets are
// .../pods/UID/volumes/kubernetes.io~csi/NAME/mount; of other targets the directory two above is looked at.
func podsVisible(target string) (bool, error) {
	pods := filepath.Dir(filepath.Dir(target))
	if i := strings.LastIndex(target, "/volumes/kubernetes.io~csi/"); i > 0 {
		pods = filepath.Dir(target[:i])
	}
	info, err := os.Lstat(pods)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.IsDir(), err
}

// dropStale looks again while no call is working on the target.
func (d *Driver) dropStale(ctx context.Context, l store.Lease) error {
	unlock, err := d.targets.lock(ctx, l.Target)
	if err != nil {
		return err
	}
	defer unlock()
	if stale, err := d.stale(l); err != nil || !stale {
		return err
	}
	return d.opts.Store.DropLease(l.VolumeID, l.Target)
}

// logOrphans tells of views that are mounted without a lease. Pods may be reading them, so they stay; unpublishing takes
// them away.
func (d *Driver) logOrphans(leased map[string]bool) int {
	points, err := ourMounts(d.opts.Mounter, d.viewsDir)
	if err != nil {
		d.log.Warn("mounts not reconciled", "error", err)
		return 0
	}
	orphans := 0
	for _, p := range points {
		if !leased[p.Target] {
			orphans++
			if !d.reconciled.Load() {
				d.log.Info("view is mounted without a lease", "target", p.Target, "source", p.Root)
			}
		}
	}
	return orphans
}

// InUse names the views that a lease or a mount needs, which must not be evicted.
func (d *Driver) InUse() (map[digest.Digest]bool, error) {
	used, err := MountedViews(d.opts.Mounter, d.viewsDir)
	if err != nil {
		return nil, err
	}
	for _, l := range d.opts.Store.Leases() {
		used[l.View] = true
	}
	return used, nil
}

// MountedViews names the views that are mounted anywhere, whole or in part, with a lease or without. viewsDir is the
// directory of all views, an absolute path without symbolic links.
func MountedViews(m mount.Mounter, viewsDir string) (map[digest.Digest]bool, error) {
	points, err := ourMounts(m, viewsDir)
	if err != nil {
		return nil, err
	}
	used := make(map[digest.Digest]bool)
	for _, p := range points {
		view, _, _ := viewOf(p.Root)
		used[view] = true
	}
	return used, nil
}

// ourMounts lists the mounts that look like views and lie on the device of viewsDir. The path of the state root is not
// compared: seen from another container, or under another --root, it may differ. A mount that is taken for ours by
// mistake only protects a view.
func ourMounts(m mount.Mounter, viewsDir string) ([]mount.Point, error) {
	points, err := m.List()
	if err != nil {
		return nil, err
	}
	device, _, ok := mount.Locate(points, viewsDir)
	if !ok {
		return nil, fmt.Errorf("mount table has no filesystem that holds %s", viewsDir)
	}
	var ours []mount.Point
	for _, p := range points {
		if _, _, view := viewOf(p.Root); view && p.Device == device {
			ours = append(ours, p)
		}
	}
	return ours, nil
}
