//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/admin"
	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/driver"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pull"
	"github.com/model-csi/model-csi/pkg/store"
	"github.com/model-csi/model-csi/pkg/view"
)

// What root may ask of the daemon: node implements admin.Daemon.
var _ admin.Daemon = (*node)(nil)

// Status implements admin.Daemon.
func (n *node) Status() (admin.Status, error) {
	usage, err := n.store.Usage()
	return admin.Status{
		Version: buildVersion(), Node: n.config.NodeID, Cache: usage,
		Volumes: n.store.Leases(), Waiting: n.driver.Attempts(), Pulls: n.puller.Running(), Grants: n.grants.Len(),
	}, err
}

// Evict implements admin.Daemon.
func (n *node) Evict(ctx context.Context, want store.Room) (store.Evicted, error) {
	return n.store.Evict(ctx, want)
}

// Models implements admin.Daemon.
func (n *node) Models() ([]store.Model, error) { return n.store.Models() }

// Has implements admin.Daemon.
func (n *node) Has(pieces []pull.Piece) []bool { return n.puller.Has(pieces) }

// Remove implements admin.Daemon.
func (n *node) Remove(ctx context.Context, name string) (store.Evicted, error) {
	models, err := n.store.Models()
	if err != nil {
		return store.Evicted{}, err
	}
	found := named(models, name)
	if len(found) == 0 {
		return store.Evicted{}, fmt.Errorf("the cache has no model %q; \"model-csi cache ls\" lists what it has: %w", name, model.ErrNotFound)
	}
	var trees []digest.Digest
	for _, m := range found {
		switch {
		case len(m.Volumes) > 0:
			return store.Evicted{}, fmt.Errorf("%s is used by %d volumes, pod %s among them; nothing was removed: %w", name, len(m.Volumes), m.Volumes[0].Pod, model.ErrConflict)
		case m.Kept:
			return store.Evicted{}, fmt.Errorf("%s is pinned; \"model-csi cache unpin %s\" ends that: %w", name, name, model.ErrConflict)
		}
		trees = append(trees, m.Tree)
	}
	return n.store.Remove(ctx, trees)
}

// named finds models by a reference, the digest of a manifest or that of a tree, or the beginning of such a digest.
func named(models []store.Model, name string) (out []store.Model) {
	const shortest = len("sha256:") + 8
	for _, m := range models {
		match := false
		for _, r := range m.References {
			match = match || r == name
		}
		for _, d := range []digest.Digest{m.Digest, m.Tree} {
			match = match || len(name) >= shortest && strings.HasPrefix(d.String(), name)
		}
		if match {
			out = append(out, m)
		}
	}
	return out
}

// GiveUp implements admin.Daemon.
func (n *node) GiveUp(reference string) error {
	ref, err := model.ParseRef(reference)
	if err != nil {
		return err
	}
	return n.store.GiveUp(ref.String())
}

// reportEvery is how often a long request tells how far it is.
const reportEvery = 200 * time.Millisecond

// Fetch implements admin.Daemon.
func (n *node) Fetch(ctx context.Context, f admin.Fetch, report func(admin.Progress)) (admin.Fetched, error) {
	r, err := n.fetchRequest(f)
	if err != nil {
		return admin.Fetched{}, err
	}
	defer n.watch(r.Ref.String(), report)()
	result, err := n.puller.Pull(ctx, r)
	if err != nil {
		return admin.Fetched{}, err
	}
	defer result.Release()
	// The first pod shall find everything done, the directory included.
	_, err = n.store.EnsureView(result.Tree, func(dir string) error { return view.Build(dir, result.Tree, n.store.BlobPath) })
	if err == nil && f.Keep {
		err = n.store.Keep(r.Ref.String(), result.Digest, result.Tree)
	}
	return admin.Fetched{Reference: r.Ref.String(), Digest: result.Digest, Format: result.Format, Files: regular(result.Tree),
		Bytes: result.Tree.Size(), Warm: result.Warm}, err
}

