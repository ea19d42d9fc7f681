package format

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/model-csi/model-csi/pkg/model"
)

const (
	nameHub = "huggingface"
	// typeHub is the type of the manifests that pkg/source/hub writes for a commit.
	typeHub = "application/vnd.model-csi.hub.manifest.v1+json"
)

var hub = format{
	name: nameHub,
	reads: "repositories of the Hugging Face Hub (`hf://`): models, datasets and spaces, every file of a commit at its own " +
		"path, those in LFS and Xet storage included",
	detect: func(m *manifest) bool { return m.MediaType == typeHub },
	parse:  parseHub,
}

// hubFile is a file of a commit.
type hubFile struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// parseHub takes every file for what it is. The document is our own and has one form: fields that are not known, paths
// out of order and paths twice mean that somebody else wrote it.
func parseHub(m *manifest) (Plan, error) {
	var doc struct {
		MediaType  string    `json:"mediaType"`
		Repository string    `json:"repository"`
		Commit     string    `json:"commit"`
		Files      []hubFile `json:"files"`
	}
	dec := json.NewDecoder(bytes.NewReader(m.document))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&doc); err != nil {
		return Plan{}, fmt.Errorf("manifest of a Hub repository: %v: %w", err, model.ErrInvalid)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Plan{}, fmt.Errorf("manifest of a Hub repository: something follows it: %w", model.ErrInvalid)
	}
	p := Plan{Layers: make([]Layer, 0, len(doc.Files)), Commit: doc.Commit}
	last := ""
	for _, f := range doc.Files {
		l, err := f.layer()
		if err != nil {
			return Plan{}, fmt.Errorf("manifest of a Hub repository: %w", err)
		}
		if f.Path <= last {
			return Plan{}, fmt.Errorf("manifest of a Hub repository: path %q is out of order after %q: %w", f.Path, last, model.ErrInvalid)
		}
		last = f.Path
		p.Layers = append(p.Layers, l)
	}
	if len(p.Layers) == 0 {
		return Plan{}, fmt.Errorf("commit %s of %s has no file: %w", clip(doc.Commit), clip(doc.Repository), model.ErrUnsupported)
	}
	return p, nil
}

func (f hubFile) layer() (Layer, error) {
	d, err := model.ParseDigest("sha256:" + f.SHA256)
	if err != nil {
		return Layer{}, fmt.Errorf("file %q: %w", clip(f.Path), err)
	}
	clean, err := model.CleanPath(f.Path)
	if err != nil {
		return Layer{}, err
	}
	if clean != f.Path || f.Size < 0 {
		return Layer{}, fmt.Errorf("file %q of %d bytes: %w", clip(f.Path), f.Size, model.ErrInvalid)
	}
	return Layer{Blob: model.Blob{Digest: d, Size: f.Size}, MediaType: "application/octet-stream", Path: clean, Mode: defaultMode}, nil
}
