package format

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// HubCache is one repository in a cache of the Hugging Face libraries: the directory that HF_HOME names. Read-only and
// offline they ask a ref for a commit and look for the file in that commit's snapshot. They take no lock and write
// nothing for that, and they leave refs and snapshots as they find them.
//
// The files stand in the snapshot itself, as the libraries put them where links are not possible, and not in a
// directory of blobs that the snapshot links to: everything is in a view's blobs once already, and a snapshot without
// links can be mounted alone and be read by programs that refuse data outside of the model's directory.
type HubCache struct {
	// Repository is the repository's name on the Hub: [datasets/|spaces/][org/]name.
	Repository string
	// Commit names the snapshot: 40 hexadecimal digits.
	Commit string
	// Revisions are branches and tags that lead to the commit, besides "main".
	Revisions []string
}

// defaultRevision is what the libraries look for when nobody names a revision.
const defaultRevision = "main"

// NewHubCache describes the repository that ref, of the scheme "hf", names. commit is the one that the files are from;
// for files that are from no Git repository, and an empty commit, the manifest's digest stands for it.
func NewHubCache(ref model.Ref, commit string, manifest digest.Digest) HubCache {
	c := HubCache{Repository: ref.Repository, Commit: commit}
	if !model.IsCommit(commit) {
		c.Commit = manifest.Encoded()[:40] // as long as a commit, and as certain to be another one for other files
	}
	if ref.Tag != "" && ref.Tag != defaultRevision && ref.Tag != c.Commit {
		c.Revisions = append(c.Revisions, ref.Tag)
	}
	return c
}

// HubName is the reference to the Hub that the layout names a model by: ref itself if it is one, else one of the last
// two components of its repository. It fails with model.ErrInvalid for names that the Hub does not allow.
func HubName(ref model.Ref) (model.Ref, error) {
	if ref.Scheme == model.SchemeHub {
		return ref, nil
	}
	parts := strings.Split(ref.Repository, "/")
	parts = parts[max(0, len(parts)-2):]
	if slices.Contains([]string{"models", "datasets", "spaces"}, parts[0]) {
		parts = parts[len(parts)-1:] // these are words of the Hub's own and no organisation
	}
	out, err := model.ParseRef(model.SchemeHub + "://" + strings.Join(parts, "/"))
	if err != nil {
		return model.Ref{}, err
	}
	out.Tag = ref.Tag
	return out, nil
}

// dir is the repository's directory, "hub/models--org--name" for example.
func (c HubCache) dir() string {
	kind, name := "models", c.Repository
	for _, other := range []string{"datasets", "spaces"} {
		if rest, ok := strings.CutPrefix(name, other+"/"); ok {
			kind, name = other, rest
		}
	}
	return "hub/" + kind + "--" + strings.ReplaceAll(name, "/", "--")
}

// Refs are the files that lead from revisions to the commit. They hold its digits and nothing else: the libraries take
// a line end for a part of the commit. Whoever stores the blobs of the tree stores them as well.
func (c HubCache) Refs() []InlineFile {
	var out []InlineFile
	for _, r := range append([]string{defaultRevision}, c.Revisions...) {
		out = append(out, InlineFile{Path: c.dir() + "/refs/" + r, Mode: defaultMode, Data: []byte(c.Commit)})
	}
	return out
}

// Tree shows a model as the cache. It fails with model.ErrInvalid for paths that become too long or too deep, and for
// revisions that one directory cannot hold together.
func (c HubCache) Tree(t model.Tree) (model.Tree, error) {
	if c.Repository == "" || !model.IsCommit(c.Commit) {
		return nil, fmt.Errorf("repository %q at commit %q is not one of the Hub: %w", c.Repository, c.Commit, model.ErrInvalid)
	}
	files := make([]model.File, 0, len(t)+1+len(c.Revisions))
	for _, f := range c.Refs() {
		files = append(files, model.File{Path: f.Path, Mode: f.Mode, Blob: f.Blob()})
	}
	out, err := model.NewTree(append(files, under(c.dir()+"/snapshots/"+c.Commit, t)...))
	if err != nil {
		return nil, fmt.Errorf("as a cache of the Hugging Face libraries: %w", err)
	}
	return out, nil
}

// under lists the files of a tree in a directory. Links of a tree lead to places in it, so they stay as they are.
func under(dir string, t model.Tree) []model.File {
	out := make([]model.File, 0, len(t))
	for _, f := range t {
		f.Path = dir + "/" + f.Path
		out = append(out, f)
	}
	return out
}
