package registry

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// Options configure a Source. The zero value serves every registry without configuration, but no index.
type Options struct {
	// ConfigDir holds containerd's hosts.toml directories, one a registry: <ConfigDir>/<host>/hosts.toml, and
	// "_default" for the rest. Several are separated by colons; the first that knows a registry wins. Empty means
	// none. Changes are seen by repositories opened after them.
	ConfigDir string
	// Select chooses the manifest of an index. Without it an index is model.ErrUnsupported.
	Select func(index []byte, want model.Selection) (source.Choice, error)
	// UserAgent is sent with every request; "model-csi" if empty.
	UserAgent string
	// Logger receives what an operator should know about hosts, such as TLS that is not verified. Nil discards it.
	Logger *slog.Logger
	// BlockedAddresses are never connected to: a list of groups (link-local, metadata, multicast, loopback, node),
	// addresses, prefixes and exceptions ("!10.0.0.1"), separated by commas; "default" stands for all groups, "none"
	// for nothing blocked. Loopback may be connected to where the reference or hosts.toml names a loopback host, and
	// the node's own addresses where they belong to the host that is named. Empty means "default".
	BlockedAddresses string
	// MirrorKeychain has the node's own credentials for mirrors, asked for with a mirror's host as the registry.
	// Nil means none.
	MirrorKeychain model.Keychain
	// Proxies are used for requests; what they leave open is taken from the environment.
	Proxies Proxies
	// HeaderTimeout is how long a server may think before it answers; 30 seconds if zero. A registry that commits a
	// large upload may take minutes.
	HeaderTimeout time.Duration
	// PlainHTTP speaks to registries without TLS, unless hosts.toml says how. Loopback registries need no leave.
	PlainHTTP bool
	// Interactive words the next step in errors for a person at a terminal, who has a docker config and no pod.
	Interactive bool
	// Proxy selects a proxy for a request, in place of Proxies.
	Proxy func(*http.Request) (*url.URL, error)
	// MaxManifest bounds a manifest in bytes; 0 means 4 MiB, which distribution and most registries accept.
	MaxManifest int64
}

// Source opens repositories of OCI registries. It is safe for concurrent use.
type Source struct {
	options Options
	log     *slog.Logger
	guard   guard
	proxies *proxies
	// firstPause and readTimeout are constants but for tests.
	firstPause, readTimeout time.Duration

	// mu guards the connections and memories that repositories share.
	mu         sync.Mutex
	transports map[string]*http.Transport
	health     map[string]*health
	warned     map[string]bool
}

var _ source.Source = (*Source)(nil)

// New returns a Source. It fails with model.ErrInvalid where an option cannot be used.
func New(o Options) (*Source, error) {
	if o.UserAgent == "" {
		o.UserAgent = "model-csi"
	}
	if strings.ContainsAny(o.UserAgent, "\r\n\x00") {
		return nil, fmt.Errorf("registry options: UserAgent %q cannot be sent in a header: %w", o.UserAgent, model.ErrInvalid)
	}
	guard, err := newGuard(o.BlockedAddresses)
	if err != nil {
		return nil, err
	}
	if o.MaxManifest <= 0 {
		o.MaxManifest = maxManifest
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if o.Proxy == nil {
		if o.Proxies, err = o.Proxies.complete(); err != nil {
			return nil, err
		}
		o.Proxy = o.Proxies.choose()
		if !o.Proxies.HTTPS.IsZero() || !o.Proxies.HTTP.IsZero() {
			log.Info("registries are reached through proxies", "proxies", o.Proxies)
		}
	}
	return &Source{
		options:    o,
		log:        log,
		guard:      guard,
		proxies:    &proxies{choose: o.Proxy},
		firstPause: wire.FirstPause, readTimeout: readTimeout,
		transports: map[string]*http.Transport{},
		health:     map[string]*health{},
		warned:     map[string]bool{},
	}, nil
}

// Repository implements source.Source. The scheme of the reference is not looked at: which schemes are registries is
// decided where sources are put together.
func (s *Source) Repository(ref model.Ref, cred model.Credential) (source.Repository, error) {
	if !usableHost(ref.Registry) {
		return nil, fmt.Errorf("reference %s: %q is not a registry host: %w", ref, ref.Registry, model.ErrInvalid)
	}
	if !usableRepository(ref.Repository) {
		return nil, fmt.Errorf("reference %s: %q is not a repository: %w", ref, ref.Repository, model.ErrInvalid)
	}
	if ref.Digest != "" {
		if _, err := model.ParseDigest(ref.Digest.String()); err != nil {
			return nil, fmt.Errorf("reference %s: %w", ref, err)
		}
	}
	return &repository{source: s, ref: ref, cred: cred, routes: newRoutes()}, nil
}

// CloseIdleConnections closes connections that no request uses. The Source stays usable.
func (s *Source) CloseIdleConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.transports {
		t.CloseIdleConnections()
	}
}

// usableHost refuses what would change the meaning of a URL or of a path below ConfigDir.
func usableHost(host string) bool {
	return host != "" && !strings.ContainsAny(host, "/\\?#@%\x00 \t\r\n") && !strings.HasPrefix(host, ".") && !strings.HasPrefix(host, "_")
}

// usableRepository refuses path components that would leave the repository's part of the URL.
func usableRepository(name string) bool {
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "\\?#%\x00 \t\r\n") {
			return false
		}
	}
	return true
}
