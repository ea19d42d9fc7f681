package config

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/model-csi/model-csi/pkg/model"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// fromFile is the configuration of a plugin that was given nothing but --config.
func fromFile(path string) (Config, error) { return (&Flags{file: path}).Config() }

func TestDefault(t *testing.T) {
	c, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		DriverName: "model.csi.cnai.io", NodeID: host, Root: "/var/lib/model-csi",
		Endpoint:     "unix:///var/lib/kubelet/plugins/model.csi.cnai.io/csi.sock",
		LogLevel:     slog.LevelInfo,
		LogFormat:    "text",
		CacheReserve: Reserve{Percent: 10}, MaxFiles: 1000000,
		PullLinger: 10 * time.Minute, GrantTTL: 10 * time.Minute, GrantGrace: 24 * time.Hour,
		MemoryBudget: 134217728, ConnectionsPerHost: 16, WriteMode: WriteAuto,
		MaxManifestSize: 4194304, MaxArchiveRatio: 200, BlockedAddresses: "default",
	}
	if c != want {
		t.Errorf("Default() =\n%+v, want\n%+v", c, want)
	}
	if got := c.SocketPath(); got != "/var/lib/kubelet/plugins/model.csi.cnai.io/csi.sock" {
		t.Errorf("SocketPath() = %q", got)
	}
}

func TestLoadEverything(t *testing.T) {
	c, err := fromFile(write(t, `
driver-name: other.example.com
node-id: "17"
endpoint: unix:///run/csi.sock
registration-dir: /var/lib/kubelet/plugins_registry
root: /data/models
registry-config-dir: /etc/containerd/certs.d
hub-endpoint: https://hf-mirror.example.com
model-registry-url: http://model-registry-service.kubeflow.svc:8080
docker-config: /etc/model-csi/docker.json
docker-config-registries: registry.example.com, *.example.org/models
pull-secret-namespaces: team-a,team-b
credential-provider-config: /etc/kubernetes/credential-providers.yaml
credential-provider-bin-dir: /opt/credential-providers
policy-file: /etc/model-csi/policy/policy.yaml
blocked-addresses: default, 10.0.0.0/8, !10.9.0.1
https-proxy: http://user:password@proxy.example.com:3128
http-proxy: proxy.example.com:3128
no-proxy: .example.com,10.0.0.0/8
max-manifest-size: 8Mi
max-archive-ratio: 1000
log-level: warn
log-format: json
http-address: "[::1]:9808"
cache-reserve: 50Gi
cache-limit: 1.5T
max-model-size: 1099511627776
max-files: 500
pull-linger: 90s
grant-ttl: 1h30m
grant-grace: 48h
memory-budget: 64Mi
connections-per-host: 4
write-mode: buffered
`))
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		DriverName: "other.example.com", NodeID: "17", Endpoint: "unix:///run/csi.sock",
		RegistrationDir: "/var/lib/kubelet/plugins_registry", Root: "/data/models",
		RegistryConfigDir: "/etc/containerd/certs.d", HubEndpoint: "https://hf-mirror.example.com", ModelRegistryURL: "http://model-registry-service.kubeflow.svc:8080", DockerConfig: "/etc/model-csi/docker.json",
		DockerConfigRegistries: "registry.example.com,*.example.org/models", PullSecretNamespaces: "team-a,team-b",
		CredentialProviderConfig: "/etc/kubernetes/credential-providers.yaml", CredentialProviderBinDir: "/opt/credential-providers",
		PolicyFile: "/etc/model-csi/policy/policy.yaml", BlockedAddresses: "default, 10.0.0.0/8, !10.9.0.1",
		HTTPSProxy: model.NewSecret("http://user:password@proxy.example.com:3128"), HTTPProxy: model.NewSecret("proxy.example.com:3128"),
		NoProxy: ".example.com,10.0.0.0/8", MaxManifestSize: 8 << 20, MaxArchiveRatio: 1000,
		LogLevel: slog.LevelWarn, LogFormat: "json", HTTPAddress: "[::1]:9808",
		CacheReserve: Reserve{Bytes: 50 << 30}, CacheLimit: 1_500_000_000_000, MaxModelSize: 1 << 40, MaxFiles: 500,
		PullLinger: 90 * time.Second, GrantTTL: 90 * time.Minute, GrantGrace: 48 * time.Hour, MemoryBudget: 64 << 20, ConnectionsPerHost: 4, WriteMode: WriteBuffered,
	}
	if c != want {
		t.Errorf("Config() =\n%+v, want\n%+v", c, want)
	}
	// A field that the file above does not reach has no setting, or is missing from this test.
	for i, v := 0, reflect.ValueOf(c); i < v.NumField(); i++ {
		if name := v.Type().Field(i).Name; v.Field(i).IsZero() {
			t.Errorf("field %s was not set", name)
		}
	}
}

