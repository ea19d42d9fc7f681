// Package format knows what a manifest means: which of its layers are files, which are archives of files, and where
// each file belongs.
//
// [Parse] reads a manifest and its config and returns a [Plan]. Before anything is fetched the plan says which blobs are
// needed and the paths of those that are plain files ("raw" layers). Once the archive layers have been taken apart,
// [Plan.Tree] puts everything in its place. Both are pure functions: no I/O, no clock, the same result for the same
// bytes. Each format is one file of this package.
package format

import (
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// Input is what a registry delivered.
type Input struct {
	// MediaType of the manifest; the body's own field, if it has one, must agree.
	MediaType string
	// Manifest and Config are the bytes as received; Config may be nil.
	Manifest, Config []byte
}

// Plan says how a manifest becomes a directory.
type Plan struct {
	// Format is the name of the format, as [Names] lists it.
	Format string
	// Layers that hold files, in manifest order. Layers that no file comes from are left out.
	Layers []Layer
}

// Layer is one blob of a Plan.
type Layer struct {
	// Blob is the layer as the manifest describes it: digest and size of the stored bytes.
	Blob model.Blob
	// MediaType as the manifest says it.
	MediaType string
	// Archive says that the blob is a tar, possibly compressed, whose members are the files. Which compression is
	// decided by the first bytes, not by the media type.
	Archive bool
	// Path and Mode of the file that a layer which is no archive becomes.
	Path string
	Mode fs.FileMode
	// Annotation is the path annotation of an archive layer, which corrects member names in some artifacts.
	Annotation string
}

// Members returns the entries of an archive layer in the order of the archive.
type Members func(layer digest.Digest) []model.Member
