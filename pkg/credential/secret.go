package credential

import (
	"context"
	"fmt"

	"github.com/model-csi/model-csi/pkg/model"
)

// The types of image pull secrets.
const (
	typeDockerConfigJSON = "kubernetes.io/dockerconfigjson"
	typeDockercfg        = "kubernetes.io/dockercfg"
)

// FromSecret returns the keychain of an image pull secret from its type and data. Its credentials have the given name,
// which errors begin with. A secret of another type, or one whose data is damaged, fails with model.ErrInvalid.
func FromSecret(name, kind string, data map[string][]byte) (model.Keychain, error) {
	key := map[string]string{typeDockerConfigJSON: keyDockerConfigJSON, typeDockercfg: keyDockercfg}[kind]
	if key == "" {
		return nil, fmt.Errorf("%s: it has the type %q; a pull secret has %s or %s: %w", name, shorten(kind), typeDockerConfigJSON, typeDockercfg, model.ErrInvalid)
	}
	config, ok := data[key]
	if !ok {
		return nil, fmt.Errorf("%s: it has no key %q: %w", name, key, model.ErrInvalid)
	}
	return fromConfig(name, key, config)
}

// fromConfig reads the docker config that a secret has under one of the two keys.
func fromConfig(name, key string, data []byte) (model.Keychain, error) {
	parse := parseDockerConfig
	if key == keyDockercfg {
		parse = parseDockercfg
	}
	rs, err := parse(data, name)
	if err != nil {
		return nil, fmt.Errorf("%s: key %q: %w", name, key, err)
	}
	return configKeychain{name, rs}, nil
}

// Login is a user name with a password.
type Login struct {
	Username string
	Password model.Secret
}

// FromLogins returns the keychain of logins by pattern, as a credential provider answers them; their paths follow
// [Pattern.MatchesPrefix]. Its credentials have the given name. A login without content is left out.
func FromLogins(name string, logins map[string]Login) model.Keychain {
	rs := make(rules, 0, len(logins))
	for pattern, login := range logins {
		c := model.Credential{Name: name, Username: login.Username, Password: login.Password}
		if !c.IsAnonymous() {
			rs = append(rs, rule{Pattern: parseKey(pattern), prefix: true, cred: c})
		}
	}
	rs.sort()
	return configKeychain{name, rs}
}

// configKeychain is a keychain over the entries of one docker config.
type configKeychain struct {
	name  string
	rules rules
}

// Credentials implements model.Keychain.
func (c configKeychain) Credentials(_ context.Context, ref model.Ref) ([]model.Credential, error) {
	creds, err := c.rules.credentials(ref)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	return creds, nil
}
