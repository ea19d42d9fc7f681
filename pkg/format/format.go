// Package format knows what a manifest means: which of its layers are files, which are archives of files, and where
// each file belongs.
//
// A tree can be shown in the form that a program expects ([HubCache], [OllamaStore]), and trees can be put together
// ([Merge]).
//
// [Select] picks one manifest from an index. [Parse] reads a manifest and its config and returns a [Plan]. Before
// anything is fetched the plan says which blobs are needed and the paths of those that are plain files ("raw" layers).
// Once the archive layers have been taken apart into their members, [Plan.Tree] puts everything in its place. All are
// pure functions: no I/O, no clock, the same result for the same bytes. What is trusted is the digest and size of each
// layer and nothing else; a config that is missing, empty or wrong spoils no model.
//
// Each format is one file of this package with one entry in the table of formats.
package format

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// Input is what a registry delivered.
type Input struct {
	// MediaType of the manifest; the body's own field, if it has one, must agree.
	MediaType string
	// Manifest and Config are the bytes as received; Config may be nil.
	Manifest, Config []byte
	// Format is the name of the format to read the manifest as; empty means that the manifest tells.
	Format string
}

// Plan says how a manifest becomes a directory.
type Plan struct {
	// Format is the name of the format, as [Names] lists it.
	Format string
	// Layers that hold files, in manifest order; the later one wins where two hold the same path. Layers that no file
	// comes from are left out, and so are raw layers that a later raw layer replaces.
	Layers []Layer
	// Inline are small files that are not blobs of their own in the registry. They give way to a layer's file at the
	// same path.
	Inline []InlineFile
	// Parents are references to further artifacts that hold the model itself; see [Plan.Inherit].
	Parents []string
	// RootFS says that the layers are those of an image: each is applied to the ones before it, with whiteouts.
	RootFS bool
	// Strip is a directory that is left out of the paths if every file lies below it.
	Strip string
	// Commit is the Git commit that the files are from; empty where the manifest does not tell.
	Commit string
	// Notes are sentences for the log about what the artifact mentions and the tree does not have.
	Notes []string
}

// Layer is one blob of a Plan.
type Layer struct {
	// Blob is the layer as the manifest describes it: digest and size of the stored bytes.
	Blob model.Blob
	// MediaType as the manifest says it.
	MediaType string
	// Origin is the reference of the parent artifact that holds the blob; empty for the artifact itself.
	Origin string
	// Kind is what the layer is to the model, where a format tells: "model", "part", "code", ...
	Kind string

	// Archive says that the blob is a tar, possibly compressed, whose members are the files. Which compression is
	// decided by the first bytes, not by the media type.
	Archive bool
	// Compressed says that the blob is one file compressed with gzip or zstd. Its only member has no name.
	Compressed bool
	// Path and Mode of the file that a layer becomes which is no archive. An archive has a Path where its producers
	// store other things under the same type: if the blob is no tar, it is the file at Path, and its only member has
	// no name. An archive without a Path must be a tar.
	Path string
	Mode fs.FileMode
	// Annotation is the path annotation of an archive layer, which corrects member names in some artifacts.
	Annotation string
	// Prefix is a directory that the members of an archive layer belong into.
	Prefix string
}

// InlineFile is a regular file whose content came with the manifest. Whoever stores the blobs of the tree stores Data
// as well, under its own digest.
type InlineFile struct {
	Path string
	Mode fs.FileMode
	Data []byte
}

// Blob is the content as the tree names it.
func (f InlineFile) Blob() model.Blob {
	return model.Blob{Digest: digest.FromBytes(f.Data), Size: int64(len(f.Data))}
}

// Members returns the entries of an archive layer in the order of the archive. A blob that is a single file (see
// Layer.Compressed and Layer.Path) has one member without a name: a regular file, decompressed where it was compressed.
type Members func(layer digest.Digest) []model.Member

// Description describes a format for people.
type Description struct {
	// Name as Plan.Format has it.
	Name string
	// Reads says in a sentence what is understood.
	Reads string
}

// format is one way to write a model into a registry.
type format struct {
	name, reads string
	// detect reports whether the manifest is written this way. It is only asked when no earlier format said yes.
	detect func(m *manifest) bool
	// parse makes the plan. It need not set Format.
	parse func(m *manifest) (Plan, error)
}

// formats in the order of detection. The order matters: the media types of layers overlap, so what only one producer
// writes comes before what several do, images come before generic artifacts, and the last one takes everything.
var formats = []format{
	hub,
	cnaiManifest,
	ollama,
	kitOps,
	dockerModel,
	modelPack,
	cnaiLayers,
	image,
	generic,
}

// Names lists the formats in the order of detection, each once.
func Names() []Description {
	var out []Description
	seen := map[string]bool{}
	for _, f := range formats {
		if !seen[f.name] {
			seen[f.name] = true
			out = append(out, Description{Name: f.name, Reads: f.reads})
		}
	}
	return out
}

// Parse finds out how a manifest is written and plans its directory. It fails with model.ErrInvalid for a manifest
// that contradicts itself or names paths that leave the model's directory, with model.ErrTooLarge beyond the limits
// for manifests, and with model.ErrUnsupported, saying what was found, for artifacts that hold no model that can be
// mounted. An index is not a manifest: see [Select].
func Parse(in Input) (Plan, error) {
	m, err := parseManifest(in)
	if err != nil {
		return Plan{}, err
	}
	f, err := m.format(in.Format)
	if err != nil {
		return Plan{}, err
	}
	if err := m.checkSupported(); err != nil {
		return Plan{}, err
	}
	p, err := f.parse(m)
	if err != nil {
		return Plan{}, err
	}
	p.Format = f.name
	p.dropReplaced()
	if len(p.Layers) == 0 && len(p.Parents) == 0 {
		return Plan{}, fmt.Errorf("%s: no layer holds a file that has a name: %w", m, model.ErrUnsupported)
	}
	return p, nil
}

func (m *manifest) format(name string) (format, error) {
	for _, f := range formats {
		if name == "" && f.detect(m) {
			return f, nil
		}
		if name == f.name {
			m.forced = true
			return f, nil
		}
	}
	var known []string
	for _, d := range Names() {
		known = append(known, d.Name)
	}
	return format{}, fmt.Errorf("format %q is not known; the formats are %s: %w", name, strings.Join(known, ", "), model.ErrInvalid)
}

// dropReplaced leaves out raw layers whose path a later raw layer has as well, so that nobody fetches them.
func (p *Plan) dropReplaced() {
	last := make(map[string]int, len(p.Layers))
	for i, l := range p.Layers {
		if !l.Archive {
			last[l.Path] = i
		}
	}
	kept := p.Layers[:0]
	for i, l := range p.Layers {
		if l.Archive || last[l.Path] == i {
			kept = append(kept, l)
		}
	}
	p.Layers = kept
}

// Needed lists the layers to fetch, each blob once: every archive, because its members' names are not known before it
// is opened, and the files whose path keep accepts. A nil keep accepts all.
func (p Plan) Needed(keep func(path string) bool) []Layer {
	var out []Layer
	type key struct {
		digest     digest.Digest
		unpack     bool
		compressed bool
	}
	seen := map[key]int{}
	for _, l := range p.Layers {
		if !l.Archive && keep != nil && !keep(l.Path) {
			continue
		}
		k := key{l.Blob.Digest, l.Archive, l.Compressed}
		if i, again := seen[k]; again {
			if l.Origin == "" {
				out[i].Origin = "" // nearer than a parent, and surely readable by whoever reads the artifact
			}
			continue
		}
		seen[k] = len(out)
		out = append(out, l)
	}
	return out
}
