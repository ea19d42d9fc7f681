package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	// maxDriverName and maxNodeID are limits of the CSI specification, GetPluginInfo and NodeGetInfo.
	maxDriverName = 63
	maxNodeID     = 256
	// maxSocketPath is the size of sun_path in sockaddr_un, less the NUL byte at its end.
	maxSocketPath = 107
	// minMemoryBudget lets a few buffers of a usable size exist at once.
	minMemoryBudget = 16 << 20
	// minManifest holds the manifests of most models, and maxManifest what anybody can be expected to parse.
	minManifest = 64 << 10
	maxManifest = 64 << 20
	// maxConnections is what a registry may already take for an attack.
	maxConnections = 1024
)

// driverNamePattern: the CSI specification's form of names, and lower case, because the CSIDriver object of that name
// needs it.
var driverNamePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)

// Validate checks all settings and reports every mistake: the key, its value, and what is allowed. It does no I/O:
// whether directories exist and can be used is found out by what uses them.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, key, why string) {
		if !ok {
			s, _ := lookup(key)
			errs = append(errs, s.bad(s.read(&c), why))
		}
	}
	check(len(c.DriverName) <= maxDriverName && driverNamePattern.MatchString(c.DriverName), "driver-name",
		fmt.Sprintf("it must be at most %d lower case letters, digits, dashes and dots, with a letter or digit at both ends", maxDriverName))
	check(c.NodeID != "" && len(c.NodeID) <= maxNodeID, "node-id", fmt.Sprintf("it must have 1 to %d bytes", maxNodeID))
	check(isSocket(c.Endpoint), "endpoint",
		fmt.Sprintf("it must be unix:// and a clean absolute path of at most %d bytes, such as unix:///csi/csi.sock", maxSocketPath))
	check(isCleanPath(c.Root) && c.Root != "/", "root", "it must be a clean absolute path other than /")
	const optionalPath = "it must be empty or a clean absolute path"
	check(c.RegistrationDir == "" || isCleanPath(c.RegistrationDir), "registration-dir", optionalPath)
	check(c.RegistryConfigDir == "" || isCleanPath(c.RegistryConfigDir), "registry-config-dir", optionalPath)
	check(c.HubEndpoint == "" || isServer(c.HubEndpoint), "hub-endpoint",
		"it must be empty or an http or https URL of a host without user and query, such as https://hf-mirror.example.com")
	check(c.ModelRegistryURL == "" || isServer(c.ModelRegistryURL), "model-registry-url",
		"it must be empty or an http or https URL of a host without user and query, such as http://model-registry-service.kubeflow.svc:8080")
	check(c.PolicyFile == "" || isCleanPath(c.PolicyFile), "policy-file", optionalPath)
	check(c.DockerConfig == "" || isCleanPath(c.DockerConfig), "docker-config", optionalPath)
	check((c.DockerConfig == "") == (c.DockerConfigRegistries == ""), "docker-config-registries",
		"it must list the registries for which docker-config is used, such as registry.example.com,*.example.org, and be empty without docker-config")
	check(areNamespaces(c.PullSecretNamespaces), "pull-secret-namespaces", "it must be names of namespaces, or * alone")
	check(c.CredentialProviderConfig == "" || isCleanPath(c.CredentialProviderConfig), "credential-provider-config", optionalPath)
	check(c.CredentialProviderBinDir == "" || isCleanPath(c.CredentialProviderBinDir), "credential-provider-bin-dir", optionalPath)
	check((c.CredentialProviderConfig == "") == (c.CredentialProviderBinDir == ""), "credential-provider-bin-dir",
		"it must be given together with credential-provider-config")
	check(c.LogFormat == LogText || c.LogFormat == LogJSON, "log-format", "it must be text or json")
	check(c.HTTPAddress == "" || isListenAddress(c.HTTPAddress), "http-address", "it must be empty, :port or host:port")
	// What follows must not be zero, because a zero means "the default" to the packages that are told: whoever writes
	// 0 would get something else.
	check(isReserve(c.CacheReserve), "cache-reserve", "it must be a size or a percentage, above 0 and below 100%; 1Mi keeps next to nothing free")
	check(c.PullLinger > 0, "pull-linger", "it must be more than 0; kubelet pauses for up to 2m2s between its tries")
	check(c.GrantTTL > 0, "grant-ttl", "it must be more than 0; with 1s the registry is asked for nearly every volume")
	check(c.GrantGrace > 0, "grant-grace", "it must be more than 0; with 1s no volume is mounted without the registry")
	check(c.CacheLimit >= 0, "cache-limit", "it must not be negative")
	check(c.MaxModelSize >= 0, "max-model-size", "it must not be negative")
	check(c.MaxFiles >= 1, "max-files", "it must be at least 1")
	check(c.MaxManifestSize >= minManifest && c.MaxManifestSize <= maxManifest, "max-manifest-size",
		fmt.Sprintf("it must be from %s to %s", Bytes(minManifest), Bytes(maxManifest)))
	check(c.MaxArchiveRatio >= 1, "max-archive-ratio", "it must be at least 1")
	check(c.MemoryBudget >= minMemoryBudget, "memory-budget", "it must be at least "+Bytes(minMemoryBudget).String())
	check(c.ConnectionsPerHost >= 1 && c.ConnectionsPerHost <= maxConnections, "connections-per-host",
		fmt.Sprintf("it must be from 1 to %d", maxConnections))
	return errors.Join(errs...)
}

// SocketPath is the path of Endpoint on the filesystem.
func (c Config) SocketPath() string { return strings.TrimPrefix(c.Endpoint, "unix://") }

// namespacePattern is that of a DNS label, RFC 1123.
var namespacePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

func areNamespaces(l List) bool {
	return l == AllNamespaces || !slices.ContainsFunc(l.Items(), func(s string) bool { return !namespacePattern.MatchString(s) })
}

func isReserve(r Reserve) bool {
	percent := r.Percent > 0 && r.Percent < 100 && r.Bytes == 0
	return percent || r.Bytes > 0 && r.Percent == 0
}

func isSocket(endpoint string) bool {
	path, ok := strings.CutPrefix(endpoint, "unix://")
	return ok && isCleanPath(path) && path != "/" && len(path) <= maxSocketPath
}

func isCleanPath(p string) bool {
	return filepath.IsAbs(p) && filepath.Clean(p) == p && !strings.ContainsRune(p, 0)
}

func isListenAddress(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil || strings.ContainsAny(host, " /") {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// isServer reports whether a text is the URL of a server: http or https, or a host alone.
func isServer(s string) bool {
	if !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Hostname() != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
}
