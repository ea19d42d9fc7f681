package pack

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/model-csi/model-csi/pkg/model"
)

// IsLayout reports whether a directory is an OCI image layout.
func IsLayout(dir string) bool {
	info, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile))
	return err == nil && info.Mode().IsRegular()
}

// ValidateLayout holds the artifacts of a layout against the specification; tag selects one, empty means all. Every blob
// has to be there with its size, and with full also with its digest, which reads all of it. The schema is that of Validate.
// It fails with model.ErrNotFound where there is no such artifact, and model.ErrInvalid for a directory that is no layout.
func ValidateLayout(dir, tag string, full bool, schema *Schema) ([]Finding, error) {
	if !IsLayout(dir) {
		return nil, fmt.Errorf("%s is not an OCI image layout: it has no file %s: %w", dir, ocispec.ImageLayoutFile, model.ErrInvalid)
	}
	l := &Layout{dir: dir}
	index, err := l.index()
	if err != nil {
		return nil, err
	}
	var fs findings
	found := 0
	for _, d := range index.Manifests {
		if tag != "" && d.Annotations[ocispec.AnnotationRefName] != tag {
			continue
		}
		found++
		l.validate(&fs, d, full, schema)
	}
	if found == 0 && tag != "" {
		return nil, fmt.Errorf("layout %s has no artifact with the tag %q: %w", dir, tag, model.ErrNotFound)
	}
	if found == 0 {
		return nil, fmt.Errorf("layout %s is empty: %w", dir, model.ErrNotFound)
	}
	return fs, nil
}

func (l *Layout) validate(fs *findings, d ocispec.Descriptor, full bool, schema *Schema) {
	manifest, ok := l.small(fs, "manifest", d)
	if !ok {
		return
	}
	var m ocispec.Manifest
	if json.Unmarshal(manifest, &m) != nil {
		fs.errorf("manifest", "%s is not a manifest in JSON", d.Digest)
		return
	}
	config, _ := l.small(fs, "config", m.Config)
	*fs = append(*fs, Validate(manifest, config, schema)...)
	for i, layer := range m.Layers {
		l.blob(fs, fmt.Sprintf("blob of layers[%d]", i), layer, full)
	}
}

// small reads a blob as a whole and verifies it.
func (l *Layout) small(fs *findings, where string, d ocispec.Descriptor) ([]byte, bool) {
	if !l.blob(fs, where, d, false) {
		return nil, false
	}
	data, err := os.ReadFile(l.path(d.Digest))
	if err != nil || d.Size > maxManifest || d.Digest.Algorithm().FromBytes(data) != d.Digest {
		fs.errorf(where, "%s cannot be read, or has other content", d.Digest)
		return nil, false
	}
	return data, true
}

// blob checks that a blob is there.
func (l *Layout) blob(found *findings, where string, d ocispec.Descriptor, full bool) bool {
	if _, err := model.ParseDigest(d.Digest.String()); err != nil {
		return false // the manifest's findings say so
	}
	f, err := os.Open(l.path(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		found.errorf(where, "%s is not in the layout", d.Digest)
		return false
	}
	if err != nil {
		found.errorf(where, "%s: %v", d.Digest, withoutPath(err))
		return false
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || info.Size() != d.Size {
		found.errorf(where, "%s has another size than %d bytes", d.Digest, d.Size)
		return false
	}
	if !full {
		return true
	}
	v := d.Digest.Verifier()
	if _, err := io.CopyBuffer(writerOnly{v}, readerOnly{f}, make([]byte, readSize)); err != nil || !v.Verified() {
		found.errorf(where, "%s has other content", d.Digest)
		return false
	}
	return true
}
