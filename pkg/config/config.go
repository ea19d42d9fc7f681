// Package config is what an operator may say to the node plugin, in a file or by flags.
//
// Each setting has one name, used as the flag and as the key of the YAML file. A flag that was given wins over the file,
// and the file over the default; a flag that was not given says nothing, whatever its default. Keys that do not exist
// are refused, because a misspelt limit would otherwise be no limit.
//
// The file looks like this, and holds only what differs from the defaults:
//
//	driver-name: model.csi.cnai.io
//	root: /var/lib/model-csi
//	cache-reserve: 15%
//	cache-limit: 500Gi
//	pull-linger: 10m
//
// Sizes are bytes with an optional unit, binary (Ki, Mi, Gi, Ti) or decimal (k, M, G, T). Durations are written as Go
// does it: 90s, 10m, 24h.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/model-csi/model-csi/pkg/model"
)

// Config holds every setting in its final form. Use [Default] or [Flags.Config]; the zero value is not valid.
type Config struct {
	// DriverName is the name that pods and the CSIDriver object use, and the prefix of qualified volume attributes.
	DriverName string
	// NodeID is the node's name as kubelet knows it.
	NodeID string
	// Endpoint is the CSI socket: unix:// and an absolute path.
	Endpoint string
	// RegistrationDir is kubelet's plugin registry directory; empty means that a sidecar registers the plugin.
	RegistrationDir string
	// Root is the state directory on the host.
	Root string

	// RegistryConfigDir holds one directory a registry host with a hosts.toml in it, as containerd has it; may be empty.
	RegistryConfigDir string
	// HubEndpoint is the server of references to the Hugging Face Hub; empty means the Hub itself.
	HubEndpoint string
	// ModelRegistryURL is the Kubeflow Model Registry of references that name none; may be empty.
	ModelRegistryURL string
	// DockerConfig is a docker config file with credentials for every pod of the node; may be empty.
	DockerConfig string
	// DockerConfigRegistries are patterns of the registries for which DockerConfig is used.
	DockerConfigRegistries List
	// PullSecretNamespaces are the namespaces whose pods' image pull secrets are used; AllNamespaces stands for all.
	PullSecretNamespaces List
	// CredentialProviderConfig and CredentialProviderBinDir are what kubelet has in --image-credential-provider-config
	// and --image-credential-provider-bin-dir; both are empty or none.
	CredentialProviderConfig string
	CredentialProviderBinDir string

	// PolicyFile says what the namespaces may use; may be empty.
	PolicyFile string
	// BlockedAddresses lists addresses that are never connected to: groups, addresses, prefixes and exceptions.
	BlockedAddresses string
	// HTTPSProxy, HTTPProxy and NoProxy replace the environment variables of these names; may be empty. The URLs of
	// proxies can hold a password.
	HTTPSProxy, HTTPProxy model.Secret
	NoProxy               string

	// LogLevel is the least severe level that is logged.
	LogLevel slog.Level
	// LogFormat is LogText or LogJSON.
	LogFormat string
	// HTTPAddress is where health and metrics are served; empty means nowhere.
	HTTPAddress string

	// CacheReserve is the free space that eviction keeps on the filesystem of Root.
	CacheReserve Reserve
	// CacheLimit is the most that the cache may hold; zero means no limit but the reserve.
	CacheLimit Bytes
	// MaxModelSize and MaxFiles bound one model; a MaxModelSize of zero means no limit.
	MaxModelSize Bytes
	MaxFiles     int
	// MaxManifestSize bounds a manifest, and MaxArchiveRatio how far a compressed layer may grow.
	MaxManifestSize Bytes
	MaxArchiveRatio int

	// PullLinger is how long a pull goes on when nobody asks for it any more.
	PullLinger time.Duration
	// GrantTTL is how long a credential's proof of access holds before the registry is asked again.
	GrantTTL time.Duration
	// GrantGrace is how long an earlier proof holds while the registry cannot be reached.
	GrantGrace time.Duration
	// MemoryBudget bounds the buffers of all transfers together.
	MemoryBudget Bytes
	// ConnectionsPerHost bounds the concurrent requests to one host.
	ConnectionsPerHost int
	// WriteMode is how large files are written: WriteAuto, WriteDirect or WriteBuffered.
	WriteMode string
}

// The formats of log lines.
const (
	LogText = "text"
	LogJSON = "json"
)

// The write modes: through the page cache where that costs the pull nothing, never, or always.
const (
	WriteAuto     = "auto"
	WriteDirect   = "direct"
	WriteBuffered = "buffered"
)

// AllNamespaces is the item of PullSecretNamespaces that stands for every namespace.
const AllNamespaces = "*"

// kubeletPlugins is where kubelet's documentation asks drivers to put their sockets.
const kubeletPlugins = "/var/lib/kubelet/plugins"

// maxFileSize is far above any configuration; a larger file is a mistake such as a wrong path.
const maxFileSize = 1 << 20

// base has the defaults that depend on nothing else.
func base() Config {
	return Config{
		DriverName:         "model.csi.cnai.io",
		Root:               "/var/lib/model-csi",
		LogLevel:           slog.LevelInfo,
		LogFormat:          LogText,
		CacheReserve:       Reserve{Percent: 10},
		MaxFiles:           1_000_000,
		MaxManifestSize:    4 << 20,
		MaxArchiveRatio:    200,
		BlockedAddresses:   "default",
		PullLinger:         10 * time.Minute,
		GrantTTL:           10 * time.Minute,
		GrantGrace:         24 * time.Hour,
		MemoryBudget:       128 << 20,
		ConnectionsPerHost: 16,
		WriteMode:          WriteAuto,
	}
}

// complete fills in what depends on other settings and on the machine, then checks everything.
func (c Config) complete() (Config, error) {
	if c.Endpoint == "" {
		c.Endpoint = "unix://" + path.Join(kubeletPlugins, c.DriverName, "csi.sock")
	}
	if c.NodeID == "" {
		host, err := os.Hostname()
		if err != nil {
			return Config{}, fmt.Errorf("node-id: cannot ask for the host name (%w); set node-id to the node's name", err)
		}
		c.NodeID = host
	}
	return c, c.Validate()
}

// Default returns the settings of a plugin whose operator said nothing. It fails where the machine has no usable host
// name.
func Default() (Config, error) { return base().complete() }

// load reads the YAML file at path on top of the defaults. An empty path means no file. Errors name the file, the key,
// its value and what is allowed.
func load(path string) (Config, error) {
	c := base()
	if path == "" {
		return c, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return Config{}, fmt.Errorf("config file: %w", err)
	}
	if info.Size() > maxFileSize {
		return Config{}, inFile(path, fmt.Errorf("it has %d bytes, more than any configuration; is the path right?", info.Size()))
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("config file: %w", err)
	}
	return c, inFile(path, c.parse(text))
}

func inFile(path string, err error) error {
	if err == nil || path == "" {
		return err
	}
	return fmt.Errorf("config file %s: %w", path, err)
}

// parse applies a YAML document to c. All mistakes are reported together, so that one edit can mend them.
func (c *Config) parse(text []byte) error {
	var document map[string]any
	if err := yaml.UnmarshalStrict(text, &document, keepNumbers); err != nil {
		return fmt.Errorf("not a YAML mapping of settings: %w", err)
	}
	var errs []error
	for _, key := range sortedKeys(document) {
		s, ok := lookup(key)
		if !ok {
			errs = append(errs, unknownKey(key))
			continue
		}
		value, err := s.scalar(document[key])
		if err == nil {
			err = s.set(c, value)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
