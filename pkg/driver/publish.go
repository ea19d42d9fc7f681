package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/mount"
	"github.com/model-csi/model-csi/pkg/pull"
	"github.com/model-csi/model-csi/pkg/store"
	"github.com/model-csi/model-csi/pkg/view"
)

// lockWait is how long a call waits for another one at the same target. Kubelet makes one at a time; two meet when it
// was restarted, and the first one then ends as soon as its connection is found to be gone.
const lockWait = 5 * time.Second

// volume is what one publish call asks for, checked.
type volume struct {
	id, target string
	attributes Attributes
	caller     credential.Caller
}

// NodePublishVolume implements csi.NodeServer: when it returns without an error the model is at the target path.
func (d *Driver) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	end := d.attempts.begin(d.opts.Name, r)
	answer, err := d.publishVolume(ctx, r)
	end(err)
	return answer, err
}

func (d *Driver) publishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if err := checkVolume(r.GetVolumeId(), r.GetTargetPath(), d.stateRoot()); err != nil {
		return nil, err
	}
	// A request without a capability is wrong whatever its attributes are.
	if err := checkCapability(r.GetVolumeCapability(), r.GetReadonly(), false); err != nil {
		return nil, err
	}
	attributes, err := ParseAttributes(d.opts.Name, r.GetVolumeContext())
	if err != nil {
		return nil, err
	}
	if err := checkCapability(r.GetVolumeCapability(), r.GetReadonly(), attributes.Exec); err != nil {
		return nil, err
	}
	unlock, err := d.lockTarget(ctx, r.GetVolumeId(), r.GetTargetPath())
	if err != nil {
		return nil, err
	}
	defer unlock()
	v := volume{id: r.GetVolumeId(), target: r.GetTargetPath(), attributes: attributes}
	done, err := d.published(v)
	if err == nil && !done {
		// Whoever has the volume already needs no credentials, nor good ones.
		v.caller, err = callerOf(r)
	}
	if err == nil && !done {
		err = d.publish(ctx, v)
	}
	if err != nil {
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

func (d *Driver) lockTarget(ctx context.Context, volumeID, target string) (unlock func(), err error) {
	waiting, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	unlock, err = d.targets.lock(waiting, target)
	if err == nil {
		return unlock, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, fmt.Errorf("volume %s at %s: %w", volumeID, target, errBusy)
}

// published says whether the volume is at its target already. It asks the kernel and the leases, and nobody else. A
// corrupted mount is taken away.
func (d *Driver) published(v volume) (bool, error) {
	state, err := d.opts.Mounter.State(v.target)
	switch {
	case err != nil:
		return false, err
	case !state.Mounted:
		return false, nil
	case d.ownedByOther(v.id, v.target):
		return false, fmt.Errorf("another volume is published at %s: %w", v.target, model.ErrConflict)
	case state.Corrupted:
		d.log.Warn("corrupted mount is taken away", "volume", v.id, "target", v.target)
		return false, d.opts.Mounter.Unmount(v.target)
	}
	shown, _, ours := viewOf(state.Source)
	lease, leased := d.opts.Store.Lease(v.id, v.target)
	switch {
	case !ours || leased && shown != lease.View:
		return false, fmt.Errorf("something else is mounted at %s, from %s: %w", v.target, state.Source, model.ErrConflict)
	case !leased:
		return true, d.adopt(v, state)
	case lease.Attributes != v.attributes.Fingerprint():
		return false, fmt.Errorf("volume %s is published at %s with other attributes (%s): %w", v.id, v.target, lease.Attributes, model.ErrConflict)
	}
	return true, nil
}

// ownedByOther says that another volume has a lease for the target.
func (d *Driver) ownedByOther(volumeID, target string) bool {
	return slices.ContainsFunc(d.opts.Store.Leases(), func(l store.Lease) bool {
		return l.Target == target && l.VolumeID != volumeID
	})
}

// publish makes the volume. Whatever it did is undone when it fails, or when the caller has gone.
func (d *Driver) publish(ctx context.Context, v volume) (err error) {
	result, err := d.pull(ctx, v)
	if err != nil {
		return err
	}
	// The lease protects the blobs once it is there, and nothing has to when it never comes.
	defer result.Release()

	dir, err := d.opts.Store.EnsureView(result.Tree, func(dir string) error {
		return view.Build(dir, result.Tree, d.opts.Store.BlobPath)
	})
	if err != nil {
		return fmt.Errorf("volume %s: %w", v.id, err)
	}
	source, err := subPath(dir, v.attributes.SubPath, result.Tree)
	if err != nil {
		return err
	}
	var undo []func() error
	defer func() {
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx) // nobody would hear that it worked
		}
		if err == nil {
			return
		}
		for i := len(undo) - 1; i >= 0; i-- {
			if failed := undo[i](); failed != nil {
				err = errors.Join(err, failed)
				return // what came before is still needed: a lease for what is mounted, above all
			}
		}
	}()
	sub := strings.TrimPrefix(strings.TrimPrefix(source, dir), "/")
	if err := d.opts.Store.PutLease(newLease(v, result, sub)); err != nil {
		return err
	}
	undo = append(undo, func() error { return d.opts.Store.DropLease(v.id, v.target) })
	created, err := mount.MakeTarget(v.target)
	if err != nil {
		return err
	}
	if created {
		undo = append(undo, func() error { return mount.RemoveTarget(v.target) })
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// Unmounting what was never mounted is no error, so this also cleans up after half a mount.
	undo = append(undo, func() error { return d.opts.Mounter.Unmount(v.target) })
	return d.opts.Mounter.BindReadOnly(source, v.target, mount.Options{Exec: v.attributes.Exec})
}

func (d *Driver) pull(ctx context.Context, v volume) (*pull.Result, error) {
	keychain, err := d.opts.Keychain(v.caller)
	if err != nil {
		return nil, err
	}
	limit := d.opts.PublishTimeout
	if deadline, ok := ctx.Deadline(); ok {
		// Leave time to answer, but never less than half of what the caller gave.
		left := time.Until(deadline)
		limit = min(limit, max(left-answerTime, left/2))
	}
	pulling, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	request := v.attributes.request()
	request.Keychain, request.Namespace = keychain, v.caller.Namespace
	result, err := d.opts.Puller.Pull(pulling, request)
	if err == nil && result == nil {
		err = errors.New("pull returned nothing")
	}
	return result, err
}

// podOf is namespace/name of a pod that kubelet vouches for; empty without one. What a namespace holds is counted by it.
func podOf(c credential.Caller) string {
	if c.Namespace == "" || c.Pod == "" {
		return ""
	}
	return c.Namespace + "/" + c.Pod
}

// newLease describes the volume; sub is the directory of the tree that it shows.
func newLease(v volume, r *pull.Result, sub string) store.Lease {
	bytes, files := measure(r.Tree, sub)
	var mounts []string
	for _, m := range r.Mounts {
		mounts = append(mounts, m.Path+"="+m.Ref.String())
	}
	return store.Lease{
		VolumeID:   v.id,
		Target:     v.target,
		Reference:  v.attributes.Ref.String(),
		Digest:     r.Digest,
		Mounts:     mounts,
		View:       r.Tree.Digest(),
		SubPath:    v.attributes.SubPath,
		Format:     r.Format,
		Bytes:      bytes,
		Files:      files,
		Attributes: v.attributes.Fingerprint(),
		Pod:        podOf(v.caller),
	}
}

// adopt writes the lease of a volume that is mounted and has none, because the file was lost. The pod is running; an
// error would make kubelet take its volume away.
func (d *Driver) adopt(v volume, state mount.State) error {
	shown, sub, _ := viewOf(state.Source)
	bytes, files, err := measureDir(d.opts.Store.ViewPath(shown), sub)
	if err != nil {
		d.log.Warn("view of an adopted volume cannot be measured", "volume", v.id, "error", err)
	}
	d.log.Warn("mounted volume without a lease is adopted", "volume", v.id, "target", v.target, "view", shown)
	return d.opts.Store.PutLease(store.Lease{
		VolumeID: v.id, Target: v.target, Reference: v.attributes.Ref.String(), View: shown,
		SubPath: v.attributes.SubPath, Bytes: bytes, Files: files,
		Attributes: v.attributes.Fingerprint(), Pod: v.attributes.Pod,
	})
}
