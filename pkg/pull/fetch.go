package pull

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
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
	smallLayersAtOnce = 64
	smallLayer        = 1 << 20
)

// fetch brings everything that the job's tree needs into the store. It runs detached from its callers.
func (p *Puller) fetch(ctx context.Context, j *job) (err error) {
	started := time.Now()
	needed := j.plan.Needed(j.keep.keep)
	for _, l := range needed {
		defer p.opts.Store.Pin(l.Blob.Digest)()
	}
	var missing []format.Layer
	for _, l := range needed {
		if !p.present(l) {
			missing = append(missing, l)
		}
	}
	t := p.running.start(j.key, j.ref.String(), missing)
	defer p.running.end(j.key, t)
	total := t.total
	defer func() {
		took := time.Since(started)
		p.opts.Observer.Pulled(total, took, err)
		if err != nil {
			p.log.Error("pull failed", "reference", j.ref.String(), "digest", j.access.snapshot.Digest, "error", err)
			return
		}
		p.log.Info("model pulled", "reference", j.ref.String(), "digest", j.access.snapshot.Digest, "format", j.plan.Format,
			"layers", len(missing), "bytes", total, "seconds", took.Seconds())
	}()

	if limit := p.opts.MaxModelSize; limit > 0 && sum(needed) > limit {
		return fmt.Errorf("the model has %s, more than the %s that max-model-size allows: %w", size(sum(needed)), size(limit), model.ErrTooLarge)
	}
	release, err := p.opts.Store.Reserve(ctx, p.space(j, missing))
	if err != nil {
		return err
	}
	defer release()
	for _, note := range j.plan.Notes {
		p.log.Info("note about the artifact", "reference", j.ref.String(), "note", note)
	}
	p.log.Info("pull started", "reference", j.ref.String(), "digest", j.access.snapshot.Digest, "format", j.plan.Format,
		"layers", len(missing), "bytes", total)

	if err := p.layers(ctx, j, t, missing); err != nil {
		return err
	}
	for _, f := range j.plan.Inline {
		if err := p.inline(f); err != nil {
			return err
		}
	}
	tree, err := p.tree(j)
	if err != nil {
		return err
	}
	// Members of an archive that was known before may have been evicted one by one: then it is taken apart again.
	return p.restore(ctx, j, t, tree, needed)
}

// present reports whether nothing of the layer has to be fetched.
func (p *Puller) present(l format.Layer) bool {
	if !unpacked(l) {
		return p.opts.Store.Has(l.Blob)
	}
	var members []model.Member
	return p.opts.Store.Record(membersKind, memberRecord(l), &members)
}

// restore fetches archives again whose members are not all in the store any more.
func (p *Puller) restore(ctx context.Context, j *job, t *tracker, tree model.Tree, needed []format.Layer) error {
	lost := false
	for _, b := range tree.Blobs() {
		lost = lost || !p.opts.Store.Has(b)
	}
	if !lost {
		return nil
	}
	var again []format.Layer
	for _, l := range needed {
		if unpacked(l) {
			if err := p.opts.Store.DropRecord(membersKind, memberRecord(l)); err != nil {
				return err
			}
			again = append(again, l)
		}
	}
	t.expect(again)
	return p.layers(ctx, j, t, again)
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
	// Size and registry are part of the key: neither a manifest that lies about the size nor a registry that never
	// finishes may hold up an honest pull of the same digest.
	key := fmt.Sprintf("%s %d %s", memberRecord(l), l.Blob.Size, j.registry(l))
	if !unpacked(l) {
		key = fmt.Sprintf("%s %d %s", l.Blob.Digest, l.Blob.Size, j.registry(l))
	}
	for {
		mine := false
		_, err := p.blobs.Do(ctx, key, func(ctx context.Context) (struct{}, error) {
			mine = true
			if p.present(l) {
				return struct{}{}, nil
			}
			return struct{}{}, p.transfer(ctx, j, l)
		})
		switch {
		case err == nil:
			t.finished(l)
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !retryJoined(mine, err):
			return layerError(l, err)
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
	moved := p.running.counter(l.Blob)
	defer p.running.forget(l.Blob)
	from := j.origins[l.Origin]
	work := ingest.Job{
		Blob: l.Blob, Host: from.ref.Registry, Open: opener(from.repository, l.Blob),
		Progress: func(n int64) { moved.bytes.Add(n) },
		Trouble: func(err error) {
			moved.trouble.Store(&trouble{text: err.Error(), at: time.Now()})
			p.log.Warn("transfer interrupted, trying again", "reference", from.ref.String(), "blob", l.Blob.Digest, "error", err)
		},
	}
	if unpacked(l) {
		members, err := p.opts.Engine.Archive(ctx, work, shape(l), p.newMember)
		if err != nil {
			return err
		}
		return p.opts.Store.PutRecord(membersKind, memberRecord(l), members)
	}
	resumed, err := p.transferFile(ctx, work)
	if resumed && errors.Is(err, model.ErrCorrupt) {
		// What was kept from before may be what is wrong; once more without it decides.
		moved.bytes.Store(0)
		_, err = p.transferFile(ctx, work)
	}
	return err
}

// newMember begins a file of an archive. Space is allocated for sizes that the archive can really hold.
func (p *Puller) newMember(size int64, plausible bool) (ingest.Member, error) {
	o := store.WriterOptions{Direct: p.direct(size)}
	if !plausible {
		size = 0
	}
	return p.opts.Store.NewScratch(size, o)
}

// transferFile fetches a blob that is one file, and reports whether a part of it was there before.
func (p *Puller) transferFile(ctx context.Context, work ingest.Job) (resumed bool, err error) {
	w, err := p.opts.Store.NewWriter(work.Blob, store.WriterOptions{Origin: work.Host, Direct: p.direct(work.Blob.Size)})
	if err != nil {
		return false, err
	}
	offset, _ := w.Resume()
	if err := p.opts.Engine.File(ctx, work, w); err != nil {
		if errors.Is(err, model.ErrCorrupt) {
			return offset > 0, errors.Join(err, w.Discard())
		}
		return offset > 0, errors.Join(err, w.Close())
	}
	return offset > 0, nil
}

func (p *Puller) direct(bytes int64) bool {
	switch p.opts.WriteMode {
	case WriteDirect:
		return true
	case WriteBuffered:
		return false
	}
	return bytes >= directFrom
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

// space is what the layers will take on disk, beyond what unfinished blobs have allocated already.
func (p *Puller) space(j *job, layers []format.Layer) store.Room {
	var room store.Room
	for _, l := range layers {
		room.Inodes += 2 // the file and what stands beside it: a checkpoint, a directory of the view
		switch {
		case !unpacked(l):
			room.Bytes += max(0, l.Blob.Size-p.opts.Store.Unfinished(l.Blob, j.registry(l)))
		case strings.HasSuffix(l.MediaType, "tar"):
			room.Bytes += l.Blob.Size
		default:
			room.Bytes += 2 * l.Blob.Size // compressed: a guess; what it turns out to be is checked as it is written
		}
	}
	return room
}

func sum(layers []format.Layer) int64 {
	var n int64
	for _, l := range layers {
		n += l.Blob.Size
	}
	return n
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
