package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sys/unix"

	// Registered with the distribution registry by being imported.
	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
)

// Options of a registry. The zero value serves everybody, from RAM, on a free port.
type Options struct {
	// Address to listen on, a loopback address; default 127.0.0.1 with a free port.
	Address string
	// Dir keeps the content. Default: a new directory in RAM that Close removes.
	Dir string
	// Users and their passwords. None means that everybody may read and write.
	Users map[string]string
	// TokenTTL makes the registry ask for bearer tokens, of its own token service, which live so long. Without Users
	// the service gives tokens to anybody. Default: Basic authentication where there are Users.
	TokenTTL time.Duration
	// CDNTTL redirects blob downloads to a second origin, by URLs that are valid for so long. Default: no redirects.
	CDNTTL time.Duration
}

// Registry is a running registry. Its methods are safe for concurrent use.
type Registry struct {
	options Options
	dir     string
	own     bool // dir was made by Start, and lock holds it
	lock    *os.File
	app     *handlers.App
	server  *http.Server
	address string
	cdn     *cdn
	tokens  *tokens
	pace    pacer
	log     requestLog
	closed  chan struct{}

	mu        sync.Mutex
	rules     []*Injection
	manifests map[string]manifest // by repository + "\x00" + reference
}

// manifest answers instead of the distribution registry.
type manifest struct {
	mediaType string
	body      []byte
}

// Start runs a registry until Close.
func Start(o Options) (*Registry, error) {
	r := &Registry{options: o, dir: o.Dir, closed: make(chan struct{}), manifests: map[string]manifest{}, log: requestLog{now: &period{}}}
	if r.dir == "" {
		if err := r.makeDir(); err != nil {
			return nil, fmt.Errorf("directory of the registry: %w", err)
		}
	}
	if err := r.serve(); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// dirPrefix starts the names of directories that Start makes.
const dirPrefix = "model-csi-registry-"

// makeDir makes a directory in RAM and locks it. Directories of registries that were killed, whose locks nobody holds any
// more, are removed: memory is too dear to wait for a reboot.
func (r *Registry) makeDir() error {
	left, _ := filepath.Glob(filepath.Join(ramDir(), dirPrefix+"*"))
	for _, dir := range left {
		if f, err := lock(dir); err == nil {
			_ = os.RemoveAll(dir)
			_ = f.Close()
		}
	}
	for range 10 {
		dir, err := os.MkdirTemp(ramDir(), dirPrefix)
		if err != nil {
			return err
		}
		// Another process may take the directory for a left one before it is locked: then it is gone, or being removed.
		f, err := lock(dir)
		if err != nil {
			continue
		}
		if _, err := os.Stat(dir); err == nil {
			r.dir, r.own, r.lock = dir, true, f
			return nil
		}
		_ = f.Close()
	}
	return errors.New("somebody else removes every new one")
}

// lock holds a directory as long as the file is open, which ends with the process at the latest.
func lock(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// ramDir is a directory of a memory filesystem, or the temporary directory where there is none.
func ramDir() string {
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); err == nil && info.IsDir() {
		return shm
	}
	return os.TempDir()
}

func (r *Registry) serve() error {
	config, err := r.configuration()
	if err != nil {
		return err
	}
	address := r.options.Address
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	r.address = listener.Addr().String()
	if r.options.TokenTTL > 0 {
		r.tokens = newTokens(r.address, r.options.Users, r.options.TokenTTL)
	}
	if r.options.CDNTTL > 0 {
		if r.cdn, err = startCDN(r, r.options.CDNTTL); err != nil {
			_ = listener.Close()
			return err
		}
	}
	r.app = handlers.NewApp(context.Background(), config)
	r.server = &http.Server{Handler: http.HandlerFunc(r.handle), ConnState: r.pace.connState, ErrorLog: discardLog()}
	go func() { _ = r.server.Serve(listener) }()
	return nil
}

func (r *Registry) configuration() (*configuration.Configuration, error) {
	// The distribution registry logs through logrus's global logger before it reads its configuration.
	logrus.SetOutput(io.Discard)
	config := &configuration.Configuration{}
	config.Log.Level = "panic"
	config.Log.AccessLog.Disabled = true
	config.HTTP.Secret = "not a secret"
	config.Storage = configuration.Storage{
		"filesystem": configuration.Parameters{"rootdirectory": r.dir, "maxthreads": 1000},
		"delete":     configuration.Parameters{"enabled": true},
		"redirect":   configuration.Parameters{"disable": true},
		"maintenance": configuration.Parameters{
			"uploadpurging": map[any]any{"enabled": false},
		},
	}
	if len(r.options.Users) > 0 && r.options.TokenTTL == 0 {
		path := filepath.Join(r.dir, "htpasswd")
		if err := writeHtpasswd(path, r.options.Users); err != nil {
			return nil, err
		}
		config.Auth = configuration.Auth{"htpasswd": configuration.Parameters{"realm": "test", "path": path}}
	}
	return config, nil
}

func writeHtpasswd(path string, users map[string]string) error {
	var lines []byte
	for user, password := range users {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			return fmt.Errorf("password of %s: %w", user, err)
		}
		lines = fmt.Appendf(lines, "%s:%s\n", user, hash)
	}
	return os.WriteFile(path, lines, 0o600)
}

// Host is the address as references name it: 127.0.0.1:port.
func (r *Registry) Host() string { return r.address }

// URL is the base URL, without a trailing slash.
func (r *Registry) URL() string { return "http://" + r.address }

// Close ends the registry, cutting connections that are open. It removes the directory that Start made.
func (r *Registry) Close() error {
	select {
	case <-r.closed:
		return nil
	default:
		close(r.closed)
	}
	var errs []error
	if r.server != nil {
		errs = append(errs, r.server.Close())
	}
	if r.cdn != nil {
		errs = append(errs, r.cdn.server.Close())
	}
	if r.app != nil {
		errs = append(errs, r.app.Shutdown())
	}
	if r.own {
		errs = append(errs, os.RemoveAll(r.dir))
	}
	if r.lock != nil {
		errs = append(errs, r.lock.Close())
	}
	return errors.Join(errs...)
}

// SetManifest answers a manifest that the distribution registry would not store: of an unknown media type, or malformed.
// It is served for reference and for its own digest, which is returned.
func (r *Registry) SetManifest(repository, reference, mediaType string, body []byte) digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digest.FromBytes(body)
	for _, ref := range []string{reference, d.String()} {
		r.manifests[repository+"\x00"+ref] = manifest{mediaType, body}
	}
	return d
}

func (r *Registry) blobPath(d digest.Digest) string {
	hex := d.Encoded()
	return filepath.Join(r.dir, "docker/registry/v2/blobs", d.Algorithm().String(), hex[:2], hex, "data")
}

func (r *Registry) linkPath(repository string, d digest.Digest) string {
	return filepath.Join(r.dir, "docker/registry/v2/repositories", repository, "_layers", d.Algorithm().String(), d.Encoded(), "link")
}
