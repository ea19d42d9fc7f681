package credential

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

// podSecret names credentials from nodePublishSecretRef in logs and errors.
const podSecret = "nodePublishSecretRef"

// Keys of the secrets that ForPod understands. The first two are those of kubernetes.io/dockerconfigjson and
// kubernetes.io/dockercfg, the next two those of kubernetes.io/basic-auth.
const (
	keyDockerConfigJSON = ".dockerconfigjson"
	keyDockercfg        = ".dockercfg"
	keyUsername         = "username"
	keyPassword         = "password"
	keyToken            = "token"
)

// ForPod returns the keychain of a pod from the data of its nodePublishSecretRef: a docker config
// (".dockerconfigjson" or ".dockercfg"), "username" with "password", or "token", a bearer token. The last two are meant
// for the registry of whatever reference the pod names. No secret at all makes an anonymous keychain. Anything else
// fails with model.ErrInvalid and names the keys that were found.
func ForPod(secrets map[string]string) (model.Keychain, error) {
	if len(secrets) == 0 {
		return model.Anonymous{}, nil
	}
	shapes := []struct {
		key  string
		read func() (model.Keychain, error)
	}{
		{keyDockerConfigJSON, func() (model.Keychain, error) {
			return podConfig(keyDockerConfigJSON, secrets[keyDockerConfigJSON], parseDockerConfig)
		}},
		{keyDockercfg, func() (model.Keychain, error) {
			return podConfig(keyDockercfg, secrets[keyDockercfg], parseDockercfg)
		}},
		{keyUsername, func() (model.Keychain, error) { return basic(secrets) }},
		{keyPassword, func() (model.Keychain, error) { return basic(secrets) }},
		{keyToken, func() (model.Keychain, error) { return bearer(secrets) }},
	}
	for _, s := range shapes {
		if _, ok := secrets[s.key]; ok {
			return s.read()
		}
	}
	return nil, badSecret(secrets, "none of these is a credential")
}

func podConfig(key, data string, parse func([]byte, string) (rules, error)) (model.Keychain, error) {
	rs, err := parse([]byte(data), podSecret)
	if err != nil {
		return nil, fmt.Errorf("%s: key %q: %w", podSecret, key, err)
	}
	return configKeychain(rs), nil
}

func basic(secrets map[string]string) (model.Keychain, error) {
	if _, ok := secrets[keyToken]; ok {
		return nil, badSecret(secrets, "it is not clear which of them to use")
	}
	c := model.Credential{
		Name: podSecret, AnyRegistry: true,
		Username: trimLine(secrets[keyUsername]),
		Password: model.NewSecret(trimLine(secrets[keyPassword])),
	}
	if c.Username == "" || c.Password.IsZero() {
		return nil, badSecret(secrets, "username and password are needed together, neither empty")
	}
	return static{c}, nil
}

func bearer(secrets map[string]string) (model.Keychain, error) {
	token := trimLine(secrets[keyToken])
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, badSecret(secrets, "the token is empty or has characters that cannot be sent in a header")
	}
	return static{{Name: podSecret, AnyRegistry: true, AccessToken: model.NewSecret(token)}}, nil
}

// trimLine drops the line end that `echo secret | base64` leaves in a Kubernetes secret. No registry issues secrets
// that end in one.
func trimLine(s string) string { return strings.TrimRight(s, "\r\n") }

// badSecret names the keys and what would work.
func badSecret(secrets map[string]string, why string) error {
	keys := slices.Sorted(maps.Keys(secrets))
	const most = 10
	if len(keys) > most {
		keys = append(keys[:most], "...")
	}
	for i := range keys {
		keys[i] = shorten(keys[i])
	}
	return fmt.Errorf("%s: the secret has the keys %q: %s; use a secret of type kubernetes.io/dockerconfigjson, or one with username and password, or one with token: %w",
		podSecret, keys, why, model.ErrInvalid)
}

// static is a keychain whose credentials fit every reference.
type static []model.Credential

// Credentials implements model.Keychain.
func (s static) Credentials(context.Context, model.Ref) ([]model.Credential, error) {
	return slices.Clone(s), nil
}

// configKeychain is a keychain over the entries of one docker config.
type configKeychain rules

// Credentials implements model.Keychain.
func (c configKeychain) Credentials(_ context.Context, ref model.Ref) ([]model.Credential, error) {
	creds, err := rules(c).credentials(ref)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", podSecret, err)
	}
	return creds, nil
}
