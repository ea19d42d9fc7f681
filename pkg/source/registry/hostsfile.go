package registry

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// hostConfig is what a hosts.toml file says about one host.
type hostConfig struct {
	// base has scheme, host and the path that "/<repository>/manifests" is appended to; nil for a server that the file
	// does not name.
	base          *url.URL
	pull, resolve bool
	// caFiles and clientFiles are absolute paths once resolved against the file's directory. A client pair whose
	// second half is empty has certificate and key in one file.
	caFiles     []string
	clientFiles [][2]string
	skipVerify  bool
	header      http.Header
	dialTimeout time.Duration
}

// hostTable is the same as TOML. Fields of type any have several forms.
type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   bool           `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// parseHosts reads the content of a hosts.toml file that lies in dir: the mirrors in the order of the file, and the
// server. Unknown keys are left to other readers of the file. Errors name places and keys, never values, because
// headers hold secrets.
func parseHosts(data []byte, dir string) (mirrors []hostConfig, server hostConfig, err error) {
	var file struct {
		hostTable
		Server string               `toml:"server"`
		Hosts  map[string]hostTable `toml:"host"`
	}
	if err := toml.Unmarshal(data, &file); err != nil {
		var decode *toml.DecodeError
		if errors.As(err, &decode) {
			row, column := decode.Position()
			return nil, hostConfig{}, fmt.Errorf("line %d, column %d cannot be understood: %w", row, column, model.ErrInvalid)
		}
		return nil, hostConfig{}, fmt.Errorf("not valid TOML: %w", model.ErrInvalid)
	}
	for _, name := range hostOrder(data, file.Hosts) {
		c, err := file.Hosts[name].config(name, dir)
		if err != nil {
			return nil, hostConfig{}, fmt.Errorf("host %q: %w", wire.Bounded(name), err)
		}
		if c.base == nil {
			return nil, hostConfig{}, fmt.Errorf("a host has an empty name: %w", model.ErrInvalid)
		}
		mirrors = append(mirrors, c)
	}
	server, err = file.config(file.Server, dir)
	if err != nil {
		return nil, hostConfig{}, fmt.Errorf("server: %w", err)
	}
	return mirrors, server, nil
}

// hostOrder lists the hosts as the file does. Decoding into a map forgets the order, which decides who is asked first.
func hostOrder(data []byte, hosts map[string]hostTable) []string {
	var order []string
	add := func(name string) {
		if _, ok := hosts[name]; ok && !slices.Contains(order, name) {
			order = append(order, name)
		}
	}
	var p unstable.Parser
	p.Reset(data)
	table := []string{} // of the key/value pairs that follow
	for p.NextExpression() {
		e := p.Expression()
		var key []string
		switch e.Kind {
		case unstable.Table:
			table = keyParts(e)
			key = table
		case unstable.KeyValue:
			key = append(table[:len(table):len(table)], keyParts(e)...)
		default:
			continue
		}
		if len(key) > 1 && key[0] == "host" {
			add(key[1])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(hosts)) { // written as inline tables
		add(name)
	}
	return order
}

func keyParts(e *unstable.Node) []string {
	var parts []string
	for it := e.Key(); it.Next(); {
		parts = append(parts, string(it.Node().Data))
	}
	return parts
}

// config reads the table of one host. Capabilities that are not about reading are accepted and mean nothing here.
func (t hostTable) config(name, dir string) (hostConfig, error) {
	c := hostConfig{skipVerify: t.SkipVerify, pull: len(t.Capabilities) == 0, resolve: len(t.Capabilities) == 0}
	var err error
	if name != "" {
		if c.base, err = hostURL(name, t.OverridePath); err != nil {
			return hostConfig{}, err
		}
	}
	for _, capability := range t.Capabilities {
		switch strings.ToLower(capability) {
		case "pull":
			c.pull = true
		case "resolve":
			c.resolve = true
		case "push", "referrers":
		default:
			return hostConfig{}, fmt.Errorf("capability %q is not known: %w", wire.Bounded(capability), model.ErrInvalid)
		}
	}
	if c.caFiles, err = fileList(t.CA, dir); err != nil {
		return hostConfig{}, fmt.Errorf("\"ca\" %w", err)
	}
	if c.clientFiles, err = clientPairs(t.Client, dir); err != nil {
		return hostConfig{}, fmt.Errorf("\"client\" %w", err)
	}
	if c.header, err = headers(t.Header); err != nil {
		return hostConfig{}, err
	}
	if t.DialTimeout != "" {
		if c.dialTimeout, err = time.ParseDuration(t.DialTimeout); err != nil || c.dialTimeout <= 0 {
			return hostConfig{}, fmt.Errorf("\"dial_timeout\" is not a duration such as \"5s\": %w", model.ErrInvalid)
		}
	}
	return c, nil
}

// hostURL reads a host as hosts.toml has it: with or without scheme, and with a path in front of "/v2" where the
// registry is not at the root of its host. With override the path is the API's root as it stands.
func hostURL(name string, override bool) (*url.URL, error) {
	if !strings.Contains(name, "://") {
		name = "https://" + name
	}
	u, err := url.Parse(name)
	if err != nil || u.Host == "" || u.Hostname() == "" {
		return nil, fmt.Errorf("is not a URL: %w", model.ErrInvalid)
	}
	if u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("has the scheme %q, only http and https work: %w", wire.Bounded(u.Scheme), model.ErrInvalid)
	}
	if u.User != nil {
		return nil, fmt.Errorf("has a user in its URL; use the header or a docker config: %w", model.ErrInvalid)
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("has a query or fragment: %w", model.ErrInvalid)
	}
	root := path.Clean("/" + u.Path)
	if !override && !strings.HasSuffix(root, "/v2") {
		root = path.Join(root, "v2")
	}
	return &url.URL{Scheme: u.Scheme, Host: strings.ToLower(u.Host), Path: strings.TrimSuffix(root, "/")}, nil
}

// fileList reads a path or a list of paths.
func fileList(v any, dir string) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{absolute(v, dir)}, nil
	case []any:
		var out []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, notPaths()
			}
			out = append(out, absolute(s, dir))
		}
		return out, nil
	}
	return nil, notPaths()
}

// clientPairs reads a path, a list of paths, or a list of pairs of certificate and key.
func clientPairs(v any, dir string) ([][2]string, error) {
	list, ok := v.([]any)
	if !ok {
		files, err := fileList(v, dir)
		if err != nil || len(files) == 0 {
			return nil, err
		}
		return [][2]string{{files[0], ""}}, nil
	}
	var out [][2]string
	for _, e := range list {
		files, err := fileList(e, dir)
		if err != nil {
			return nil, err
		}
		switch _, pair := e.([]any); {
		case pair && len(files) == 2:
			out = append(out, [2]string{files[0], files[1]})
		case !pair && len(files) == 1:
			out = append(out, [2]string{files[0], ""})
		default:
			return nil, notPaths()
		}
	}
	return out, nil
}

func notPaths() error {
	return fmt.Errorf("is neither a path nor a list of paths: %w", model.ErrInvalid)
}

func absolute(file, dir string) string {
	if filepath.IsAbs(file) {
		return file
	}
	return filepath.Join(dir, file)
}

// headers reads header fields whose values are strings or lists of strings.
func headers(table map[string]any) (http.Header, error) {
	out := http.Header{}
	for key, v := range table {
		values, ok := v.([]any)
		if !ok {
			values = []any{v}
		}
		for _, value := range values {
			s, ok := value.(string)
			if !ok || !sendable(key, s) {
				return nil, fmt.Errorf("header %q cannot be sent: %w", wire.Bounded(key), model.ErrInvalid)
			}
			out.Add(key, s)
		}
	}
	return out, nil
}

// sendable reports whether net/http will send the field: no control characters, and no separators in the name.
func sendable(key, value string) bool {
	return key != "" && !strings.ContainsFunc(key, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
	}) && !strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}
