package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/model-csi/model-csi/pkg/internal/nearest"
	"github.com/model-csi/model-csi/pkg/internal/proxyurl"
	"github.com/model-csi/model-csi/pkg/model"
)

// setting is one line of the table that flags, file and documentation share.
type setting struct {
	key string
	// kind is shown in help texts, and decides which YAML scalars are accepted.
	kind string
	help string
	// secret values are not shown in errors and help texts.
	secret bool
	// absent says what an empty value means; a setting without it has no empty value.
	absent string
	read   func(*Config) string
	write  func(*Config, string) error
}

// The kinds of settings.
const (
	kindText     = "string"
	kindBytes    = "size"
	kindReserve  = "size or percentage"
	kindDuration = "duration"
	kindNumber   = "number"
	kindList     = "comma-separated list"
	kindURL      = "URL"
)

// settings lists everything in the order in which help and documentation show it.
var settings = []setting{
	text("driver-name", "name of the CSI driver, as in the CSIDriver object and in pods", "",
		func(c *Config) *string { return &c.DriverName }),
	text("node-id", "name of this node as kubelet knows it", "the host name",
		func(c *Config) *string { return &c.NodeID }),
	text("endpoint", "CSI socket to listen on: unix:// and an absolute path", "unix:///var/lib/kubelet/plugins/<driver-name>/csi.sock",
		func(c *Config) *string { return &c.Endpoint }),
	text("registration-dir", "kubelet's plugins_registry directory, in which the plugin registers itself", "no self-registration",
		func(c *Config) *string { return &c.RegistrationDir }),
	text("root", "state directory: cached models, views and leases", "",
		func(c *Config) *string { return &c.Root }),
	text("registry-config-dir", "directory of hosts.toml directories, as containerd has them, for mirrors, CAs and plain HTTP", "no per-host settings",
		func(c *Config) *string { return &c.RegistryConfigDir }),
	text("hub-endpoint", "server that answers for the Hugging Face Hub (HF_ENDPOINT), such as a mirror; http:// has to be written", "https://huggingface.co",
		func(c *Config) *string { return &c.HubEndpoint }),
	text("model-registry-url", "Kubeflow Model Registry of model-registry:// references that name no host; http:// has to be written", "references have to name a host",
		func(c *Config) *string { return &c.ModelRegistryURL }),
	text("docker-config", "docker config file whose credentials every pod of the node may use", "no node credentials",
		func(c *Config) *string { return &c.DockerConfig }),
	list("docker-config-registries", "registries for which docker-config is used: hosts, *.example.com, or a host and the beginning of a path; required with docker-config", "none",
		func(c *Config) *List { return &c.DockerConfigRegistries }),
	list("pull-secret-namespaces", "namespaces whose pods' image pull secrets are used for their models, or * for all", "image pull secrets are not read",
		func(c *Config) *List { return &c.PullSecretNamespaces }),
	text("credential-provider-config", "file or directory of kubelet's credential provider configuration", "no credential providers",
		func(c *Config) *string { return &c.CredentialProviderConfig }),
	text("credential-provider-bin-dir", "directory of the credential providers' programs", "no credential providers",
		func(c *Config) *string { return &c.CredentialProviderBinDir }),
	text("policy-file", "YAML file that says what each namespace may use; it is read again when it changes", "everything is allowed",
		func(c *Config) *string { return &c.PolicyFile }),
	field("blocked-addresses", kindList, "what is never connected to: groups (link-local, metadata, multicast, loopback, node), addresses, prefixes and exceptions (!10.0.0.1); default stands for all groups, none for nothing",
		func(c *Config) *string { return &c.BlockedAddresses }, parseAddresses, func(s string) string { return s }),
	secret("https-proxy", "proxy for https:// requests", "HTTPS_PROXY of the environment", func(c *Config) *model.Secret { return &c.HTTPSProxy }),
	secret("http-proxy", "proxy for http:// requests", "HTTP_PROXY of the environment", func(c *Config) *model.Secret { return &c.HTTPProxy }),
	field("no-proxy", kindList, "hosts, domains, addresses and prefixes that are reached without a proxy", func(c *Config) *string { return &c.NoProxy },
		func(s string) (string, error) { return s, nil }, func(s string) string { return s }).without("NO_PROXY of the environment"),
	field("log-level", "debug|info|warn|error", "least severe level to log", func(c *Config) *slog.Level { return &c.LogLevel }, parseLevel,
		func(l slog.Level) string { return strings.ToLower(l.String()) }),
	field("log-format", LogText+"|"+LogJSON, "form of the log lines on stderr", func(c *Config) *string { return &c.LogFormat }, parseFormat,
		func(s string) string { return s }),
	text("http-address", "host:port (or :port) to serve /healthz, /readyz and /metrics on", "not served",
		func(c *Config) *string { return &c.HTTPAddress }),
	field("cache-reserve", kindReserve, "free space to keep on the cache's filesystem, by removing models that nothing uses",
		func(c *Config) *Reserve { return &c.CacheReserve }, ParseReserve, Reserve.String),
	limit("cache-limit", "most that the cache may hold", func(c *Config) *Bytes { return &c.CacheLimit }),
	limit("max-model-size", "largest model to accept", func(c *Config) *Bytes { return &c.MaxModelSize }),
	number("max-files", "most files to accept in one model", func(c *Config) *int { return &c.MaxFiles }),
	field("max-manifest-size", kindBytes, "largest manifest to accept; a layer takes some 400 bytes of it",
		func(c *Config) *Bytes { return &c.MaxManifestSize }, ParseBytes, Bytes.String),
	number("max-archive-ratio", "most that a compressed layer may grow by, beyond its first 64 MiB", func(c *Config) *int { return &c.MaxArchiveRatio }),
	duration("pull-linger", "how long a pull goes on when no pod asks for it any more", func(c *Config) *time.Duration { return &c.PullLinger }),
	duration("grant-ttl", "how long a proof of access to a model holds before the registry is asked again",
		func(c *Config) *time.Duration { return &c.GrantTTL }),
	duration("grant-grace", "how long an earlier proof of access holds while the registry cannot be reached",
		func(c *Config) *time.Duration { return &c.GrantGrace }),
	field("memory-budget", kindBytes, "most memory for the buffers of all transfers together",
		func(c *Config) *Bytes { return &c.MemoryBudget }, ParseBytes, Bytes.String),
	number("connections-per-host", "most concurrent requests to one registry or storage host",
		func(c *Config) *int { return &c.ConnectionsPerHost }),
	field("write-mode", WriteAuto+"|"+WriteDirect+"|"+WriteBuffered,
		"whether models that are pulled stay in the page cache for their first reader: as far as it costs the pull nothing, never, or always",
		func(c *Config) *string { return &c.WriteMode }, parseWriteMode, func(s string) string { return s }),
}