func TestLoadDerivesTheEndpoint(t *testing.T) {
	c, err := fromFile(write(t, "driver-name: a.b\nnode-id: n1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "unix:///var/lib/kubelet/plugins/a.b/csi.sock"; c.Endpoint != want {
		t.Errorf("Endpoint = %q, want %q", c.Endpoint, want)
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		file string
		says []string
	}{
		"unknown key":       {"nodeId: x", []string{`unknown key "nodeId"`, `"node-id"`}},
		"two unknown keys":  {"cache-limits: 1\ngrant_ttl: 1s", []string{`"cache-limit"`, `"grant-ttl"`}},
		"duplicate key":     {"root: /a\nroot: /b", []string{"root", "already"}},
		"no mapping":        {"- root", []string{"mapping"}},
		"no YAML":           {"root: [", []string{"YAML"}},
		"list":              {"root: [/a]", []string{"root", "single value"}},
		"no value":          {"root:", []string{"root has no value"}},
		"number as text":    {"node-id: 0123", []string{"node-id", "quotes"}},
		"yes as text":       {"node-id: y", []string{"node-id", "quotes"}},
		"level":             {"log-level: INFO", []string{`log-level: "INFO"`, "debug, info, warn or error"}},
		"format":            {"log-format: xml", []string{`log-format: "xml"`, "text or json"}},
		"duration":          {"pull-linger: 10", []string{`pull-linger: "10"`, "10m"}},
		"negative duration": {"grant-ttl: -1s", []string{`grant-ttl: "-1s"`}},
		"size":              {"cache-limit: 10 GB", []string{`cache-limit: "10 GB"`, "50Gi"}},
		"percentage":        {"cache-reserve: 100%", []string{`cache-reserve: "100%"`, "below 100%"}},
		"percentage form":   {"cache-reserve: x%", []string{`cache-reserve: "x%"`, "10%"}},
		"no reserve":        {"cache-reserve: 0%", []string{`cache-reserve: "0"`, "above 0"}},
		"no linger":         {"pull-linger: 0s", []string{`pull-linger: "0s"`, "more than 0"}},
		"no ttl":            {"grant-ttl: 0s", []string{`grant-ttl: "0s"`, "1s"}},
		"no grace":          {"grant-grace: 0m", []string{`grant-grace: "0s"`, "1s"}},
		"fraction":          {"max-files: 1.5", []string{`max-files: "1.5"`, "whole number"}},
		"no files":          {"max-files: 0", []string{`max-files: "0"`, "at least 1"}},
		"memory":            {"memory-budget: 1Mi", []string{`memory-budget: "1Mi"`, "16Mi"}},
		"connections":       {"connections-per-host: 5000", []string{`connections-per-host: "5000"`, "1024"}},
		"driver name":       {"driver-name: Model", []string{`driver-name: "Model"`, "lower case"}},
		"long driver name":  {"driver-name: " + strings.Repeat("a", 64), []string{"driver-name", "63"}},
		"relative root":     {"root: data", []string{`root: "data"`, "absolute"}},
		"root of it all":    {"root: /", []string{`root: "/"`}},
		"unclean root":      {"root: /a/../b", []string{`root: "/a/../b"`, "clean"}},
		"tcp endpoint":      {"endpoint: tcp://1.2.3.4:5", []string{`endpoint: "tcp://1.2.3.4:5"`, "unix://"}},
		"long endpoint":     {"endpoint: unix:///" + strings.Repeat("a", 107), []string{"endpoint", "107"}},
		"abstract socket":   {"endpoint: unix://@x", []string{"endpoint", "absolute"}},
		"http address":      {"http-address: localhost", []string{`http-address: "localhost"`, "host:port"}},
		"http port":         {"http-address: :http", []string{`http-address: ":http"`}},
		"registration":      {"registration-dir: x", []string{`registration-dir: "x"`, "absolute"}},
		"hub":               {"hub-endpoint: ftp://hub", []string{`hub-endpoint: "ftp://hub"`, "http or https URL"}},
		"token in the hub":  {"hub-endpoint: https://hf_x@hub", []string{"hub-endpoint", "without user"}},
		"model registry":    {"model-registry-url: s3://bucket", []string{`model-registry-url: "s3://bucket"`, "http or https URL"}},
		"token in a URL":    {"model-registry-url: https://u:p@host", []string{"model-registry-url", "without user"}},
		"hosts":             {"registry-config-dir: x", []string{`registry-config-dir: "x"`, "absolute"}},
		"docker config":     {"docker-config: ~/.docker/config.json", []string{"docker-config", "absolute"}},
		"node registries":   {"docker-config: /config.json", []string{"docker-config-registries", "registry.example.com"}},
		"no docker config":  {"docker-config-registries: a.example.com", []string{"docker-config-registries", "without docker-config"}},
		"list of nothing":   {"docker-config: /c\ndocker-config-registries: a.io,,b.io", []string{"docker-config-registries", "must not be empty"}},
		"namespace":         {"pull-secret-namespaces: team_a", []string{`pull-secret-namespaces: "team_a"`, "names"}},
		"all and one":       {"pull-secret-namespaces: '*,a'", []string{"pull-secret-namespaces", "* alone"}},
		"namespace 7":       {"pull-secret-namespaces: 7", []string{"pull-secret-namespaces", "quotes"}},
		"providers":         {"credential-provider-config: /config.yaml", []string{"credential-provider-bin-dir", "together"}},
		"provider paths":    {"credential-provider-config: c\ncredential-provider-bin-dir: b", []string{`"c"`, `"b"`, "absolute"}},
		"policy":            {"policy-file: x", []string{`policy-file: "x"`, "absolute"}},
		"addresses":         {"blocked-addresses: default,lopback", []string{"blocked-addresses", `"loopback"`}},
		"proxy":             {"https-proxy: ftp://p", []string{"https-proxy: it must be the URL of a proxy"}},
		"proxy port":        {"http-proxy: 3128", []string{"http-proxy: a number", "quotes"}},
		"manifest":          {"max-manifest-size: 1Gi", []string{`max-manifest-size: "1Gi"`, "64Mi"}},
		"ratio":             {"max-archive-ratio: 0", []string{`max-archive-ratio: "0"`, "at least 1"}},
		"write mode":        {"write-mode: fast", []string{`write-mode: "fast"`, "auto, direct or buffered"}},
		"long value":        {"log-level: " + strings.Repeat("a", 5000), []string{"log-level", "..."}},
		"too large a file":  {"#" + strings.Repeat("x", 2<<20), []string{"bytes", "path"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := write(t, test.file)
			_, err := fromFile(path)
			if err == nil {
				t.Fatal("it was accepted")
			}
			for _, s := range append(test.says, path) {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error %q does not say %q", err, s)
				}
			}
			if len(err.Error()) > 1000 {
				t.Errorf("error has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestLoadMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	if _, err := fromFile(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("with a missing file: %v, want an error that names it", err)
	}
}

func TestEmptyFileIsTheDefault(t *testing.T) {
	want, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "# nothing\n", "{}\n"} {
		if got, err := fromFile(write(t, text)); err != nil || got != want {
			t.Errorf("fromFile(%q) = %+v, %v; want the defaults", text, got, err)
		}
	}
}

func TestFlagsOverFileOverDefault(t *testing.T) {
	path := write(t, "node-id: from-file\nmax-files: 5\ncache-limit: 1Gi\npull-linger: 1m\n")
	fs := pflag.NewFlagSet("node", pflag.ContinueOnError)
	f := Bind(fs)
	err := fs.Parse([]string{"--config", path, "--node-id=from-flag", "--max-files=1000000", "--cache-limit="})
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.Config()
	if err != nil {
		t.Fatal(err)
	}
	if c.NodeID != "from-flag" {
		t.Errorf("NodeID = %q, want the flag's", c.NodeID)
	}
	if c.MaxFiles != 1000000 {
		t.Errorf("MaxFiles = %d: a flag given with its default value must win over the file", c.MaxFiles)
	}
	if c.CacheLimit != 0 {
		t.Errorf("CacheLimit = %v: an empty flag must lift the file's limit", c.CacheLimit)
	}
	if c.PullLinger != time.Minute {
		t.Errorf("PullLinger = %v, want the file's", c.PullLinger)
	}
	if c.GrantTTL != 10*time.Minute {
		t.Errorf("GrantTTL = %v, want the default", c.GrantTTL)
	}
}

func TestFlagMendsWhatTheFileBreaks(t *testing.T) {
	path := write(t, "driver-name: a.b\nroot: relative\n")
	fs := pflag.NewFlagSet("node", pflag.ContinueOnError)
	f := Bind(fs)
	if err := fs.Parse([]string{"--config=" + path, "--root=/r", "--node-id=n"}); err != nil {
		t.Fatal(err)
	}
	if c, err := f.Config(); err != nil || c.Root != "/r" || c.Endpoint != "unix:///var/lib/kubelet/plugins/a.b/csi.sock" {
		t.Errorf("Config() = %+v, %v", c, err)
	}
}

// The URL of a proxy can hold a password: it is shown nowhere.
func TestProxiesAreSecret(t *testing.T) {
	const canary = "canary-password"
	for _, value := range []string{"http://u:" + canary + "@p:3128", "ftp://u:" + canary + "@p", "http://u:" + canary + "@p:x"} {
		fs := pflag.NewFlagSet("node", pflag.ContinueOnError)
		f := Bind(fs)
		var errs []error
		for _, name := range []string{"https-proxy", "http-proxy"} {
			errs = append(errs, fs.Parse([]string{"--" + name + "=" + value}))
			_, err := fromFile(write(t, "node-id: n\n"+name+": "+strconv.Quote(value)+"\n"))
			errs = append(errs, err)
		}
		c, err := f.Config()
		if text := fmt.Sprintf("%v %v %v %+v %#v %s", errors.Join(errs...), err, c, c, c, fs.FlagUsages()); strings.Contains(text, canary) {
			t.Errorf("%s shows: %s", value, text)
		}
		if good := strings.HasSuffix(value, "3128"); good != (err == nil) || good && c.HTTPProxy.Reveal() != value {
			t.Errorf("%s: %v", value, err)
		}
	}
}

func TestFlagErrors(t *testing.T) {
	for arg, says := range map[string]string{
		"--max-files=many":     "whole number",
		"--cache-reserve=120%": "below 100%",
		"--log-level=loud":     "debug, info, warn or error",
	} {
		fs := pflag.NewFlagSet("node", pflag.ContinueOnError)
		Bind(fs)
		err := fs.Parse([]string{arg})
		name, _, _ := strings.Cut(arg, "=")
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), name) {
			t.Errorf("Parse(%s) = %v, want an error that names the flag and says %q", arg, err, says)
		}
	}
}

func TestEverySettingIsAFlagWithHelp(t *testing.T) {
	fs := pflag.NewFlagSet("node", pflag.ContinueOnError)
	Bind(fs)
	defaults := base()
	for _, s := range settings {
		f := fs.Lookup(s.key)
		if f == nil {
			t.Errorf("no flag --%s", s.key)
			continue
		}
		if !strings.Contains(f.Usage, s.help) || s.help == "" {
			t.Errorf("--%s has the help text %q", s.key, f.Usage)
		}
		if err := s.write(&defaults, f.DefValue); err != nil {
			t.Errorf("--%s does not accept its own default %q: %v", s.key, f.DefValue, err)
		}
	}
	if n := reflect.TypeFor[Config]().NumField(); n != len(settings) {
		t.Errorf("Config has %d fields and there are %d settings", n, len(settings))
	}
	if defaults != base() {
		t.Errorf("writing every default's text changed the defaults: %+v", defaults)
	}
}
