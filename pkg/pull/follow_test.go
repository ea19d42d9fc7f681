package pull

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

// fakeNames is a model registry: names with their meanings, for those who have the token of one.
type fakeNames struct {
	means map[string]string
	token string // empty means that everybody may ask
	away  bool
	asked int
}

func (f *fakeNames) Complete(ref model.Ref) (model.Ref, error) {
	if ref.Registry == "" {
		ref.Registry = "names.io"
	}
	return ref, nil
}

func (f *fakeNames) Lookup(_ context.Context, ref model.Ref, c model.Credential) (model.Ref, error) {
	f.asked++
	if f.away {
		return model.Ref{}, fmt.Errorf("dial: %w", model.ErrUnavailable)
	}
	if c.AccessToken.Reveal() != f.token {
		return model.Ref{}, fmt.Errorf("as %s: %w", c, model.ErrUnauthenticated)
	}
	text, ok := f.means[ref.Repository+"/"+ref.Tag]
	if !ok {
		return model.Ref{}, fmt.Errorf("no such model: %w", model.ErrNotFound)
	}
	return model.ParseRef(text)
}

// newNames is a node on which model-registry references are looked up in f.
func newNames(t *testing.T, r *fakeRegistry, f *fakeNames) *node {
	return newNode(t, r, func(o *Options) { o.Resolvers = map[string]Resolver{model.SchemeModelRegistry: f} })
}

func TestFollow(t *testing.T) {
	r := newFakeRegistry()
	first := pushFiles(t, r, "m:1")
	second := r.push(t, "m:2", layerSpec{path: "new", data: []byte("new")})
	f := &fakeNames{means: map[string]string{"iris/v1": "r.io/m:1", "iris/": "r.io/m:1"}}
	n := newNames(t, r, f)
	pull := func(ref string, p Policy) (string, error) {
		result, err := n.Pull(t.Context(), Request{Ref: parse(t, ref), Policy: p})
		if err != nil {
			return "", err
		}
		defer result.Release()
		return result.Digest.String(), nil
	}
	if _, err := pull("model-registry://iris/v1", PolicyNever); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("Never without a cache: %v", err)
	}
	for _, ref := range []string{"model-registry://iris/v1", "model-registry://iris", "model-registry://names.io/iris/v1"} {
		if d, err := pull(ref, ""); err != nil || d != first.String() {
			t.Errorf("%s: %s, %v", ref, d, err)
		}
	}

	// A version means what it meant; no version is looked up each time.
	f.means["iris/v1"], f.means["iris/"] = "r.io/m:2", "r.io/m:2"
	f.asked = 0
	if d, err := pull("model-registry://iris/v1", ""); err != nil || d != first.String() || f.asked != 0 {
		t.Errorf("version: %s, %v, asked %d times", d, err, f.asked)
	}
	if d, err := pull("model-registry://iris", ""); err != nil || d != second.String() || f.asked != 1 {
		t.Errorf("no version: %s, %v, asked %d times", d, err, f.asked)
	}
	if d, err := pull("model-registry://iris/v1", PolicyAlways); err != nil || d != second.String() {
		t.Errorf("version, Always: %s, %v", d, err)
	}

	f.away = true
	n.now = n.now.Add(time.Hour) // every proof is older than its TTL
	for _, p := range []Policy{"", PolicyIfNotPresent, PolicyNever} {
		if d, err := pull("model-registry://iris/v1", p); err != nil || d != second.String() {
			t.Errorf("away, %q: %s, %v", p, d, err)
		}
	}
	if _, err := pull("model-registry://iris", ""); !errors.Is(err, model.ErrUnavailable) || !strings.Contains(err.Error(), "r.io/m:2") {
		t.Errorf("away, no version: %v", err)
	}
	n.stop(t)
	n.start(t, func(o *Options) { o.Resolvers = map[string]Resolver{model.SchemeModelRegistry: f} })
	if d, err := pull("model-registry://iris/v1", ""); err != nil || d != second.String() {
		t.Errorf("away, after a restart: %s, %v", d, err)
	}
	n.now = n.now.Add(24 * time.Hour)
	if _, err := pull("model-registry://iris/v1", ""); !errors.Is(err, model.ErrUnavailable) {
		t.Errorf("away, after the grace time: %v", err)
	}

	f.away = false
	delete(f.means, "iris/v1")
	if _, err := pull("model-registry://iris/v1", ""); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("gone, and no proof holds any more: %v", err)
	}
}

// TestFollowLayout: what a layout calls a model comes from the reference that holds it.
func TestFollowLayout(t *testing.T) {
	r := newFakeRegistry()
	pushFiles(t, r, "qwen/base:1")
	n := newNames(t, r, &fakeNames{means: map[string]string{"a b?/v1": "r.io/qwen/base:1"}})
	result, err := n.Pull(t.Context(), Request{Ref: parse(t, "model-registry://a%20b%3F/v1"), Layout: LayoutHub})
	if err != nil {
		t.Fatal(err)
	}
	defer result.Release()
	if _, ok := result.Tree.Lookup("hub/models--qwen--base/refs/1"); !ok {
		t.Errorf("no such name in %v", result.Tree)
	}
	if err := (Request{Ref: parse(t, "model-registry://iris"), Layout: LayoutOllama}).Check(); err != nil {
		t.Errorf("a name that may stand for a model of Ollama: %v", err)
	}
}