func field[T any](key, kind, help string, at func(*Config) *T, parse func(string) (T, error), format func(T) string) setting {
	return setting{
		key: key, kind: kind, help: help,
		read: func(c *Config) string { return format(*at(c)) },
		write: func(c *Config, s string) error {
			v, err := parse(s)
			if err != nil {
				return err
			}
			*at(c) = v
			return nil
		},
	}
}

func text(key, help, absent string, at func(*Config) *string) setting {
	s := field(key, kindText, help, at, func(s string) (string, error) { return s, nil }, func(s string) string { return s })
	s.absent = absent
	return s
}

func list(key, help, absent string, at func(*Config) *List) setting {
	s := field(key, kindList, help, at, ParseList, func(l List) string { return string(l) })
	s.absent = absent
	return s
}

// without says what an empty value means.
func (s setting) without(absent string) setting {
	s.absent = absent
	return s
}

// secret is the URL of a proxy.
func secret(key, help, absent string, at func(*Config) *model.Secret) setting {
	s := field(key, kindURL, help, at, func(s string) (model.Secret, error) {
		_, err := proxyurl.Parse(s)
		return model.NewSecret(s), err
	}, model.Secret.Reveal).without(absent)
	s.secret = true
	return s
}

func duration(key, help string, at func(*Config) *time.Duration) setting {
	return field(key, kindDuration, help, at, parseDuration, formatDuration)
}

func number(key, help string, at func(*Config) *int) setting {
	return field(key, kindNumber, help, at, parseNumber, strconv.Itoa)
}

// limit is a size whose zero means that there is none; it is written as the empty value as well.
func limit(key, help string, at func(*Config) *Bytes) setting {
	s := field(key, kindBytes, help, at,
		func(s string) (Bytes, error) {
			if s == "" {
				return 0, nil
			}
			return ParseBytes(s)
		},
		func(b Bytes) string {
			if b == 0 {
				return ""
			}
			return b.String()
		})
	s.absent = "no limit"
	return s
}

func lookup(key string) (setting, bool) {
	i := slices.IndexFunc(settings, func(s setting) bool { return s.key == key })
	if i < 0 {
		return setting{}, false
	}
	return settings[i], true
}

// set parses the value into c. The error names the setting and the value.
func (s setting) set(c *Config, value string) error {
	if err := s.write(c, value); err != nil {
		return s.bad(value, err.Error())
	}
	return nil
}

// bad is the error about a value, which it does not show if it is a secret.
func (s setting) bad(value, why string) error {
	if s.secret {
		return fmt.Errorf("%s: %s", s.key, why)
	}
	return badValue(s.key, value, why)
}

// scalar turns a YAML value into the text that a flag would have.
func (s setting) scalar(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case json.Number:
		if s.kind == kindText || s.kind == kindList || s.kind == kindURL {
			// YAML reads 0123 and 1e3 as numbers, and what was written is lost by then.
			return "", s.bad(v.String(), "a number where text is expected; write it in quotes")
		}
		return v.String(), nil
	case bool:
		// YAML reads yes, no, on, off, y and n as truth values.
		return "", s.bad(strconv.FormatBool(v), "a truth value where the kind "+s.kind+" is expected; write it in quotes")
	case nil:
		return "", fmt.Errorf(`%s has no value; write "" for an empty one, or leave the key out for the default`, s.key)
	}
	return "", fmt.Errorf("%s must be a single value of the kind %s", s.key, s.kind)
}

func unknownKey(key string) error {
	const shown = 100
	if len(key) > shown {
		key = key[:shown] + "..."
	}
	return fmt.Errorf("unknown key %q; did you mean %q?", key, nearest.Of(key, keys()))
}

// badValue is the one form of errors about values.
func badValue(key, value, why string) error {
	const shown = 200
	if len(value) > shown {
		value = value[:shown] + "..."
	}
	return fmt.Errorf("%s: %q is not allowed: %s", key, value, why)
}

func keys() []string {
	out := make([]string, len(settings))
	for i, s := range settings {
		out[i] = s.key
	}
	return out
}

func sortedKeys(m map[string]any) []string { return slices.Sorted(maps.Keys(m)) }

// keepNumbers makes the decoder hand out numbers as they were written.
func keepNumbers(d *json.Decoder) *json.Decoder {
	d.UseNumber()
	return d
}
