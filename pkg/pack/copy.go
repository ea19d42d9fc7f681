package pack

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/model-csi/model-csi/pkg/model"
)

// Document is a manifest or an index, with its bytes as they are stored.
type Document struct {
	Digest    digest.Digest
	MediaType string
	Bytes     []byte
}

// Origin is where an artifact is copied from. Implementations are safe for concurrent use.
type Origin interface {
	// Document returns the manifest or index with the digest.
	Document(ctx context.Context, d digest.Digest) (Document, error)
	// Open prepares reading a blob, for Target.Upload. What the returned function opens fails with model.ErrCorrupt if the
	// bytes are not those of the digest.
	Open(ctx context.Context, b model.Blob) func(offset int64) (io.ReadCloser, error)
}

// CopyOptions of Copy. The zero value works.
type CopyOptions struct {
	// Jobs is how many blobs are copied at once; 4 by default.
	Jobs int
	// MountFrom lists repositories of the target's registry that have the blobs.
	MountFrom []string
	// Observer is told what happens, one event at a time. Nil means nobody is.
	Observer func(Event)
}

// maxDocuments bounds the manifests of one index, maxNesting the indexes that lead to one.
const (
	maxDocuments = 1000
	maxNesting   = 3
)

// Copy brings an artifact to another place, byte for byte: top and, if it is an index, all that it lists. to opens the
// target for the document with a digest; the empty digest stands for the name of the whole. What is there already is not
// copied. When it fails or ctx ends, what has arrived stays. Bytes in the Result are those of the blobs.
func Copy(ctx context.Context, from Origin, top Document, to func(digest.Digest) (Target, error), o CopyOptions) (Result, error) {
	c := &copier{from: from, seen: map[digest.Digest]bool{}}
	if err := c.collect(ctx, top, 0); err != nil {
		return Result{}, err
	}
	target, err := to("")
	if err != nil {
		return Result{}, err
	}
	p := &pusher{target: target, options: Options{MountFrom: o.MountFrom, Observer: o.Observer}}
	for _, b := range c.blobs {
		p.result.Bytes += b.blob.Size
	}
	p.tell(Event{Kind: Started, Total: p.result.Bytes})
	if err := c.move(ctx, p, cmp.Or(o.Jobs, max(4, runtime.GOMAXPROCS(0)))); err != nil {
		return Result{}, err
	}
	// An index comes after what it lists: registries refuse it before.
	for _, d := range c.documents {
		child, err := to(d.Digest)
		if err != nil {
			return Result{}, err
		}
		if err := child.PutManifest(ctx, d.MediaType, d.Bytes); err != nil {
			return Result{}, err
		}
	}
	if err := target.PutManifest(ctx, top.MediaType, top.Bytes); err != nil {
		return Result{}, err
	}
	r := p.result
	r.Digest, r.MediaType, r.ManifestSize, r.Files = top.Digest, top.MediaType, int64(len(top.Bytes)), len(c.blobs)
	p.tell(Event{Kind: Finished, Digest: r.Digest, Bytes: r.Bytes, Total: r.Bytes})
	return r, nil
}

// copier is one copy.
type copier struct {
	from Origin
	seen map[digest.Digest]bool
	// documents below the top, those first that others list.
	documents []Document
	blobs     []named
}

type named struct {
	blob model.Blob
	name string
}

// collect finds the documents below d, and their blobs.
func (c *copier) collect(ctx context.Context, d Document, depth int) error {
	var m struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Blobs     []ocispec.Descriptor `json:"blobs"` // of the artifact manifest that OCI had for a while
	}
	if err := json.Unmarshal(d.Bytes, &m); err != nil {
		return fmt.Errorf("manifest %s is not readable: %v: %w", d.Digest, err, model.ErrInvalid)
	}
	if depth > maxNesting || len(c.documents)+len(m.Manifests) > maxDocuments {
		return fmt.Errorf("index %s lists more than %d manifests, or indexes more than %d deep: %w", d.Digest, maxDocuments, maxNesting, model.ErrTooLarge)
	}
	for _, x := range m.Manifests {
		if c.seen[x.Digest] {
			continue
		}
		c.seen[x.Digest] = true
		child, err := c.from.Document(ctx, x.Digest)
		if err != nil {
			return err
		}
		if err := c.collect(ctx, child, depth+1); err != nil {
			return err
		}
		c.documents = append(c.documents, child)
	}
	if m.Config != nil {
		m.Layers = append(m.Layers, *m.Config)
	}
	for _, x := range append(m.Layers, m.Blobs...) {
		if err := c.add(d, x); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) add(of Document, x ocispec.Descriptor) error {
	if _, err := model.ParseDigest(x.Digest.String()); err != nil || x.Size < 0 {
		return fmt.Errorf("manifest %s names a blob %q of %d bytes: %w", of.Digest, x.Digest, x.Size, model.ErrInvalid)
	}
	if c.seen[x.Digest] {
		return nil
	}
	c.seen[x.Digest] = true
	name := cmp.Or(x.Annotations[ModelPack.Annotation(annotationFilepath)], x.Annotations[CNAI.Annotation(annotationFilepath)],
		x.Annotations[ocispec.AnnotationTitle], x.Digest.Encoded()[:12])
	c.blobs = append(c.blobs, named{model.Blob{Digest: x.Digest, Size: x.Size}, name})
	return nil
}

// move copies the blobs, the largest first.
func (c *copier) move(ctx context.Context, p *pusher, jobs int) error {
	slices.SortStableFunc(c.blobs, func(a, b named) int { return cmp.Compare(b.blob.Size, a.blob.Size) })
	group, inner := errgroup.WithContext(ctx)
	group.SetLimit(jobs)
	for _, b := range c.blobs {
		if inner.Err() != nil {
			break
		}
		group.Go(func() error {
			return p.bring(inner, b.name, b.blob, c.from.Open(inner, b.blob))
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// anyRepository leaves it to the target where it mounts a blob from.
const anyRepository = ""

// bring brings one blob to the target, unless it is there.
func (p *pusher) bring(ctx context.Context, name string, b model.Blob, open func(int64) (io.ReadCloser, error)) error {
	event := Event{Path: name, Digest: b.Digest, Bytes: b.Size, Total: b.Size}
	there, err := p.target.Exists(ctx, b)
	if err != nil {
		return err
	}
	if there {
		event.Kind = Existed
		p.count(&p.result.Existing, event)
		return nil
	}
	for _, from := range append(slices.Clone(p.options.MountFrom), anyRepository) {
		mounted, err := p.target.Mount(ctx, b, from)
		if err != nil {
			return err
		}
		if mounted {
			event.Kind = Mounted
			p.count(&p.result.Mounted, event)
			return nil
		}
	}
	var reading failures
	err = p.target.Upload(ctx, b, reading.watch(open), func(total int64) {
		p.tell(Event{Kind: Uploading, Path: name, Digest: b.Digest, Bytes: total, Total: b.Size})
	})
	if err != nil {
		return fmt.Errorf("%s: %w", name, reading.cause(err))
	}
	event.Kind = Uploaded
	p.count(&p.result.Sent, event)
	return nil
}
