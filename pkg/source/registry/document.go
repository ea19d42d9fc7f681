package registry

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// Document is a manifest or an index as the registry has it.
type Document struct {
	// Digest of Bytes, verified where the reference has one.
	Digest    digest.Digest
	MediaType string
	Bytes     []byte
	// Index says that it lists other manifests.
	Index bool
}

// Document fetches what a reference names, without going from an index to one of its manifests. Errors are those of
// source.Repository.
func (s *Source) Document(ctx context.Context, ref model.Ref, cred model.Credential) (Document, error) {
	opened, err := s.Repository(ref, cred)
	if err != nil {
		return Document{}, err
	}
	r := opened.(*repository) //nolint:forcetypeassert // Repository returns no other
	d, _, err := r.document(ctx, ref.Reference(), model.Blob{Digest: ref.Digest})
	if err != nil {
		return Document{}, err
	}
	return Document{Digest: d.digest, MediaType: d.mediaType, Bytes: d.bytes, Index: d.isIndex()}, nil
}
