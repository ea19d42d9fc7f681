package registry

import (
	"context"
	"fmt"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/model-csi/model-csi/pkg/model"
)

// Logins is the keychain of a person: the docker config (DOCKER_CONFIG, else ~/.docker/config.json) with its credential
// helpers, as docker, oras and helm share it. It runs helpers, so it is for the command line and not for a node.
type Logins struct {
	store credentials.Store
	path  string
}

// NewLogins opens the docker config. One that does not exist has no logins; one that cannot be read is model.ErrInvalid.
func NewLogins() (*Logins, error) {
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{DetectDefaultNativeStore: true})
	if err != nil {
		return nil, fmt.Errorf("docker config: %v: %w", err, model.ErrInvalid)
	}
	return &Logins{store: store, path: store.ConfigPath()}, nil
}

// Credentials implements model.Keychain.
func (l *Logins) Credentials(ctx context.Context, ref model.Ref) ([]model.Credential, error) {
	c, err := l.store.Get(ctx, credentials.ServerAddressFromRegistry(ref.Registry))
	if err != nil {
		return nil, fmt.Errorf("login for registry %s in %s: %v: %w", ref.Registry, l.path, err, model.ErrInvalid)
	}
	if c == auth.EmptyCredential {
		return nil, nil
	}
	return []model.Credential{{
		Name:         "login of " + l.path,
		Username:     c.Username,
		Password:     model.NewSecret(c.Password),
		RefreshToken: model.NewSecret(c.RefreshToken),
		AccessToken:  model.NewSecret(c.AccessToken),
	}}, nil
}
