package modelregistry

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// Options configure a Resolver. Transport is required.
type Options struct {
	// URL is the model registry of references that name none, as the operator wrote it. Without a scheme it is https.
	// It is also how that host is spoken to where a reference names it. Empty means that references have to name one.
	URL string
	// Transport makes the connections to a host; it decides about addresses, proxies and certificates.
	Transport func(host string) (http.RoundTripper, error)
	// UserAgent is sent with every request; "model-csi" if empty.
	UserAgent string
}

// Resolver looks names up. It is safe for concurrent use.
type Resolver struct {
	options Options
	// base is the operator's model registry; nil when there is none.
	base *url.URL
	// firstPause is a constant but for tests.
	firstPause time.Duration
}

// New returns a Resolver. It fails with model.ErrInvalid where an option cannot be used.
func New(o Options) (*Resolver, error) {
	if o.Transport == nil {
		return nil, fmt.Errorf("model registry options: Transport is missing: %w", model.ErrInvalid)
	}
	if o.UserAgent == "" {
		o.UserAgent = "model-csi"
	}
	r := &Resolver{options: o, firstPause: wire.FirstPause}
	if o.URL != "" {
		var err error
		if r.base, err = parseURL(o.URL); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// parseURL reads the URL of a model registry. It is https unless it says http.
func parseURL(s string) (*url.URL, error) {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "":
		return nil, fmt.Errorf("model registry URL: it is not an http or https URL of a host: %w", model.ErrInvalid)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("model registry URL of %s: it has a user, a query or a fragment; tokens come from secrets: %w", u.Host, model.ErrInvalid)
	}
	u.Host = strings.ToLower(u.Host)
	return u, nil
}

// Complete fills in the operator's model registry where the reference names none. It fails with model.ErrInvalid when
// there is none, and with model.ErrDenied for an address of the node itself that the operator did not name.
func (r *Resolver) Complete(ref model.Ref) (model.Ref, error) {
	switch {
	case ref.Scheme != model.SchemeModelRegistry:
		return ref, fmt.Errorf("reference %s: it is not a name in a model registry: %w", ref, model.ErrInvalid)
	case ref.Registry == "" && r.base == nil:
		return ref, fmt.Errorf("reference %s: it names no model registry, and the node has none in model-registry-url; write model-registry://host/model/version: %w",
			ref, model.ErrInvalid)
	case ref.Registry == "":
		ref.Registry = r.base.Host
	case ref.Loopback() && !r.own(ref.Registry):
		return ref, fmt.Errorf("reference %s: %s is an address of the node itself; only model-registry-url can name it: %w", ref, ref.Registry, model.ErrDenied)
	}
	return ref, nil
}

// own reports whether a host is the operator's model registry.
func (r *Resolver) own(host string) bool { return r.base != nil && r.base.Host == host }

// Lookup finds the reference of the model that ref names, as cred sees it. The access token of the credential is sent
// as it is; where it has none, its password is the token, as docker configs have it.
//
// Errors wrap model.ErrNotFound, ErrUnauthenticated, ErrDenied, ErrUnavailable, ErrInvalid or ErrUnsupported; a
// server's Retry-After arrives as *model.RetryAfterError.
func (r *Resolver) Lookup(ctx context.Context, ref model.Ref, cred model.Credential) (model.Ref, error) {
	ref, err := r.Complete(ref)
	if err != nil {
		return model.Ref{}, err
	}
	c, err := r.client(ref, cred)
	if err != nil {
		return model.Ref{}, fmt.Errorf("reference %s: %w", ref, err)
	}
	version, err := c.version(ctx)
	if err != nil {
		return model.Ref{}, err
	}
	artifacts, err := c.artifacts(ctx, version)
	if err != nil {
		return model.Ref{}, err
	}
	target, err := choose(artifacts)
	if err != nil {
		return model.Ref{}, fmt.Errorf("%s: version %q: %w", ref, wire.Bounded(version.Name), err)
	}
	return target, nil
}

// version finds the version that the reference names, or the newest that is live.
func (c *client) version(ctx context.Context) (entity, error) {
	var registered entity
	if err := c.find(ctx, "registered_model", c.ref.Repository, nil, &registered); err != nil {
		return entity{}, err
	}
	if c.ref.Tag != "" {
		var version entity
		err := c.find(ctx, "model_version", c.ref.Tag, url.Values{"parentResourceId": {registered.ID}}, &version)
		return version, err
	}
	versions, err := list[entity](ctx, c, "registered_models/"+registered.ID+"/versions", nil)
	if err != nil {
		return entity{}, err
	}
	version, ok := newest(versions, func(e entity) bool { return e.State == "" || e.State == stateLive })
	switch {
	case !ok:
		return entity{}, fmt.Errorf("%s: none of its %d versions is live: %w", c.ref, len(versions), model.ErrNotFound)
	case !usableID(version.ID):
		return entity{}, c.fail(model.ErrUnavailable, "it answers with a version that has no proper id", "")
	}
	return version, nil
}

// artifacts lists what a version has.
func (c *client) artifacts(ctx context.Context, version entity) ([]artifact, error) {
	return list[artifact](ctx, c, "model_versions/"+version.ID+"/artifacts", url.Values{"artifactType": {modelArtifact}})
}
