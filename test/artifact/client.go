package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// Client pushes to one repository. Blobs are streamed: their digest is known when they have arrived, which is what
// upload sessions are for and what clients that copy between stores do not need.
type Client struct {
	base       string
	host       string
	repository string
	http       *auth.Client
}

// NewClient returns a client for a registry in plain HTTP. user may be empty.
func NewClient(host, repository, user, password string) *Client {
	c := &Client{base: "http://" + host, host: host, repository: repository}
	store := credentials.NewMemoryStore()
	if user != "" {
		_ = store.Put(context.Background(), host, auth.Credential{Username: user, Password: password}) // in memory: cannot fail
	}
	c.http = &auth.Client{Client: http.DefaultClient, Cache: auth.NewCache(), Credential: credentials.Credential(store)}
	return c
}

func (c *Client) do(ctx context.Context, method, target string, body io.Reader, header http.Header, want int) (*http.Response, error) {
	ctx = auth.AppendScopes(ctx, auth.ScopeRepository(c.repository, auth.ActionPull, auth.ActionPush))
	q, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		q.Header[k] = v
	}
	p, err := c.http.Do(q)
	if err != nil {
		return nil, fmt.Errorf("push to %s/%s: %w", c.host, c.repository, err)
	}
	defer func() { _ = p.Body.Close() }()
	text, _ := io.ReadAll(io.LimitReader(p.Body, 4096))
	if p.StatusCode != want {
		return nil, fmt.Errorf("push to %s/%s: %s %s answered %s: %s", c.host, c.repository, method, q.URL.Path, p.Status, text)
	}
	return p, nil
}

func (c *Client) location(p *http.Response) (*url.URL, error) {
	base, err := url.Parse(c.base)
	if err != nil {
		return nil, err
	}
	return base.Parse(p.Header.Get("Location"))
}

// Blob streams one blob and returns its digest and size.
func (c *Client) Blob(ctx context.Context, body io.Reader) (ocispec.Descriptor, error) {
	p, err := c.do(ctx, http.MethodPost, c.base+"/v2/"+c.repository+"/blobs/uploads/", nil, nil, http.StatusAccepted)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	where, err := c.location(p)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	hash := sha256.New()
	counted := &counter{Reader: io.TeeReader(body, hash)}
	// The type hides that the body could be rewound: it cannot.
	p, err = c.do(ctx, http.MethodPatch, where.String(), struct{ io.Reader }{counted},
		http.Header{"Content-Type": {"application/octet-stream"}}, http.StatusAccepted)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if where, err = c.location(p); err != nil {
		return ocispec.Descriptor{}, err
	}
	d := digest.NewDigest(digest.SHA256, hash)
	query := where.Query()
	query.Set("digest", d.String())
	where.RawQuery = query.Encode()
	if _, err = c.do(ctx, http.MethodPut, where.String(), nil, nil, http.StatusCreated); err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{Digest: d, Size: counted.n}, nil
}

// Manifest pushes a manifest or an index under a tag or its digest.
func (c *Client) Manifest(ctx context.Context, reference, mediaType string, body []byte) (digest.Digest, error) {
	_, err := c.do(ctx, http.MethodPut, c.base+"/v2/"+c.repository+"/manifests/"+reference, bytes.NewReader(body),
		http.Header{"Content-Type": {mediaType}}, http.StatusCreated)
	return digest.FromBytes(body), err
}

type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}
