package credential

import (
	"context"
	"errors"
	"sync"

	"github.com/model-csi/model-csi/pkg/model"
)

// Chain returns a keychain that lists what the given ones have, one after the other. They are asked at the same time,
// so that the slowest alone decides how long it takes. One of them being broken takes nothing from the others: what they
// have is returned together with the error, because a damaged file on the node must not stop a pod that brings its own
// credential.
func Chain(keychains ...model.Keychain) model.Keychain { return chain(keychains) }

type chain []model.Keychain

// Credentials implements model.Keychain.
func (c chain) Credentials(ctx context.Context, ref model.Ref) ([]model.Credential, error) {
	found := make([][]model.Credential, len(c))
	broken := make([]error, len(c))
	var asking sync.WaitGroup
	for i, k := range c {
		if k != nil {
			asking.Go(func() { found[i], broken[i] = k.Credentials(ctx, ref) })
		}
	}
	asking.Wait()
	var out []model.Credential
	for _, creds := range found {
		out = append(out, creds...)
	}
	return out, errors.Join(broken...)
}
