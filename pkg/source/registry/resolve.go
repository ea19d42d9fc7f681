package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// Resolve implements source.Repository.
func (r *repository) Resolve(ctx context.Context, want model.Selection) (source.Snapshot, error) {
	top, proven, err := r.document(ctx, r.ref.Reference(), model.Blob{Digest: r.ref.Digest})
	if err != nil {
		return source.Snapshot{}, err
	}
	snap := source.Snapshot{}
	if top.isIndex() {
		snap.Index = top.digest
	}
	doc := top
	for depth := 0; doc.isIndex(); depth++ {
		if depth == maxIndexDepth {
			return source.Snapshot{}, fmt.Errorf("%s: indexes are nested deeper than %d: %w", r.ref, maxIndexDepth, model.ErrInvalid)
		}
		choice, err := r.choose(doc, want)
		if err != nil {
			return source.Snapshot{}, err
		}
		next, direct, err := r.document(ctx, choice.Digest.String(), model.Blob{Digest: choice.Digest, Size: choice.Size})
		if err != nil {
			return source.Snapshot{}, err
		}
		if manifestType(choice.MediaType) != "" && choice.MediaType != next.mediaType {
			return source.Snapshot{}, fmt.Errorf("%s: manifest %s is %q and its index says %q: %w",
				r.ref, choice.Digest, wire.Bounded(next.mediaType), choice.MediaType, model.ErrInvalid)
		}
		doc, proven = next, proven || direct
	}
	snap.Digest, snap.MediaType, snap.Manifest = doc.digest, doc.mediaType, doc.bytes
	if !proven {
		if err := r.Check(ctx, doc.digest); err != nil {
			return source.Snapshot{}, err
		}
	}
	if snap.Config, err = r.config(ctx, doc.config); err != nil {
		return source.Snapshot{}, err
	}
	return snap, nil
}

// choose asks the injected selection for the manifest of an index.
func (r *repository) choose(index document, want model.Selection) (source.Choice, error) {
	if r.source.options.Select == nil {
		return source.Choice{}, fmt.Errorf("%s: it is an index of several manifests: %w", r.ref, model.ErrUnsupported)
	}
	choice, err := r.source.options.Select(index.bytes, want)
	if err != nil {
		return source.Choice{}, fmt.Errorf("%s: index %s: %w", r.ref, index.digest, err)
	}
	if _, err := model.ParseDigest(choice.Digest.String()); err != nil {
		return source.Choice{}, fmt.Errorf("%s: index %s: %w", r.ref, index.digest, err)
	}
	return choice, nil
}

// document fetches a manifest or an index. want is what is known of it already. proven says that the server delivered
// it, or somebody whose word is as good.
func (r *repository) document(ctx context.Context, reference string, want model.Blob) (doc document, proven bool, err error) {
	use := func(e *endpoint) bool { return e.pull && (want.Digest != "" || e.resolve) }
	err = r.each(ctx, use, func(ctx context.Context, c *client) (f *failure) {
		if doc, f = r.fetchManifest(ctx, c, reference, want); f == nil {
			proven = r.proves(c.endpoint)
		}
		return f
	})
	return doc, proven, err
}

// proves reports whether the endpoint's answers say what the identity may read.
func (r *repository) proves(e *endpoint) bool { return !e.mirror }

// fetchManifest fetches a manifest from one endpoint, verifies it and finds out what it is.
func (r *repository) fetchManifest(ctx context.Context, c *client, reference string, want model.Blob) (document, *failure) {
	data, actual, contentType, f := r.fetchVerified(ctx, c, reference, want)
	if f != nil {
		return document{}, f
	}
	doc, err := parseManifest(data, contentType)
	if err != nil {
		return document{}, r.subject(c, "manifest "+reference).wrap(err)
	}
	doc.digest = actual
	return doc, nil
}

// fetchVerified fetches a manifest from one endpoint and compares it with what is known of it.
func (r *repository) fetchVerified(ctx context.Context, c *client, reference string, want model.Blob) ([]byte, digest.Digest, string, *failure) {
	s := r.subject(c, "manifest "+reference)
	data, header, f := r.readManifest(ctx, c, s, reference)
	if f != nil {
		return nil, "", "", f
	}
	expected := want.Digest
	if expected == "" {
		// A tag promises nothing, but a registry that names a digest promises these bytes.
		expected, _ = model.ParseDigest(header.Get("Docker-Content-Digest"))
	}
	actual := digest.FromBytes(data)
	if expected != "" {
		actual = expected.Algorithm().FromBytes(data)
	}
	host := c.endpoint.base.Host
	if expected != "" && actual != expected {
		return nil, "", "", s.fail(model.ErrCorrupt, fmt.Sprintf("%s sent %d bytes with the digest %s instead of %s", host, len(data), actual, expected), "")
	}
	if want.Size > 0 && want.Size != int64(len(data)) {
		return nil, "", "", s.fail(model.ErrCorrupt, fmt.Sprintf("%s sent %d bytes, its index says %d", host, len(data), want.Size), "")
	}
	return data, actual, header.Get("Content-Type"), nil
}

// config fetches a config blob. None, one that is missing and one that is too large to matter are nil.
func (r *repository) config(ctx context.Context, d descriptor) ([]byte, error) {
	if d.Digest == "" || d.Size == 0 || d.Size > maxConfig {
		return nil, nil
	}
	if data, ok := d.inline(); ok {
		return data, nil
	}
	var data []byte
	err := r.each(ctx, func(e *endpoint) bool { return e.pull }, func(ctx context.Context, c *client) (f *failure) {
		s := r.subject(c, "config "+d.Digest.String())
		if data, _, f = r.read(ctx, c, s, "blobs", d.Digest.String(), http.Header{}, maxConfig); f != nil {
			return f
		}
		if actual := d.Digest.Algorithm().FromBytes(data); actual != d.Digest || int64(len(data)) != d.Size {
			return s.fail(model.ErrCorrupt, fmt.Sprintf("%s sent %d bytes with the digest %s instead of %d", c.endpoint.base.Host, len(data), actual, d.Size), "")
		}
		return nil
	})
	switch {
	case errors.Is(err, model.ErrNotFound), errors.Is(err, model.ErrTooLarge):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return data, nil
}
