package credential

import (
	"context"

	"github.com/model-csi/model-csi/pkg/model"
)

// Chain returns a keychain that asks the given ones in order and lists what they have one after the other. One of them
// being broken is an error only if none of the others has a credential: a damaged file on the node must not stop a pod
// that brings its own.
func Chain(keychains ...model.Keychain) model.Keychain { return chain(keychains) }

type chain []model.Keychain

// Credentials implements model.Keychain.
func (c chain) Credentials(ctx context.Context, ref model.Ref) ([]model.Credential, error) {
	var out []model.Credential
	var broken error
	for _, k := range c {
		if k == nil {
			continue
		}
		creds, err := k.Credentials(ctx, ref)
		if err != nil && broken == nil {
			broken = err
		}
		out = append(out, creds...)
	}
	if len(out) > 0 {
		return out, nil
	}
	return nil, broken
}
