package pull

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
)

// halfBroken has one good source of credentials, or none, and one that is broken.
type halfBroken struct {
	good model.Keychain
	err  error
}

func (h halfBroken) Credentials(ctx context.Context, ref model.Ref) ([]model.Credential, error) {
	creds, err := h.good.Credentials(ctx, ref)
	return creds, errors.Join(err, h.err)
}

// TestBrokenSource: a source of credentials that is broken stops nobody who has access without it, and is named to
// whoever has none.
func TestBrokenSource(t *testing.T) {
	r := newFakeRegistry()
	n := newNode(t, r, nil)
	r.push(t, "m:1", layerSpec{path: "w", data: []byte("weights")})
	away := fmt.Errorf("the API server cannot be reached: %w", model.ErrUnavailable)
	damaged := fmt.Errorf("secret x is damaged: %w", model.ErrInvalid)
	refused := func() {
		t.Helper()
		_, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1"), Keychain: halfBroken{user{"eve", "e"}, away}})
		if !errors.Is(err, model.ErrUnavailable) || refusal(err) || !strings.Contains(err.Error(), "the API server cannot be reached") {
			t.Errorf("a source that is away: %v", err)
		}
		_, err = n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1"), Keychain: halfBroken{user{"eve", "e"}, damaged}})
		if !refusal(err) || errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), "secret x is damaged") {
			t.Errorf("a source that is damaged: %v", err)
		}
	}
	served := func(k model.Keychain) {
		t.Helper()
		for _, broken := range []error{away, damaged} {
			result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1"), Keychain: halfBroken{k, broken}})
			if err != nil {
				t.Fatal(err)
			}
			result.Release()
		}
	}
	r.users = map[string]string{"alice": "a"}
	refused()
	served(user{"alice", "a"})
	refused() // of what the node has now
	served(user{"alice", "a"})
	r.users = nil
	served(model.Anonymous{})
}
