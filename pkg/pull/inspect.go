package pull

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/ingest"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
)

// Artifact is a reference that was resolved and understood, and of which nothing has been fetched but the manifest.
type Artifact struct {
	// Ref is what was asked for.
	Ref model.Ref
	// Snapshot is the manifest that it leads to, and Plan what the manifest means.
	Snapshot source.Snapshot
	Plan     format.Plan

	puller *Puller
	job    *job
}

// Inspect resolves a reference and reads what it is. Errors are those of Pull.
func (p *Puller) Inspect(ctx context.Context, r Request) (*Artifact, error) {
	j, err := p.plan(ctx, r)
	if err != nil {
		return nil, err
	}
	return &Artifact{Ref: j.ref, Snapshot: j.access.snapshot, Plan: j.parts[0].plan, puller: p, job: j}, nil
}

// Layers are the blobs that a pull would fetch, each once.
func (a *Artifact) Layers() []format.Layer { return a.job.needed() }

// Opaque reports whether archives have to be read before the tree is known, which means to download them.
func (a *Artifact) Opaque() bool {
	_, err := a.puller.tree(a.job)
	return errors.Is(err, errUnopened)
}

// keptMember is the size up to which a file of an archive is kept while only the list of them is wanted: it is what
// people look at next.
const keptMember = 16 << 20

// Tree is the model as a mount would show it. Archives that have not been read are downloaded for it; of their files
// only the small ones are kept.
func (a *Artifact) Tree(ctx context.Context) (model.Tree, error) {
	for _, l := range a.Layers() {
		var members []model.Member
		if !unpacked(l) || a.puller.opts.Store.Record(membersKind, memberRecord(l), &members) {
			continue
		}
		if err := a.read(ctx, l, func(b model.Blob) bool { return b.Size <= keptMember }); err != nil {
			return nil, err
		}
	}
	tree, err := a.puller.tree(a.job)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Ref, err)
	}
	return tree, nil
}