// watch reports how far the pull of a reference is until the returned function is called.
func (n *node) watch(reference string, report func(admin.Progress)) (stop func()) {
	ended, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		every(reportEvery, ended, func() {
			for _, p := range n.puller.Running() {
				if p.Reference == reference {
					report(admin.Progress{Done: p.Done, Total: p.Total, Text: p.String()})
				}
			}
		})
	}()
	return func() {
		close(ended)
		<-gone
	}
}

// localVolume is the id of a volume that a person mounted at a directory.
func localVolume(directory string) string {
	return driver.LocalPrefix + digest.FromString(directory).Encoded()[:32]
}

// Mount implements admin.Daemon. It is a publish like kubelet's, by somebody who waits as long as it takes.
func (n *node) Mount(ctx context.Context, m admin.Mount, report func(admin.Progress)) error {
	if ref, err := model.ParseRef(m.Attributes["reference"]); err == nil {
		defer n.watch(ref.String(), report)()
	}
	secrets := map[string]string{}
	if m.Password != "" {
		secrets = map[string]string{"username": m.Username, "password": m.Password}
	}
	request := &csi.NodePublishVolumeRequest{
		VolumeId: localVolume(m.Directory), TargetPath: m.Directory, Readonly: true, VolumeContext: m.Attributes, Secrets: secrets,
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY},
		},
	}
	for {
		_, err := n.driver.NodePublishVolume(ctx, request)
		// Kubelet would ask again for as long as the pull goes on.
		if !errors.Is(err, model.ErrPulling) || ctx.Err() != nil {
			return err
		}
	}
}

// Unmount implements admin.Daemon.
func (n *node) Unmount(ctx context.Context, directory string) error {
	if _, leased := n.store.Lease(localVolume(directory), directory); !leased {
		return fmt.Errorf("no model was mounted at %s by \"model-csi mount\"; \"model-csi status\" lists the volumes: %w", directory, model.ErrNotFound)
	}
	_, err := n.driver.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: localVolume(directory), TargetPath: directory})
	return err
}

func (n *node) fetchRequest(f admin.Fetch) (r pull.Request, err error) {
	if r.Ref, err = model.ParseRef(f.Reference); err != nil {
		return r, err
	}
	if r.Want, err = model.ParseSelection(f.Variant); err != nil {
		return r, err
	}
	r.Include, r.Exclude = f.Include, f.Exclude
	var secrets map[string]string
	if f.Password != "" {
		secrets = map[string]string{"username": f.Username, "password": f.Password}
	}
	r.Keychain, err = n.keychain(credential.Caller{Secrets: secrets})
	return r, err
}

// Verify implements admin.Daemon.
func (n *node) Verify(ctx context.Context, rate int64, report func(admin.Progress)) (admin.Verified, error) {
	out := admin.Verified{Damaged: []digest.Digest{}}
	blobs, err := n.store.Blobs()
	if err != nil {
		return out, err
	}
	var total, done int64
	for _, b := range blobs {
		total += b.Size
	}
	var told time.Time
	progress := func(read int) {
		done += int64(read)
		if time.Since(told) > reportEvery {
			told = time.Now()
			report(admin.Progress{Done: min(done, total), Total: total})
		}
	}
	for _, b := range blobs {
		err := n.store.Verify(ctx, b.Digest, store.VerifyOptions{Rate: rate, Progress: progress})
		switch {
		case errors.Is(err, model.ErrCorrupt):
			n.log.Error("damaged blob taken out of the cache", "blob", b.Digest, "error", err)
			if err := n.store.Quarantine(b.Digest); err != nil {
				return out, err
			}
			out.Damaged = append(out.Damaged, b.Digest)
		case errors.Is(err, model.ErrNotFound):
			continue // evicted meanwhile
		case err != nil:
			return out, err
		}
		out.Blobs++
		out.Bytes += b.Size
	}
	return out, nil
}
