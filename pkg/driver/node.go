package driver

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/store"
)

func (d *Driver) stateRoot() string { return filepath.Dir(d.viewsDir) }

// NodeGetInfo implements csi.NodeServer. There is no limit to the number of volumes, which CSI writes as 0.
func (d *Driver) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: d.opts.NodeID}, nil
}

// NodeGetCapabilities implements csi.NodeServer.
func (d *Driver) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	var capabilities []*csi.NodeServiceCapability
	for _, c := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
	} {
		capabilities = append(capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}},
		})
	}
	return &csi.NodeGetCapabilitiesResponse{Capabilities: capabilities}, nil
}

// NodeGetVolumeStats implements csi.NodeServer. The numbers are those of the model, not of the disk that it shares with
// others: a volume is exactly as large as what is in it, and nothing is available because nothing can be written.
func (d *Driver) NodeGetVolumeStats(_ context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	switch {
	case r.GetVolumeId() == "":
		return nil, fmt.Errorf("volume id is missing: %w", model.ErrInvalid)
	case r.GetVolumePath() == "":
		return nil, fmt.Errorf("volume path is missing: %w", model.ErrInvalid)
	}
	lease, ok := d.opts.Store.Lease(r.GetVolumeId(), r.GetVolumePath())
	if !ok {
		return nil, fmt.Errorf("volume %s is not published at %s: %w", shorten(r.GetVolumeId()), shorten(r.GetVolumePath()), model.ErrNotFound)
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: lease.Bytes, Used: lease.Bytes},
		{Unit: csi.VolumeUsage_INODES, Total: lease.Files, Used: lease.Files},
	}}, nil
}

// NodeGetVolumeHealth implements csi.NodeServer. A volume is healthy when what its lease says is mounted.
func (d *Driver) NodeGetVolumeHealth(_ context.Context, r *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, fmt.Errorf("volume id is missing: %w", model.ErrInvalid)
	}
	health := &csi.VolumeHealth{VolumeId: r.GetVolumeId()}
	found := false
	for _, l := range d.opts.Store.Leases() {
		if l.VolumeID != r.GetVolumeId() || r.GetVolumePublishPath() != "" && l.Target != r.GetVolumePublishPath() {
			continue
		}
		found = true
		problem, err := d.examine(l)
		if err != nil {
			return nil, err
		}
		// One entry for each reason is all that CSI allows.
		if problem != nil && len(health.GetHealthStatuses()) == 0 {
			health.HealthStatuses = append(health.HealthStatuses, problem)
		}
	}
	if !found {
		return nil, fmt.Errorf("volume %s is not published on this node: %w", shorten(r.GetVolumeId()), model.ErrNotFound)
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: health}, nil
}

func (d *Driver) examine(l store.Lease) (*csi.VolumeHealth_VolumeHealthEntry, error) {
	state, err := d.opts.Mounter.State(l.Target)
	if err != nil {
		return nil, err
	}
	inaccessible := func(reason, text string) (*csi.VolumeHealth_VolumeHealthEntry, error) {
		return &csi.VolumeHealth_VolumeHealthEntry{
			Status: csi.VolumeHealthErrorType_INACCESSIBLE, Reason: reason,
			Message: fmt.Sprintf("%s %s; delete the pod so that it is created again", l.Target, text),
		}, nil
	}
	switch view, _, ours := viewOf(state.Source); {
	case !state.Mounted:
		return inaccessible("NotMounted", "is not mounted any more")
	case state.Corrupted:
		return inaccessible("Corrupted", "cannot be read, the filesystem of the cache is gone")
	case !ours || view != l.View:
		return inaccessible("OtherMount", "shows something else than the model")
	}
	return nil, nil
}
