package pack

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/model-csi/model-csi/pkg/model"
)

// maxManifest is the largest manifest that registries accept.
const maxManifest = 4 << 20

// Target is where an artifact goes. Implementations are safe for concurrent use.
type Target interface {
	// Exists reports whether the target has the blob.
	Exists(ctx context.Context, b model.Blob) (bool, error)
	// Mount makes the blob of another repository of the same registry one of this target, and reports whether that was
	// possible. That it was not is no error. An empty from means whichever repository the registry finds by itself.
	Mount(ctx context.Context, b model.Blob, from string) (bool, error)
	// Upload brings the blob. open returns its content from an offset on, any number of times; sent is told how many
	// bytes have arrived in all, which can become fewer when something has to be sent again.
	Upload(ctx context.Context, b model.Blob, open func(offset int64) (io.ReadCloser, error), sent func(total int64)) error
	// PutManifest makes the artifact known, when all its blobs are there.
	PutManifest(ctx context.Context, mediaType string, manifest []byte) error
}

// Options of Push. The zero value works.
type Options struct {
	// Names default to ModelPack.
	Names Names
	// Archive of each category; Raw by default.
	Archive map[Category]Archive
	// Annotations of the manifest.
	Annotations map[string]string
	// Jobs is how many files are read and sent at once; 4 by default, and never fewer than processors are there to hash.
	Jobs int
	// MountFrom lists repositories of the same registry that may have blobs already. After them the target is asked to
	// find one by itself.
	MountFrom []string
	// Observer is told what happens, one event at a time. Nil means nobody is.
	Observer func(Event)
}

// EventKind says what an Event is about.
type EventKind string

// The kinds of events. Progress comes many times for a file, the others once.
const (
	// Started: Total is the size of all files.
	Started EventKind = "started"
	// Hashing: Bytes of the file's Total have been read.
	Hashing EventKind = "hashing"
	// Uploading: Bytes of the layer's Total have arrived.
	Uploading EventKind = "uploading"
	// Existed, Mounted and Uploaded: the layer is at the target, because it was there, was mounted, or was sent.
	Existed  EventKind = "existed"
	Mounted  EventKind = "mounted"
	Uploaded EventKind = "uploaded"
	// Finished: the manifest is at the target.
	Finished EventKind = "finished"
)

// Event tells an Observer of progress.
type Event struct {
	Kind EventKind
	// Path of the file; empty where the event is about the artifact.
	Path string
	// Digest of the layer, once it is known.
	Digest digest.Digest
	// Bytes so far, of Total.
	Bytes, Total int64
}

// Result is an artifact that is at its target.
type Result struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType"`
	// ManifestSize in bytes.
	ManifestSize int64 `json:"manifestSize"`
	// Files is their number, Bytes the size of their layers.
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
	// Sent, Mounted and Existing say how the layers came there, in bytes.
	Sent     int64 `json:"sent"`
	Mounted  int64 `json:"mounted"`
	Existing int64 `json:"existing"`
}

// Push brings the files of an inventory to a target as an artifact with the config. Blobs that are there already are not
// sent. When it fails or ctx ends, what has arrived stays, and the next Push goes on from there.
func Push(ctx context.Context, inv Inventory, c Config, target Target, o Options) (Result, error) {
	p := &pusher{target: target, options: o, uploads: map[digest.Digest]*upload{}}
	if p.options.Names == "" {
		p.options.Names = ModelPack
	}
	p.order(inv.Files)
	p.tell(Event{Kind: Started, Total: inv.Bytes()})
	if err := p.run(ctx); err != nil {
		return Result{}, err
	}
	return p.finish(ctx, c)
}

// pusher is one push.
type pusher struct {
	target  Target
	options Options
	layers  []content
	done    []measured

	// observing lets one event pass at a time.
	observing sync.Mutex
	// mu guards what follows.
	mu      sync.Mutex
	uploads map[digest.Digest]*upload
	result  Result
}

// upload is the transfer of one blob, which several layers may share.
type upload struct {
	once sync.Once
	err  error
}

// order sorts the files as their layers stand in the manifest: by category, then by path.
func (p *pusher) order(files []File) {
	for _, category := range Categories {
		for _, f := range files {
			if f.Category == category {
				p.layers = append(p.layers, content{file: f, archive: cmp.Or(p.options.Archive[category], Raw)})
			}
		}
	}
	p.done = make([]measured, len(p.layers))
}

