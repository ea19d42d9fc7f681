package pack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/model-csi/model-csi/pkg/internal/atomicfile"
	"github.com/model-csi/model-csi/pkg/model"
)

// Layout is an OCI image layout on disk, a directory that oras, skopeo and others read and copy from. It is a Target.
type Layout struct {
	dir string
	tag string
}

// NewLayout opens a layout, and makes it where there is none. tag names the artifact in its index; empty means that its
// digest alone does. It fails with model.ErrInvalid for a directory that holds something else.
func NewLayout(dir, tag string) (*Layout, error) {
	marker := filepath.Join(dir, ocispec.ImageLayoutFile)
	if _, err := os.Stat(marker); errors.Is(err, fs.ErrNotExist) {
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			return nil, fmt.Errorf("%s is not an OCI image layout and not empty: %w", dir, model.ErrInvalid)
		}
		if err := os.MkdirAll(filepath.Join(dir, ocispec.ImageBlobsDir, "sha256"), 0o755); err != nil {
			return nil, fmt.Errorf("layout: %w", err)
		}
		content, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
		if err != nil {
			return nil, err
		}
		if err := writeFile(marker, content); err != nil {
			return nil, fmt.Errorf("layout: %w", err)
		}
	}
	l := &Layout{dir: dir, tag: tag}
	if _, err := l.index(); err != nil {
		return nil, err
	}
	return l, nil
}

func writeFile(name string, content []byte) error {
	if err := atomicfile.Write(name, content); err != nil {
		return err
	}
	return os.Chmod(name, 0o644) // a layout is there to be read by other tools
}

func (l *Layout) index() (ocispec.Index, error) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	data, err := os.ReadFile(filepath.Join(l.dir, ocispec.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &index)
	}
	if err != nil {
		return index, fmt.Errorf("layout %s: %s: %v: %w", l.dir, ocispec.ImageIndexFile, err, model.ErrInvalid)
	}
	return index, nil
}

func (l *Layout) path(d digest.Digest) string {
	return filepath.Join(l.dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// Exists implements Target.
func (l *Layout) Exists(_ context.Context, b model.Blob) (bool, error) {
	info, err := os.Stat(l.path(b.Digest))
	return err == nil && info.Mode().IsRegular() && info.Size() == b.Size, nil
}

// Mount implements Target: layouts have nobody to share with.
func (l *Layout) Mount(context.Context, model.Blob, string) (bool, error) { return false, nil }

// Upload implements Target. The blob is verified before it gets its name.
func (l *Layout) Upload(ctx context.Context, b model.Blob, open func(int64) (io.ReadCloser, error), sent func(int64)) (err error) {
	r, err := open(0)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	f, err := os.CreateTemp(filepath.Dir(l.path(b.Digest)), atomicfile.TempPattern)
	if err != nil {
		return fmt.Errorf("layout: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	var total int64
	watched := &watchedReader{ctx: ctx, r: r, read: func(n int64) {
		total += n
		sent(total)
	}}
	verifier := b.Digest.Verifier()
	n, err := io.CopyBuffer(io.MultiWriter(f, verifier), readerOnly{watched}, make([]byte, readSize))
	switch {
	case err != nil:
		return fmt.Errorf("layout: blob %s: %w", b.Digest, err)
	case n != b.Size || !verifier.Verified():
		return fmt.Errorf("layout: blob %s has other content now: %w", b.Digest, model.ErrCorrupt)
	}
	if err := errors.Join(f.Chmod(0o644), f.Sync(), os.Rename(f.Name(), l.path(b.Digest))); err != nil {
		return fmt.Errorf("layout: blob %s: %w", b.Digest, err)
	}
	return f.Close()
}

// PutManifest implements Target.
func (l *Layout) PutManifest(ctx context.Context, mediaType string, manifest []byte) error {
	b := model.Blob{Digest: digest.FromBytes(manifest), Size: int64(len(manifest))}
	open := func(offset int64) (io.ReadCloser, error) { return io.NopCloser(newSection(manifest, offset)), nil }
	if err := l.Upload(ctx, b, open, func(int64) {}); err != nil {
		return err
	}
	index, err := l.index()
	if err != nil {
		return err
	}
	entry := ocispec.Descriptor{MediaType: mediaType, Digest: b.Digest, Size: b.Size}
	var m ocispec.Manifest
	if json.Unmarshal(manifest, &m) == nil {
		entry.ArtifactType = m.ArtifactType
	}
	if l.tag != "" {
		entry.Annotations = map[string]string{ocispec.AnnotationRefName: l.tag}
	}
	// The tag moves to the new artifact, and one artifact is not listed twice under the same name.
	index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool {
		name := d.Annotations[ocispec.AnnotationRefName]
		return l.tag != "" && name == l.tag || d.Digest == b.Digest && name == l.tag
	})
	index.Manifests = append(index.Manifests, entry)
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(l.dir, ocispec.ImageIndexFile), data); err != nil {
		return fmt.Errorf("layout: %w", err)
	}
	return nil
}

// newSection reads data from offset on.
func newSection(data []byte, offset int64) io.Reader {
	return bytes.NewReader(data[min(offset, int64(len(data))):])
}
