package registry

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
)

// Options configure a Source. The zero value serves every registry without configuration, but no index.
type Options struct {
	// ConfigDir holds containerd's hosts.toml directories, one a registry: <ConfigDir>/<host>/hosts.toml, and
	// "_default" for the rest. Several are separated by colons; the first that knows a registry wins. Empty means
	// none. Changes are seen by repositories opened after them.
	ConfigDir string
	// Select chooses the manifest of an index for a platform such as "linux/amd64". Without it an index is
	// model.ErrUnsupported.
	Select func(index []byte, platform string) (source.Choice, error)
	// UserAgent is sent with every request; "model-csi" if empty.
	UserAgent string
	// Logger receives what an operator should know about hosts, such as TLS that is not verified. Nil discards it.
	Logger *slog.Logger
	// DenyAddresses are never connected to, in addition to loopback, link-local, multicast and unspecified addresses
	// and the metadata services of clouds.
	DenyAddresses []netip.Prefix
	// AllowAddresses are connected to whatever the lists above say.
	AllowAddresses []netip.Prefix
	// TrustMirrors lets the answer of a mirror stand for the permission of the server; see the package comment.
	TrustMirrors bool
	// MirrorKeychain has the node's own credentials for mirrors, asked for with a mirror's host as the registry.
	// Nil means none.
	MirrorKeychain model.Keychain
	// Proxy selects a proxy for a request; nil takes it from the environment (HTTPS_PROXY, NO_PROXY and so on).
	Proxy func(*http.Request) (*url.URL, error)
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
	for _, p := range append(o.DenyAddresses[:len(o.DenyAddresses):len(o.DenyAddresses)], o.AllowAddresses...) {
		if !p.IsValid() {
			return nil, fmt.Errorf("registry options: an address prefix is empty: %w", model.ErrInvalid)
		}
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	return &Source{
		options:    o,
		log:        log,
		guard:      newGuard(o.DenyAddresses, o.AllowAddresses),
		proxies:    &proxies{choose: o.Proxy},
		firstPause: firstPause, readTimeout: readTimeout,
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