// run hashes and uploads, the largest files first, so that the last minute does not belong to one of them. Every file is
// sent as soon as it is hashed: then it is still in memory, if it fits.
func (p *pusher) run(ctx context.Context) error {
	work := make([]int, len(p.layers))
	for i := range work {
		work[i] = i
	}
	slices.SortStableFunc(work, func(a, b int) int { return cmp.Compare(p.layers[b].file.Size, p.layers[a].file.Size) })
	outer := ctx
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(cmp.Or(p.options.Jobs, max(4, runtime.GOMAXPROCS(0))))
	for _, i := range work {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() (err error) {
			c := p.layers[i]
			var read int64
			p.done[i], err = c.measure(ctx, func(n int64) {
				read += n
				p.tell(Event{Kind: Hashing, Path: c.file.Path, Bytes: read, Total: c.file.Size})
			})
			if err != nil {
				return err
			}
			return p.send(ctx, c, p.done[i].blob)
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return outer.Err()
}

// send brings a layer to the target, once for each digest.
func (p *pusher) send(ctx context.Context, c content, b model.Blob) error {
	p.mu.Lock()
	u := p.uploads[b.Digest]
	if u == nil {
		u = &upload{}
		p.uploads[b.Digest] = u
	}
	p.mu.Unlock()
	u.once.Do(func() { u.err = p.transfer(ctx, c, b) })
	return u.err
}

func (p *pusher) transfer(ctx context.Context, c content, b model.Blob) error {
	err := p.bring(ctx, c.file.Path, b, c.opener(ctx))
	if err == nil {
		return nil
	}
	if changed := c.unchanged(); changed != nil { // the true cause of a digest that is not accepted
		return fmt.Errorf("%s: %w", c.file.Path, changed)
	}
	return err
}

// count adds a layer to one of the sums and tells of it.
func (p *pusher) count(sum *int64, e Event) {
	p.mu.Lock()
	*sum += e.Total
	p.mu.Unlock()
	p.tell(e)
}

func (p *pusher) tell(e Event) {
	if p.options.Observer == nil {
		return
	}
	p.observing.Lock()
	defer p.observing.Unlock()
	p.options.Observer(e)
}

// finish brings config and manifest.
func (p *pusher) finish(ctx context.Context, c Config) (Result, error) {
	diffIDs := make([]digest.Digest, len(p.done))
	for i, m := range p.done {
		diffIDs[i] = m.diffID
		p.result.Bytes += m.blob.Size
	}
	config, err := c.JSON(p.options.Names, diffIDs)
	if err != nil {
		return Result{}, fmt.Errorf("config of the model: %w", err)
	}
	manifest, err := p.manifest(config)
	if err != nil {
		return Result{}, err
	}
	blob := model.Blob{Digest: digest.FromBytes(config), Size: int64(len(config))}
	there, err := p.target.Exists(ctx, blob)
	if err != nil {
		return Result{}, err
	}
	if !there {
		open := func(offset int64) (io.ReadCloser, error) {
			return io.NopCloser(newSection(config, offset)), nil
		}
		if err := p.target.Upload(ctx, blob, open, func(int64) {}); err != nil {
			return Result{}, err
		}
	}
	if err := p.target.PutManifest(ctx, ocispec.MediaTypeImageManifest, manifest); err != nil {
		return Result{}, err
	}
	r := p.result
	r.Digest, r.MediaType, r.ManifestSize, r.Files = digest.FromBytes(manifest), ocispec.MediaTypeImageManifest, int64(len(manifest)), len(p.layers)
	p.tell(Event{Kind: Finished, Digest: r.Digest, Bytes: r.Bytes, Total: r.Bytes})
	return r, nil
}

func (p *pusher) manifest(config []byte) ([]byte, error) {
	names := p.options.Names
	m := ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: names.ManifestType(),
		Config:       ocispec.Descriptor{MediaType: names.ConfigType(), Digest: digest.FromBytes(config), Size: int64(len(config))},
		Annotations:  p.options.Annotations,
	}
	for i, l := range p.layers {
		annotations, err := l.annotations(names)
		if err != nil {
			return nil, err
		}
		m.Layers = append(m.Layers, ocispec.Descriptor{
			MediaType: names.LayerType(l.file.Category, l.archive), Digest: p.done[i].blob.Digest, Size: p.done[i].blob.Size, Annotations: annotations,
		})
	}
	out, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if len(out) > maxManifest {
		return nil, fmt.Errorf("the manifest of %d files takes %d bytes, and registries accept %d: leave files out with %s: %w",
			len(p.layers), len(out), maxManifest, IgnoreFile, model.ErrTooLarge)
	}
	return out, nil
}

// fileMetadata is the value of the annotation file.metadata+json.
type fileMetadata struct {
	Name     string      `json:"name"`
	Mode     fs.FileMode `json:"mode"`
	UID      uint32      `json:"uid"`
	GID      uint32      `json:"gid"`
	Size     int64       `json:"size"`
	ModTime  time.Time   `json:"mtime"`
	Typeflag byte        `json:"typeflag"`
}

// annotations of the layer. Besides those of the specification there is a title, by which tools that do not know models,
// such as oras, name the blob when they pull it: where the blob is the file it is the path, else it says what it is.
func (c content) annotations(n Names) (map[string]string, error) {
	metadata, err := json.Marshal(fileMetadata{Name: path.Base(c.file.Path), Mode: c.file.Mode, Size: c.file.Size, ModTime: epoch})
	if err != nil {
		return nil, err
	}
	return map[string]string{
		n.Annotation(annotationFilepath): c.file.Path,
		n.Annotation(annotationMetadata): string(metadata),
		n.Annotation(annotationUntested): fmt.Sprint(c.file.Untested),
		ocispec.AnnotationTitle:          c.file.Path + c.archive.extension(),
	}, nil
}
