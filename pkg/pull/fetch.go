package pull

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/ingest"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/store"
)

const (
	// layersAtOnce: two large blobs keep two cores busy with hashing; more share the same connections.
	layersAtOnce = 4
	// smallLayersAtOnce applies to blobs below smallLayer bytes, whose cost is waiting and not bytes.
	smallLayersAtOnce = 128
	smallLayer        = 1 << 20
)

// fetch brings everything that the job's tree needs into the store. It runs detached from its callers.
func (p *Puller) fetch(ctx context.Context, j *job) (err error) {
	started := time.Now()
	needed := j.needed()
	for _, l := range needed {
		defer p.opts.Store.Pin(l.Blob.Digest)()
	}
	unseen := make(map[digest.Digest]bool)
	for _, l := range p.held.missing(j, needed) {
		unseen[l.Blob.Digest] = true
	}
	// Layers that are cached from another repository are missing, too, until this one has proven that it holds them.
	var missing []format.Layer
	needs := make(map[string]store.Room) // of what is not there, by transferKey
	for _, l := range needed {
		present := p.present(l)
		if !present {
			needs[j.transferKey(l)] = p.room(j, l)
		}
		if unseen[l.Blob.Digest] || !present {
			missing = append(missing, l)
		}
	}
	t := p.running.start(j.key, j.title(), missing)
	defer p.running.end(j.key, t)
	total := t.total
	defer func() {
		took := time.Since(started)
		p.opts.Observer.Pulled(total, took, err)
		if err != nil {
			p.log.Error("pull failed", "reference", j.ref.String(), "digest", j.access.snapshot.Digest, "error", err)
			return
		}
		p.log.Info("model pulled", "reference", j.ref.String(), "digest", j.access.snapshot.Digest, "format", j.format(),
			"layers", len(missing), "bytes", total, "seconds", took.Seconds())
	}()

	if limit := p.opts.MaxModelSize; limit > 0 && sum(needed) > limit {
		return fmt.Errorf("the model has %s, more than the %s that max-model-size allows: %w", size(sum(needed)), size(limit), model.ErrTooLarge)
	}
	if len(missing) > 0 { // what is cached is used however full the disk is
		reserved, err := p.opts.Store.Reserve(ctx, p.rooms.expect(j, needs))
		if err != nil {
			p.rooms.forget(j, needs)
			return err
		}
		p.rooms.reserved(j, reserved)
		defer reserved.Release()
		defer p.rooms.forget(j, needs) // before: what others need is handed over
	}
	policy, forget := p.cache.plan(p.opts.WriteMode, missing)
	defer forget()
	j.cache = policy
	for _, part := range j.parts {
		for _, note := range part.plan.Notes {
			p.log.Info("note about the artifact", "reference", part.request.Ref.String(), "note", note)
		}
	}
	p.log.Info("pull started", "reference", j.ref.String(), "digest", j.access.snapshot.Digest, "format", j.format(),
		"layers", len(missing), "bytes", total)

	if err := p.layers(ctx, j, t, missing); err != nil {
		return err
	}
	if err := p.held.add(j, needed); err != nil {
		return err
	}
	tree, err := p.tree(j)
	if err == nil {
		p.describe(j, tree)
	}
	return err
}

// describe remembers for people what a tree is. A failure only leaves a name out of a list.
func (p *Puller) describe(j *job, t model.Tree) {
	if err := p.opts.Store.Describe(j.ref.String(), j.access.snapshot.Digest, j.format(), t); err != nil {
		p.log.Warn("name of the model not remembered", "reference", j.ref.String(), "error", err)
	}
}

// present reports whether nothing of the layer has to be fetched.
func (p *Puller) present(l format.Layer) bool {
	if !unpacked(l) {
		return p.opts.Store.Has(l.Blob)
	}
	var members []model.Member
	if !p.opts.Store.Record(membersKind, memberRecord(l), &members) {
		return false
	}
	for _, m := range members {
		if m.Mode.IsRegular() && !m.Hard && !p.opts.Store.Has(m.Blob) {
			return false
		}
	}
	return true
}

