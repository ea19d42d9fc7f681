package registry

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

// readManifest fetches the bytes of a manifest. Ollama's registry has manifests by tag alone; by digest they are blobs
// of the same repository, where Ollama's own client reads them too.
func (r *repository) readManifest(ctx context.Context, c *client, s subject, reference string) ([]byte, http.Header, *failure) {
	limit := r.source.options.MaxManifest
	data, header, f := r.read(ctx, c, s, "manifests", reference, acceptHeader(), limit)
	if f == nil || r.ref.Scheme != model.SchemeOllama || !errors.Is(f, model.ErrNotFound) || !strings.Contains(reference, ":") {
		return data, header, f
	}
	blob, _, blobFailure := r.read(ctx, c, s, "blobs", reference, http.Header{}, limit)
	if blobFailure != nil {
		return nil, nil, f // the manifest is what was asked for
	}
	return blob, http.Header{}, nil
}

// ollamaHost is the registry of Ollama itself. Others that speak its protocol have accounts of their own kind.
const ollamaHost = "registry.ollama.ai"

// ollamaHint is the next step where Ollama's registry refuses.
func ollamaHint(host string, kind error) string {
	switch {
	case host != ollamaHost:
	case errors.Is(kind, model.ErrUnauthenticated), errors.Is(kind, model.ErrDenied):
		return "private models of Ollama's registry need the key of an Ollama installation, which is not used here; check the name, or push the model to another registry"
	case errors.Is(kind, model.ErrNotFound):
		return "check the name and the tag at https://ollama.com/library"
	}
	return ""
}