// read takes an archive apart and keeps the files that keep wants.
func (a *Artifact) read(ctx context.Context, l format.Layer, keep func(model.Blob) bool) error {
	p := a.puller
	moved := p.running.counter(l)
	defer p.running.forget(l.Blob)
	members, err := p.opts.Engine.Archive(ctx, p.work(a.job, l, moved), shape(l), func(size int64, plausible bool) (ingest.Member, error) {
		m, err := p.newMember(a.job, size, plausible)
		return &chosen{Member: m, keep: keep}, err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", a.Ref, layerError(l, err))
	}
	return p.opts.Store.PutRecord(membersKind, memberRecord(l), members)
}

// chosen is a file of an archive that is kept only if keep says so.
type chosen struct {
	ingest.Member
	keep func(model.Blob) bool
}

// Commit implements ingest.Member.
func (c *chosen) Commit(b model.Blob) error {
	if !c.keep(b) {
		return c.Close()
	}
	return c.Member.Commit(b)
}

// Open reads one file of the tree. Reading fails with model.ErrCorrupt at the end if the bytes were not those that the
// tree names. The caller closes it.
func (a *Artifact) Open(ctx context.Context, f model.File) (io.ReadCloser, error) {
	if !f.Mode.IsRegular() {
		return nil, fmt.Errorf("%s: %q is no regular file: %w", a.Ref, f.Path, model.ErrInvalid)
	}
	if local, err := a.local(ctx, f); local != nil || err != nil {
		return local, err
	}
	l, _ := a.raw(f)
	body, err := a.job.origins[l.Origin].repository.ReadRange(ctx, l.Blob, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("%s: file %q: %w", a.Ref, f.Path, err)
	}
	return &verifying{body: body, left: f.Blob.Size, digest: f.Blob.Digest, hash: f.Blob.Digest.Algorithm().Hash()}, nil
}

// ReaderAt reads parts of one file of the tree by range requests, where the file is a layer of its own. Nobody can verify
// a part: what comes of it is for people to look at. Nothing needs closing but what the context governs.
func (a *Artifact) ReaderAt(ctx context.Context, f model.File) (io.ReaderAt, error) {
	if local, err := a.local(ctx, f); local != nil || err != nil {
		return local, err
	}
	l, _ := a.raw(f)
	return &blocks{r: &ranges{ctx: ctx, repository: a.job.origins[l.Origin].repository, blob: f.Blob}, size: f.Blob.Size}, nil
}

// raw finds the layer that is the file.
func (a *Artifact) raw(f model.File) (format.Layer, bool) {
	for _, l := range a.Layers() {
		if !unpacked(l) && l.Blob.Digest == f.Blob.Digest {
			return l, true
		}
	}
	return format.Layer{}, false
}

// local returns the file from the store, and brings it there if it is part of an archive. It is nil for a file that is
// a layer and not in the store.
func (a *Artifact) local(ctx context.Context, f model.File) (*os.File, error) {
	s := a.puller.opts.Store
	if _, raw := a.raw(f); raw && !s.Has(f.Blob) {
		return nil, nil
	}
	if !s.Has(f.Blob) {
		if err := a.bringMember(ctx, f.Blob); err != nil {
			return nil, err
		}
	}
	return s.OpenBlob(f.Blob.Digest)
}

// bringMember stores a file that is in one of the archives, or came with the manifest.
func (a *Artifact) bringMember(ctx context.Context, want model.Blob) error {
	for _, part := range a.job.parts {
		for _, f := range part.inline() {
			if f.Blob() == want {
				return a.puller.inline(f)
			}
		}
	}
	for _, l := range a.Layers() {
		var members []model.Member
		if !unpacked(l) || !a.puller.opts.Store.Record(membersKind, memberRecord(l), &members) {
			continue
		}
		for _, m := range members {
			if m.Blob == want {
				return a.read(ctx, l, func(b model.Blob) bool { return b == want })
			}
		}
	}
	return fmt.Errorf("%s: no layer holds %s: %w", a.Ref, want.Digest, model.ErrNotFound)
}

// verifying checks a body's length and digest when it ends.
type verifying struct {
	body   io.ReadCloser
	left   int64
	digest digest.Digest
	hash   hash.Hash
}

// Read implements io.Reader.
func (v *verifying) Read(p []byte) (int, error) {
	n, err := v.body.Read(p)
	_, _ = v.hash.Write(p[:n]) // never fails
	v.left -= int64(n)
	switch {
	case v.left < 0:
		return n, fmt.Errorf("more bytes came than the size of %s: %w", v.digest, model.ErrCorrupt)
	case !errors.Is(err, io.EOF):
		return n, err
	case v.left > 0:
		return n, fmt.Errorf("%d bytes of %s are missing: %w", v.left, v.digest, io.ErrUnexpectedEOF)
	}
	if got := digest.NewDigest(v.digest.Algorithm(), v.hash); got != v.digest {
		return n, fmt.Errorf("the bytes have the digest %s instead of %s: %w", got, v.digest, model.ErrCorrupt)
	}
	return n, io.EOF
}

// Close implements io.Closer.
func (v *verifying) Close() error { return v.body.Close() }

// ranges reads a blob by range requests.
type ranges struct {
	ctx        context.Context //nolint:containedctx // io.ReaderAt has no context of its own
	repository source.Repository
	blob       model.Blob
}

// ReadAt implements io.ReaderAt.
func (r *ranges) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= r.blob.Size {
		return 0, io.EOF
	}
	want := min(int64(len(p)), r.blob.Size-off)
	body, err := r.repository.ReadRange(r.ctx, r.blob, off, want)
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }()
	if body.Offset != off {
		return 0, fmt.Errorf("the server sends all of %s instead of a part: %w", r.blob.Digest, source.ErrRange)
	}
	n, err := io.ReadFull(body, p[:want])
	if err == nil && want < int64(len(p)) {
		err = io.EOF
	}
	return n, err
}