func (p *Puller) layers(ctx context.Context, j *job, t *tracker, layers []format.Layer) error {
	group, groupContext := errgroup.WithContext(ctx)
	large, small := &errgroup.Group{}, &errgroup.Group{}
	large.SetLimit(layersAtOnce)
	small.SetLimit(smallLayersAtOnce)
	start := func(lane *errgroup.Group, layers []format.Layer) func() error {
		return func() error {
			for _, l := range layers {
				if groupContext.Err() != nil {
					break
				}
				lane.Go(func() error { return p.layer(groupContext, j, t, l) })
			}
			return lane.Wait()
		}
	}
	var big, little []format.Layer
	for _, l := range layers {
		if l.Blob.Size < smallLayer {
			little = append(little, l)
		} else {
			big = append(big, l)
		}
	}
	group.Go(start(large, big))
	group.Go(start(small, little))
	err := group.Wait()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

// layer fetches one layer, together with every other model that wants the same.
func (p *Puller) layer(ctx context.Context, j *job, t *tracker, l format.Layer) error {
	key := j.transferKey(l)
	for {
		mine := false
		_, err := p.blobs.Do(ctx, key, func(ctx context.Context) (struct{}, error) {
			mine = true
			return struct{}{}, p.bring(ctx, j, l)
		})
		switch {
		case err == nil:
			t.finished(l)
			p.rooms.spend(key, store.Everything)
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !retryJoined(mine, err):
			return layerError(l, err)
		}
	}
}

// transferKey is the same for all who can share the transfer of a layer. Size and repository are part of it: neither a
// manifest that lies about the size nor a registry that never finishes may hold up an honest pull of the same digest, and
// one repository's bytes prove nothing for another.
func (j *job) transferKey(l format.Layer) string {
	if unpacked(l) {
		return fmt.Sprintf("%s %d %s", memberRecord(l), l.Blob.Size, j.repositoryOf(l))
	}
	return fmt.Sprintf("%s %d %s", l.Blob.Digest, l.Blob.Size, j.repositoryOf(l))
}

// bring makes sure that the layer is in the store and that its repository holds it.
func (p *Puller) bring(ctx context.Context, j *job, l format.Layer) error {
	present := p.present(l)
	switch {
	case present && len(p.held.missing(j, []format.Layer{l})) == 0:
		return nil // somebody else was faster
	case !present:
		return p.elsewhere(j, l, func() error { return p.transfer(ctx, j, l) })
	}
	if err := p.elsewhere(j, l, func() error { return p.proveHeld(ctx, j, l) }); err != nil {
		return err
	}
	return p.held.saw(j, l)
}

// elsewhere repeats what reads a layer for as long as the bytes are wrong and there is another host that may have the
// right ones.
func (p *Puller) elsewhere(j *job, l format.Layer, read func() error) error {
	for {
		err := read()
		from, several := j.origins[l.Origin].repository.(source.Distruster)
		if !errors.Is(err, model.ErrCorrupt) || !several || !from.Distrust(l.Blob) {
			return err
		}
	}
}

func layerError(l format.Layer, err error) error {
	if l.Path != "" {
		return fmt.Errorf("file %q: %w", l.Path, err)
	}
	return fmt.Errorf("layer %s: %w", l.Blob.Digest, err)
}

// transfer moves the bytes of one layer from the registry into the store.
func (p *Puller) transfer(ctx context.Context, j *job, l format.Layer) error {
	moved := p.running.counter(l)
	defer p.running.forget(l.Blob)
	work := p.work(j, l, moved)
	if unpacked(l) {
		members, err := p.opts.Engine.Archive(ctx, work, shape(l), func(size int64, plausible bool) (ingest.Member, error) {
			p.rooms.spend(j.transferKey(l), store.Room{Bytes: size, Inodes: 1})
			return p.newMember(j, size, plausible)
		})
		if err != nil {
			return err
		}
		if err := p.held.saw(j, l); err != nil {
			return err
		}
		return p.opts.Store.PutRecord(membersKind, memberRecord(l), members)
	}
	allocated := func() { p.rooms.spend(j.transferKey(l), store.Everything) }
	// That the repository holds the bytes is known as soon as they are verified, and written down before they appear: a
	// crash in between must not make a finished blob come again.
	delivered := func() error { return p.held.saw(j, l) }
	options := store.WriterOptions{Origin: j.repositoryOf(l), Cache: j.caching(p.opts.WriteMode, l.Blob.Size)}
	resumed, err := p.transferFile(ctx, work, options, allocated, delivered)
	if resumed && errors.Is(err, model.ErrCorrupt) {
		// What was kept from before may be what is wrong; once more without it decides.
		moved.bytes.Store(0)
		_, err = p.transferFile(ctx, work, options, allocated, delivered)
	}
	return err
}

// work is the engine's job for a layer.
func (p *Puller) work(j *job, l format.Layer, moved *counter) ingest.Job {
	from := j.origins[l.Origin]
	return ingest.Job{
		Blob: l.Blob, Host: from.ref.Registry, Open: opener(from.repository, l.Blob),
		Progress: func(n int64) { moved.bytes.Add(n) },
		Trouble: func(err error) {
			moved.trouble.Store(&trouble{text: err.Error(), at: time.Now()})
			p.log.Warn("transfer interrupted, trying again", "reference", from.ref.String(), "blob", l.Blob.Digest, "error", err)
		},
	}
}

// newMember begins a file of an archive. Space is allocated for sizes that the archive can really hold.
func (p *Puller) newMember(j *job, size int64, plausible bool) (ingest.Member, error) {
	o := store.WriterOptions{Cache: j.caching(p.opts.WriteMode, size)}
	if !plausible {
		size = 0
	}
	return p.opts.Store.NewScratch(size, o)
}

// transferFile fetches a blob that is one file, and reports whether a part of it was there before.
func (p *Puller) transferFile(ctx context.Context, work ingest.Job, o store.WriterOptions, allocated func(), delivered func() error) (resumed bool, err error) {
	w, err := p.opts.Store.NewWriter(work.Blob, o)
	if err != nil {
		return false, err
	}
	offset, _ := w.Resume()
	allocated()
	if err := p.opts.Engine.File(ctx, work, announced{w, delivered}); err != nil {
		if errors.Is(err, model.ErrCorrupt) {
			return offset > 0, errors.Join(err, w.Discard())
		}
		return offset > 0, errors.Join(err, w.Close())
	}
	return offset > 0, nil
}

// announced tells that a blob's bytes were verified before it is committed.
type announced struct {
	*store.Writer
	verified func() error
}

// Commit implements ingest.File.
func (a announced) Commit() error {
	if err := a.verified(); err != nil {
		return err
	}
	return a.Writer.Commit()
}

// opener adapts a repository to the engine.
func opener(r source.Repository, b model.Blob) ingest.OpenFunc {
	return func(ctx context.Context, offset, length int64) (ingest.Body, error) {
		body, err := r.ReadRange(ctx, b, offset, length)
		if errors.Is(err, source.ErrRange) {
			return ingest.Body{}, fmt.Errorf("%w: %w", ingest.ErrNoRanges, err)
		}
		if err != nil {
			return ingest.Body{}, err
		}
		return ingest.Body{ReadCloser: body.ReadCloser, Offset: body.Offset, Length: body.Length}, nil
	}
}

// inlines stores the files of the tree that no layer holds.
func (p *Puller) inlines(j *job) error {
	for _, part := range j.parts {
		for _, f := range part.inline() {
			if err := p.inline(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// inline stores a file that came with the manifest.
func (p *Puller) inline(f format.InlineFile) error {
	b := f.Blob()
	if p.opts.Store.Has(b) {
		return nil
	}
	s, err := p.opts.Store.NewScratch(b.Size, store.WriterOptions{})
	if err != nil {
		return err
	}
	if _, err := s.WriteAt(f.Data, 0); err != nil {
		return errors.Join(err, s.Close())
	}
	return s.Commit(b)
}

func sum(layers []format.Layer) int64 {
	var n int64
	for _, l := range layers {
		n += min(l.Blob.Size, math.MaxInt64/4-n) // sizes are only claims: the sum must not turn over
	}
	return n
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
