package credential

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

// dockerHub is how references name Docker Hub.
const dockerHub = "docker.io"

// hubAliases are the hosts that docker config files use for Docker Hub.
var hubAliases = []string{"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}

// authEntry is one value of "auths", as docker writes it.
type authEntry struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// rule is one entry of a docker config after its key was understood.
type rule struct {
	Pattern
	// prefix selects MatchesPrefix.
	prefix bool
	cred   model.Credential
	// err says why the entry cannot be used; it matters only to references that the rule matches.
	err error
}

// rules is a docker config, the most specific entry first.
type rules []rule

// parseDockerConfig reads the content of a ".dockerconfigjson" key or of a config.json file.
func parseDockerConfig(data []byte, name string) (rules, error) {
	var config struct {
		Auths map[string]authEntry `json:"auths"`
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, malformed(err)
	}
	return newRules(config.Auths, name), nil
}

// parseDockercfg reads the content of a ".dockercfg" key, which is the map of "auths" alone.
func parseDockercfg(data []byte, name string) (rules, error) {
	var auths map[string]authEntry
	if err := json.Unmarshal(data, &auths); err != nil {
		return nil, malformed(err)
	}
	return newRules(auths, name), nil
}

// malformed describes an error of encoding/json by its place alone: its text can quote what it could not read.
func malformed(err error) error {
	switch e := err.(type) {
	case *json.SyntaxError:
		return fmt.Errorf("not valid JSON at byte %d: %w", e.Offset, model.ErrInvalid)
	case *json.UnmarshalTypeError:
		return fmt.Errorf("a value at byte %d has the wrong JSON type: %w", e.Offset, model.ErrInvalid)
	}
	return fmt.Errorf("not valid JSON: %w", model.ErrInvalid)
}

func newRules(auths map[string]authEntry, name string) rules {
	out := make(rules, 0, len(auths))
	for key, entry := range auths {
		r := rule{Pattern: parseKey(key)}
		r.cred, r.err = entry.credential(name)
		if r.err == nil && r.cred.IsAnonymous() {
			continue // docker leaves empty entries behind for hosts whose secrets a helper keeps
		}
		out = append(out, r)
	}
	out.sort()
	return out
}

func (rs rules) sort() {
	slices.SortFunc(rs, func(a, b rule) int { return moreSpecific(a.Pattern, b.Pattern) })
}

// parseKey splits a key of "auths". Keys are hosts, hosts with a path, either with a scheme in front, and any label of
// the host may hold a glob. "/v1/" and "/v2/" are API versions and no part of a repository.
func parseKey(key string) Pattern {
	p := Pattern{text: key}
	rest := key
	for _, scheme := range []string{"https://", "http://"} {
		rest = strings.TrimPrefix(rest, scheme)
	}
	host, repository, _ := strings.Cut(rest, "/")
	repository = "/" + strings.Trim(repository, "/")
	for _, version := range []string{"/v1", "/v2"} {
		if after, ok := strings.CutPrefix(repository, version); ok && (after == "" || after[0] == '/') {
			repository = after
			break
		}
	}
	p.path = strings.Trim(repository, "/")
	p.labels, p.port = splitHost(host)
	return p
}

// splitHost takes a host apart: the labels of its name, and its port. Docker Hub has one name whatever it is called.
func splitHost(host string) (labels []string, port string) {
	host = strings.ToLower(host)
	if slices.Contains(hubAliases, host) {
		host = dockerHub
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		host, port = host[:i], host[i+1:]
	}
	if strings.Contains(host, ":") {
		return []string{host}, port // an IPv6 address has no labels
	}
	return strings.Split(host, "."), port
}

func (r rule) matches(ref model.Ref) bool {
	if r.prefix {
		return r.MatchesPrefix(ref)
	}
	return r.Matches(ref)
}

// credentials lists what the rules have for the reference, the most specific first.
func (rs rules) credentials(ref model.Ref) ([]model.Credential, error) {
	var out []model.Credential
	for _, r := range rs {
		if !r.matches(ref) {
			continue
		}
		if r.err != nil {
			return nil, fmt.Errorf("entry %q: %w", shorten(r.text), r.err)
		}
		out = append(out, r.cred)
	}
	return out, nil
}

// credential reads the entry. "auth" wins over "username" and "password", as it does for docker and kubelet.
func (e authEntry) credential(name string) (model.Credential, error) {
	c := model.Credential{
		Name:         name,
		Username:     e.Username,
		Password:     model.NewSecret(e.Password),
		RefreshToken: model.NewSecret(e.IdentityToken),
		AccessToken:  model.NewSecret(e.RegistryToken),
	}
	if e.Auth == "" {
		return c, nil
	}
	user, password, err := decodeAuth(e.Auth)
	if err != nil {
		return model.Credential{}, err
	}
	c.Username, c.Password = user, model.NewSecret(password)
	return c, nil
}

func decodeAuth(auth string) (user, password string, err error) {
	encoding := base64.StdEncoding
	auth = strings.TrimSpace(auth)
	if !strings.HasSuffix(auth, "=") && len(auth)%4 != 0 {
		encoding = base64.RawStdEncoding
	}
	decoded, err := encoding.DecodeString(auth)
	if err != nil {
		return "", "", fmt.Errorf("its \"auth\" is not base64: %w", model.ErrInvalid)
	}
	user, password, ok := strings.Cut(string(decoded), ":")
	if !ok {
		return "", "", fmt.Errorf("its \"auth\" is not the base64 form of user:password: %w", model.ErrInvalid)
	}
	// Docker for Windows once padded passwords with NUL bytes.
	return user, strings.Trim(password, "\x00"), nil
}

// shorten keeps a key that somebody pasted by mistake from filling an event.
func shorten(s string) string {
	const most = 100
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
