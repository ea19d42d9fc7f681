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
	// keyHubToken is where the libraries of the Hugging Face Hub look for a token, and so do many secrets.
	keyHubToken = "HF_TOKEN"
)

// ForPod returns the keychain of a pod from the data of its nodePublishSecretRef: a docker config
// (".dockerconfigjson" or ".dockercfg"), "username" with "password", or "token", a bearer token. The last two are meant
// for the registry of whatever reference the pod names. "HF_TOKEN", alone or beside one of these, is a token that is
// meant for the Hugging Face Hub and nobody else. No secret at all makes an anonymous keychain. Anything else
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
			return fromConfig(podSecret, keyDockerConfigJSON, []byte(secrets[keyDockerConfigJSON]))
		}},
		{keyDockercfg, func() (model.Keychain, error) {
			return fromConfig(podSecret, keyDockercfg, []byte(secrets[keyDockercfg]))
		}},
		{keyUsername, func() (model.Keychain, error) { return basic(secrets) }},
		{keyPassword, func() (model.Keychain, error) { return basic(secrets) }},
		{keyToken, func() (model.Keychain, error) { return bearer(secrets[keyToken], secrets) }},
		{keyHubToken, func() (model.Keychain, error) { return model.Anonymous{}, nil }}, // for everybody but the Hub
	}
	for _, s := range shapes {
		if _, ok := secrets[s.key]; ok {
			keychain, err := s.read()
			if err != nil {
				return nil, err
			}
			return withHubToken(keychain, secrets)
		}
	}
	return nil, badSecret(secrets, "none of these is a credential")
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

func bearer(token string, secrets map[string]string) (static, error) {
	token = trimLine(token)
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, badSecret(secrets, "the token is empty or has characters that cannot be sent in a header")
	}
	return static{{Name: podSecret, AnyRegistry: true, AccessToken: model.NewSecret(token)}}, nil
}

// withHubToken adds the secret's token for the Hub, if it has one.
func withHubToken(others model.Keychain, secrets map[string]string) (model.Keychain, error) {
	token, ok := secrets[keyHubToken]
	if !ok {
		return others, nil
	}
	hub, err := bearer(token, secrets)
	if err != nil {
		return nil, err
	}
	hub[0].AnyRegistry = false // its key names the Hub
	return Chain(hubOnly{hub}, others), nil
}

// hubOnly is a keychain for the Hugging Face Hub.
type hubOnly struct{ static }

// Credentials implements model.Keychain.
func (h hubOnly) Credentials(ctx context.Context, ref model.Ref) ([]model.Credential, error) {
	if ref.Scheme != model.SchemeHub {
		return nil, nil
	}
	return h.static.Credentials(ctx, ref)
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
	return fmt.Errorf("%s: the secret has the keys %q: %s; use a secret of type kubernetes.io/dockerconfigjson, or one with username and password, or one with token, or with HF_TOKEN for the Hugging Face Hub: %w",
		podSecret, keys, why, model.ErrInvalid)
}

// static is a keychain whose credentials fit every reference.
type static []model.Credential

// Credentials implements model.Keychain.
func (s static) Credentials(context.Context, model.Ref) ([]model.Credential, error) {
	return slices.Clone(s), nil
}
