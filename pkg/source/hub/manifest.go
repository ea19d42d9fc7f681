package hub

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
)

// MediaType is the type of the manifests that this package writes. Package format reads them.
const MediaType = "application/vnd.model-csi.hub.manifest.v1+json"

// document is the manifest of a commit: always the same bytes for the same commit of the same repository.
type document struct {
	MediaType  string `json:"mediaType"`
	Repository string `json:"repository"`
	Commit     string `json:"commit"`
	// Files are sorted by path.
	Files []file `json:"files"`
}

type file struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

func (f file) digest() digest.Digest { return digest.NewDigestFromEncoded(digest.SHA256, f.SHA256) }

// listing is a commit with all that is known about its files.
type listing struct {
	digest   digest.Digest
	manifest []byte
	commit   string
	// paths has one path for each content.
	paths map[digest.Digest]file
	// probe is the file that proves access: the largest one, because a hub that shows some files of a gated repository
	// to everybody does not show the weights.
	probe file
}

func (l *listing) snapshot() source.Snapshot {
	return source.Snapshot{Digest: l.digest, MediaType: MediaType, Manifest: l.manifest}
}

// newListing writes the manifest of a commit. It fails with model.ErrInvalid for paths that a tree cannot have, and with
// model.ErrUnsupported where there is no file.
func newListing(repository, commit string, files []file) (*listing, error) {
	if len(files) == 0 {
		return nil, fmt.Errorf("commit %s has no file: %w", commit, model.ErrUnsupported)
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.Path, b.Path) })
	tree := make([]model.File, len(files))
	for i, f := range files {
		tree[i] = model.File{Path: f.Path, Mode: 0o644, Blob: model.Blob{Digest: f.digest(), Size: f.Size}}
	}
	if _, err := model.NewTree(tree); err != nil {
		return nil, fmt.Errorf("commit %s: %w", commit, err)
	}
	data, err := json.Marshal(document{MediaType: MediaType, Repository: repository, Commit: commit, Files: files})
	if err != nil {
		return nil, fmt.Errorf("commit %s: %v: %w", commit, err, model.ErrInvalid)
	}
	if len(data) > maxManifest {
		return nil, fmt.Errorf("commit %s: the list of its %d files takes %d bytes, the limit is %d: %w", commit, len(files), len(data), maxManifest, model.ErrTooLarge)
	}
	return index(data, commit, files), nil
}

// index makes a listing of files that are checked.
func index(manifest []byte, commit string, files []file) *listing {
	l := &listing{
		digest: digest.FromBytes(manifest), manifest: manifest, commit: commit, probe: files[0],
		paths: make(map[digest.Digest]file, len(files)),
	}
	for _, f := range files {
		if _, again := l.paths[f.digest()]; !again {
			l.paths[f.digest()] = f
		}
		if f.Size > l.probe.Size {
			l.probe = f
		}
	}
	return l
}

// parseListing reads back a manifest that newListing wrote for this repository.
func parseListing(repository string, manifest []byte) (*listing, error) {
	var d document
	dec := json.NewDecoder(bytes.NewReader(manifest))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return nil, fmt.Errorf("manifest of a commit: %v: %w", err, model.ErrInvalid)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("manifest of a commit: something follows it: %w", model.ErrInvalid)
	}
	if d.MediaType != MediaType || d.Repository != repository || !commitPattern.MatchString(d.Commit) {
		return nil, fmt.Errorf("manifest of a commit: it is of type %.100q and commit %.100q of %.100q: %w", d.MediaType, d.Commit, d.Repository, model.ErrInvalid)
	}
	for _, f := range d.Files {
		if _, err := model.ParseDigest("sha256:" + f.SHA256); err != nil {
			return nil, fmt.Errorf("manifest of a commit: file %.300q: %w", f.Path, err)
		}
	}
	l, err := newListing(repository, d.Commit, d.Files)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(l.manifest, manifest) {
		return nil, fmt.Errorf("manifest of a commit: it is not in its canonical form: %w", model.ErrInvalid)
	}
	return l, nil
}