// TestFollowAuthorisation: knowing the name is no permission to the model, and the other way round.
func TestFollowAuthorisation(t *testing.T) {
	r := newFakeRegistry()
	r.users = map[string]string{"alice": "a"}
	pushFiles(t, r, "m:1")
	f := &fakeNames{means: map[string]string{"iris/v1": "r.io/m:1"}, token: "t"}
	n := newNames(t, r, f)
	reader := model.Credential{Name: "alice", Username: "alice", Password: model.NewSecret("a")}
	asker := model.Credential{Name: "asker", Username: "asker", Password: model.NewSecret("x"), AccessToken: model.NewSecret("t")}
	loose := reader
	loose.AnyRegistry = true
	pull := func(k ...model.Credential) error {
		result, err := n.Pull(t.Context(), Request{Ref: parse(t, "model-registry://iris/v1"), Keychain: keychain(k)})
		result.Release()
		return err
	}
	if err := pull(asker, reader); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		for name, k := range map[string][]model.Credential{"nobody": nil, "who may not ask": {reader}, "who may not read": {asker}, "whose credential names no registry": {asker, loose}} {
			err := pull(k...)
			if !errors.Is(err, model.ErrUnauthenticated) && !errors.Is(err, model.ErrDenied) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	err := pull(asker)
	if err == nil || !strings.Contains(err.Error(), "model-registry://names.io/iris/v1 stands for r.io/m:1") {
		t.Errorf("the error does not say what was looked for: %v", err)
	}
	f.away = true
	if err := pull(reader); !errors.Is(err, model.ErrUnavailable) {
		t.Errorf("model registry away, never asked before: %v", err)
	}
	if err := pull(asker, reader); err != nil {
		t.Errorf("model registry away, asked before: %v", err)
	}
	f.away, f.token = false, "other"
	n.now = n.now.Add(time.Hour)
	if err := pull(asker, reader); !errors.Is(err, model.ErrUnauthenticated) {
		t.Errorf("token revoked: %v", err)
	}
	f.away = true
	if err := pull(asker, reader); !errors.Is(err, model.ErrUnavailable) {
		t.Errorf("a revoked token has a grace time: %v", err)
	}
}

func TestFollowHostile(t *testing.T) {
	f := &fakeNames{means: map[string]string{"a/": "127.0.0.1:5000/m:1", "b/": "model-registry://a", "c/": "localhost/m:1", "d/": "hf://org/name"}}
	n := newNames(t, newFakeRegistry(), f)
	for name, want := range map[string]error{"a": model.ErrDenied, "b": model.ErrUnsupported, "c": model.ErrDenied, "d": model.ErrInvalid, "e": model.ErrNotFound} {
		if _, err := n.Pull(t.Context(), Request{Ref: parse(t, "model-registry://"+name)}); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLedKeepsOnlyNamedCredentials(t *testing.T) {
	bound := model.Credential{Name: "bound", Username: "b"}
	keys := keychain{{Name: "any", Username: "a", AnyRegistry: true}, bound}
	for _, tt := range []struct {
		from, to string
		want     int
	}{
		{"model-registry://names.io/iris", "r.io/m", 1},
		{"model-registry://r.io/iris", "r.io/m", 1}, // another service, though on the same host
		{"hf://org/name", "huggingface.co/org/name", 1},
		{"r.io/a", "r.io/b", 2},
	} {
		_, k, err := led(parse(t, tt.from), parse(t, tt.to), keys)
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.Credentials(t.Context(), parse(t, tt.to))
		if err != nil || len(got) != tt.want || !slices.Contains(got, bound) {
			t.Errorf("%s to %s: %v, %v", tt.from, tt.to, got, err)
		}
	}
}

func TestPolicyOf(t *testing.T) {
	for in, want := range map[string]Policy{
		"r.io/m": PolicyAlways, "r.io/m:latest": PolicyAlways, "r.io/m:1": PolicyIfNotPresent,
		"hf://a/b": PolicyAlways, "hf://a/b@main": PolicyAlways, "hf://a/b@607a30d783dfa663caf39e06633721c8d4cfcd7e": PolicyIfNotPresent,
		"ollama://m": PolicyAlways, "ollama://m:8b": PolicyIfNotPresent, "model-registry://m": PolicyAlways, "model-registry://m/1": PolicyIfNotPresent,
	} {
		if got := Policy("").of(parse(t, in)); got != want {
			t.Errorf("%s: %s", in, got)
		}
		if got := PolicyNever.of(parse(t, in)); got != PolicyNever {
			t.Errorf("%s with a policy: %s", in, got)
		}
	}
}
