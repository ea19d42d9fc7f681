package driver

import (
	"context"
	"errors"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/mount"
)

// NodeUnpublishVolume implements csi.NodeServer: when it returns without an error nothing of the volume is left at the
// target path. It needs neither the network nor room on the disk, and does not mind a volume that it never heard of.
func (d *Driver) NodeUnpublishVolume(ctx context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	volumeID, target := r.GetVolumeId(), r.GetTargetPath()
	d.attempts.forget(volumeID, target)
	if err := checkVolume(volumeID, target, d.stateRoot()); err != nil {
		return nil, err
	}
	unlock, err := d.lockTarget(ctx, volumeID, target)
	if err != nil {
		return nil, err
	}
	defer unlock()
	_, leased := d.opts.Store.Lease(volumeID, target)
	if !leased && d.ownedByOther(volumeID, target) {
		d.log.Warn("target belongs to another volume and is left as it is", "volume", volumeID, "target", target)
		return &csi.NodeUnpublishVolumeResponse{}, nil
	}
	if err := d.unmount(target, leased); err != nil {
		return nil, fmt.Errorf("volume %s: %w", volumeID, err)
	}
	err = mount.RemoveTarget(target)
	if errors.Is(err, model.ErrConflict) || errors.Is(err, model.ErrInvalid) {
		// Nothing is mounted, and what somebody wrote there after a reboot is not ours to delete. Refusing would keep the
		// pod in Terminating for ever.
		d.log.Warn("target is not an empty directory and is left as it is", "volume", volumeID, "leased", leased, "error", err)
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("volume %s: %w", volumeID, err)
	}
	if err := d.opts.Store.DropLease(volumeID, target); err != nil {
		// The pod's volume is gone, and the pod shall not hang in Terminating because of our disk. The lease without a
		// mount is found later by reconcile.
		d.log.Error("lease not removed", "volume", volumeID, "target", target, "error", err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// unmount takes away what is mounted at the target if it is ours.
func (d *Driver) unmount(target string, leased bool) error {
	state, err := d.opts.Mounter.State(target)
	if err != nil {
		return err
	}
	if !state.Mounted {
		return nil
	}
	if _, _, ours := viewOf(state.Source); !ours && !leased && !state.Corrupted {
		return fmt.Errorf("what is mounted at %s comes from %s and is no model; unmount it by hand if nobody needs it: %w", target, state.Source, model.ErrUnsupported)
	}
	return d.opts.Mounter.Unmount(target)
}
