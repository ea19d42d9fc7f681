package registry

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

// dockerHub is the host of Docker Hub's API, which is not the one that references name.
const dockerHub = "registry-1.docker.io"

// mirrorRest is how long a mirror that did not answer is left alone, so that not every range of a pull waits for it.
const mirrorRest = 30 * time.Second

// endpoint is a server that answers for a registry.
type endpoint struct {
	// base has scheme, host and the API's root path.
	base *url.URL
	// mirror says that the endpoint is not the authority for the registry's permissions.
	mirror bool
	// namespace tells a mirror which registry is meant; empty for the registry itself.
	namespace     string
	pull, resolve bool
	header        http.Header
	// loopback says that the host was named as loopback by the reference or by hosts.toml.
	loopback bool
	// own reaches the endpoint's host, with its client certificate and verification; other reaches the hosts that it
	// refers to.
	own, other http.RoundTripper
	health     *health
}

// health remembers that a mirror failed.
type health struct {
	mu    sync.Mutex
	until time.Time
}

func (h *health) down() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Now().Before(h.until)
}

func (h *health) rest(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until = time.Now().Add(d)
}

// endpoints lists who answers for the registry, in the order to be asked, the server last. It reads hosts.toml as it
// is now.
func (s *Source) endpoints(registry string) ([]*endpoint, error) {
	mirrors, server, err := s.hostConfigs(registry)
	if err != nil {
		return nil, err
	}
	if server.base == nil {
		server.base = defaultServer(registry)
		if s.options.PlainHTTP {
			server.base.Scheme = "http"
		}
	}
	var out []*endpoint
	for i, c := range append(mirrors, server) {
		e, err := s.endpoint(registry, c, i < len(mirrors))
		if err != nil {
			return nil, fmt.Errorf("registry %s: host %s: %w", registry, c.base.Host, err)
		}
		out = append(out, e)
	}
	return out, nil
}

// defaultServer is where a registry is without configuration.
func defaultServer(registry string) *url.URL {
	switch {
	case isHub(registry):
		return &url.URL{Scheme: "https", Host: dockerHub, Path: "/v2"}
	case isLoopbackHost((&url.URL{Host: registry}).Hostname()):
		return &url.URL{Scheme: "http", Host: registry, Path: "/v2"}
	}
	return &url.URL{Scheme: "https", Host: registry, Path: "/v2"}
}

func isHub(registry string) bool { return registry == "docker.io" || registry == "index.docker.io" }

func (s *Source) endpoint(registry string, c hostConfig, mirror bool) (*endpoint, error) {
	e := &endpoint{
		base:     c.base,
		mirror:   mirror,
		pull:     c.pull,
		resolve:  c.resolve,
		header:   c.header,
		loopback: isLoopbackHost(c.base.Hostname()),
		health:   s.healthOf(c.base.String()),
	}
	if c.base.Host != registry && !(isHub(registry) && c.base.Host == dockerHub) {
		e.namespace = registry
	}
	var err error
	if e.own, e.other, err = s.connections(c, e.loopback); err != nil {
		return nil, err
	}
	return e, nil
}

func (s *Source) healthOf(host string) *health {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.health[host] == nil {
		s.health[host] = &health{}
	}
	return s.health[host]
}

// hostConfigs finds and reads the registry's hosts.toml, or, as containerd does, the certificates that lie in the
// directory where that file would be.
func (s *Source) hostConfigs(registry string) (mirrors []hostConfig, server hostConfig, err error) {
	standard := hostConfig{pull: true, resolve: true}
	dir, err := hostDir(s.options.ConfigDir, registry)
	if err != nil || dir == "" {
		return nil, standard, err
	}
	file := filepath.Join(dir, "hosts.toml")
	data, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		standard.caFiles, standard.clientFiles, err = certificates(dir)
		if err != nil {
			return nil, hostConfig{}, fmt.Errorf("certificates of registry %s: %v: %w", registry, err, model.ErrInvalid)
		}
		return nil, standard, nil
	case err != nil:
		return nil, hostConfig{}, fmt.Errorf("hosts of registry %s: %v: %w", registry, err, model.ErrInvalid)
	}
	mirrors, server, err = parseHosts(data, dir)
	if err != nil {
		// Going on without the file would send requests past the mirrors and the CA that the operator asked for.
		return nil, hostConfig{}, fmt.Errorf("hosts of registry %s: %s: %w", registry, file, err)
	}
	return mirrors, server, nil
}

// hostDir finds the directory of a registry below a colon-separated list of roots. Ports are written "_5000_" there,
// because a colon is not legal in every file name, but are accepted as they are too.
func hostDir(roots, registry string) (string, error) {
	names := []string{registry, "_default"}
	if i := strings.LastIndexByte(registry, ':'); i > 0 && !strings.HasSuffix(registry, "]") {
		names = append([]string{registry[:i] + "_" + registry[i+1:] + "_"}, names...)
	}
	for _, root := range filepath.SplitList(roots) {
		for _, name := range names {
			dir := filepath.Join(root, name)
			info, err := os.Stat(dir)
			switch {
			case err == nil && info.IsDir():
				return dir, nil
			case err == nil || errors.Is(err, fs.ErrNotExist):
				continue
			}
			return "", fmt.Errorf("hosts of registry %s: %v: %w", registry, err, model.ErrInvalid)
		}
	}
	return "", nil
}

// certificates lists what docker's layout of such a directory has: *.crt are authorities, *.cert with *.key belong to
// the client.
func certificates(dir string) (ca []string, client [][2]string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	has := func(name string) bool {
		return slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name })
	}
	for _, e := range entries {
		name := e.Name()
		switch filepath.Ext(name) {
		case ".crt":
			ca = append(ca, filepath.Join(dir, name))
		case ".cert":
			pair := [2]string{filepath.Join(dir, name), ""}
			if key := strings.TrimSuffix(name, ".cert") + ".key"; has(key) {
				pair[1] = filepath.Join(dir, key)
			}
			client = append(client, pair)
		}
	}
	return ca, client, nil
}
