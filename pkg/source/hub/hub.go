package hub

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// Options configure a Source. Transport is required.
type Options struct {
	// Transport makes the connections to a host and to those that it refers to; it decides about addresses, proxies
	// and certificates.
	Transport func(host string) (http.RoundTripper, error)
	// Endpoint is the URL of the server that answers for huggingface.co, as HF_ENDPOINT has it: a mirror, for example.
	// Without a scheme it is https. Empty means https://huggingface.co.
	Endpoint string
	// UserAgent is sent with every request; "model-csi" if empty.
	UserAgent string
	// Logger is told when the endpoint is spoken to in plain HTTP. Nil discards it.
	Logger *slog.Logger
	// MaxFiles bounds the files of one commit (default and most 20,000).
	MaxFiles int
}

const (
	// maxFiles keeps a manifest within the 4 MiB that manifests may have.
	maxFiles = 20_000
	// maxManifest is what formats accept.
	maxManifest = 4 << 20
	// maxPlainFile bounds a file that is not in LFS, in bytes. The Hub itself wants LFS from 10 MB on.
	maxPlainFile = 64 << 20
	// maxPlain bounds all files of a commit that are not in LFS, in bytes: they are read once to learn their digests.
	maxPlain = 1 << 30
	// readTimeout bounds the reading of a page of a listing or of a small file, and the beginning of a large one.
	readTimeout = time.Minute
)

// The sizes of the memories that repositories share.
const (
	// keptListings are the listings of commits, in bytes of their manifests; in memory they take twice as much.
	keptListings = 8 << 20
	// keptSums are digests of files that are not in LFS, by count: a new commit changes few of them.
	keptSums = 20_000
	// keptContents is what those files may take in memory until they are stored, in bytes.
	keptContents = 16 << 20
	// keptContent is the largest file that is kept.
	keptContent = 2 << 20
)

// Source opens repositories of hubs. It is safe for concurrent use.
type Source struct {
	options Options
	base    *url.URL
	// firstPause, readTimeout, maxPlainFile and maxPlain are constants but for tests.
	firstPause, readTimeout time.Duration
	maxPlainFile, maxPlain  int64

	listings *lru[listingKey, *listing]
	// byDigest has the same listings.
	byDigest *lru[contentKey, *listing]
	sums     *lru[sumKey, digest.Digest]
	contents *lru[contentKey, []byte]
	building keyed
}

var _ source.Source = (*Source)(nil)

// New returns a Source. It fails with model.ErrInvalid where an option cannot be used.
func New(o Options) (*Source, error) {
	base, err := ParseEndpoint(o.Endpoint)
	if err != nil {
		return nil, err
	}
	if o.Transport == nil {
		return nil, fmt.Errorf("hub options: Transport is missing: %w", model.ErrInvalid)
	}
	if o.UserAgent == "" {
		o.UserAgent = "model-csi"
	}
	if base.Scheme == "http" && !(model.Ref{Registry: base.Host}).Loopback() && o.Logger != nil {
		o.Logger.Warn("whoever controls the network can read and change what is exchanged with this hub, tokens included", "host", base.Host, "why", "the endpoint says http://")
	}
	if o.MaxFiles <= 0 || o.MaxFiles > maxFiles {
		o.MaxFiles = maxFiles
	}
	return &Source{
		options: o, base: base, firstPause: wire.FirstPause, readTimeout: readTimeout, maxPlainFile: maxPlainFile, maxPlain: maxPlain,
		listings: newLRU[listingKey, *listing](keptListings), byDigest: newLRU[contentKey, *listing](keptListings), sums: newLRU[sumKey, digest.Digest](keptSums),
		contents: newLRU[contentKey, []byte](keptContents),
	}, nil
}

// ParseEndpoint reads the URL of a hub. It is https unless it says http, and has neither a user nor a query.
func ParseEndpoint(s string) (*url.URL, error) {
	if s == "" {
		s = model.HubHost
	}
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("hub endpoint: it is not a URL such as https://hub.example.com: %w", model.ErrInvalid)
	case (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "":
		return nil, fmt.Errorf("hub endpoint: it is not an http or https URL of a host: %w", model.ErrInvalid)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("hub endpoint %s: it has a user, a query or a fragment; tokens come from secrets: %w", u.Host, model.ErrInvalid)
	}
	u.Host, u.Path, u.RawPath = strings.ToLower(u.Host), strings.TrimRight(u.Path, "/"), strings.TrimRight(u.RawPath, "/")
	return u, nil
}

// The kinds of repositories, as the API's paths name them.
const (
	models   = "models"
	datasets = "datasets"
	spaces   = "spaces"
)

// namePattern is what owners and names of the Hub look like, without what only tricks have.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.[A-Za-z0-9_-]){0,127}$`)

// Repository implements source.Source. The repository of the reference is "org/name", "datasets/org/name" or
// "spaces/org/name", the old names without an owner included; its tag is the revision, "main" if empty.
func (s *Source) Repository(ref model.Ref, cred model.Credential) (source.Repository, error) {
	r := &repository{source: s, ref: ref, cred: cred, base: s.base, kind: models, name: ref.Repository, revision: ref.Tag, targets: map[digest.Digest]target{}}
	for _, kind := range []string{datasets, spaces} {
		if name, ok := strings.CutPrefix(ref.Repository, kind+"/"); ok {
			r.kind, r.name = kind, name
		}
	}
	if ref.Registry != model.HubHost {
		return nil, fmt.Errorf("reference %s: %q is not %s; which server answers for it is for the operator to say: %w", ref, ref.Registry, model.HubHost, model.ErrInvalid)
	}
	parts := strings.Split(r.name, "/")
	for _, part := range parts {
		if len(parts) > 2 || !namePattern.MatchString(part) {
			return nil, fmt.Errorf("reference %s: %q is not org/name, datasets/org/name or spaces/org/name: %w", ref, ref.Repository, model.ErrInvalid)
		}
	}
	if r.revision == "" {
		r.revision = "main"
	}
	if strings.ContainsAny(r.revision, "\x00\r\n\\ ?#%") || strings.Contains("/"+r.revision+"/", "/../") || len(r.revision) > 255 {
		return nil, fmt.Errorf("reference %s: %q is not a revision: %w", ref, ref.Tag, model.ErrInvalid)
	}
	if ref.Digest != "" {
		if _, err := model.ParseDigest(ref.Digest.String()); err != nil {
			return nil, fmt.Errorf("reference %s: %w", ref, err)
		}
	}
	r.key = repositoryKey{r.base.String(), ref.Repository}
	r.redact = wire.NewRedactor(cred, nil)
	r.transport = sync.OnceValues(func() (http.RoundTripper, error) { return s.options.Transport(r.base.Host) })
	return r, nil
}
