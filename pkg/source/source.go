// Package source says where a model's bytes come from.
//
// A [Source] opens a [Repository] for one reference as one identity sees it. The repository pins the reference to a
// [Snapshot], the exact bytes of one manifest and its config, and reads ranges of blobs. Sources never verify blobs:
// whoever stores bytes hashes them. They do verify manifests, because a Snapshot's digest is a promise.
package source

import (
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// Snapshot is a reference pinned to one manifest.
type Snapshot struct {
	// Digest of Manifest, verified.
	Digest digest.Digest `json:"digest"`
	// Index is the digest of the index or manifest list through which Digest was reached; empty when there was none.
	Index digest.Digest `json:"index,omitempty"`
	// MediaType of the manifest: the body's field, else the Content-Type.
	MediaType string `json:"mediaType"`
	// Manifest holds the bytes as received.
	Manifest []byte `json:"manifest"`
	// Config holds the config blob, verified; nil where the manifest has none or it is too large to matter.
	Config []byte `json:"config,omitempty"`
}

// Source opens repositories. Implementations are safe for concurrent use.
type Source interface {
	// Repository returns the repository of ref as cred may see it. It does no I/O. It fails with model.ErrInvalid
	// for a reference that this source cannot serve.
	Repository(ref model.Ref, cred model.Credential) (Repository, error)
}

// Repository reads one repository as one identity. Implementations are safe for concurrent use, hold no resource that
// needs closing, and renew tokens by themselves.
//
// Errors wrap model.ErrNotFound, ErrUnauthenticated, ErrDenied, ErrUnavailable, ErrCorrupt, ErrInvalid or ErrTooLarge;
// a server's Retry-After arrives as *model.RetryAfterError.
type Repository interface {
	// Resolve pins the reference: it fetches the manifest, selects from an index, and fetches the config.
	// want decides between the entries of an index; a source without indexes ignores it.
	Resolve(ctx context.Context, want model.Selection) (Snapshot, error)
	// Check proves that this identity may read the manifest d now, with the least traffic that proves it.
	Check(ctx context.Context, d digest.Digest) error
	// ReadRange opens length bytes of the blob from offset on; a length of -1 means up to the end. The caller closes
	// the body. ctx governs the whole life of the body, not only the request.
	ReadRange(ctx context.Context, blob model.Blob, offset, length int64) (Body, error)
}

// Recaller is a Repository that wants to be told what an earlier Resolve of the same reference returned, perhaps before
// a restart: what the snapshot says about where its blobs are is then not asked for again, and still known when the
// reference has moved on. It proves nothing.
type Recaller interface {
	// Recall is called before Check and ReadRange. The snapshot's digest has been verified.
	Recall(Snapshot)
}

// Recall tells the repository about an earlier snapshot, if it wants to know.
func Recall(r Repository, s Snapshot) {
	if r, ok := r.(Recaller); ok {
		r.Recall(s)
	}
}

// Selection says which entry of an index is wanted.
type Selection = model.Selection

// Distruster is a Repository whose blobs may come from several hosts.
type Distruster interface {
	// Distrust is told that the bytes which ReadRange gave of the blob were not those of its digest. It reports whether
	// reading it again asks somebody else.
	Distrust(blob model.Blob) bool
}

// ErrRange is what ReadRange fails with when the server answers a range with another one. It is a model.ErrUnavailable.
// Asking for the whole blob may still work.
var ErrRange = fmt.Errorf("ranges are not served as asked: %w", model.ErrUnavailable)

// Body is the answer to ReadRange.
type Body struct {
	io.ReadCloser
	// Offset of the first byte in the blob. It differs from the one asked for, and is 0, when the server does not
	// serve ranges and sends the whole blob instead.
	Offset int64
	// Length of the body in bytes; -1 when the server did not say.
	Length int64
	// Host that served the bytes after redirects, for per-host limits.
	Host string
}

// Mux selects a Source by the reference's scheme.
type Mux map[string]Source

// Repository implements Source.
func (m Mux) Repository(ref model.Ref, cred model.Credential) (Repository, error) {
	s, ok := m[ref.Scheme]
	if !ok {
		return nil, fmt.Errorf("reference %s: scheme %q is not served: %w", ref, ref.Scheme, model.ErrInvalid)
	}
	return s.Repository(ref, cred)
}

// Choice is the entry of an index that a reference leads to.
type Choice struct {
	Digest    digest.Digest
	Size      int64
	MediaType string
}
