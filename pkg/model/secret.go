package model

import (
	"context"
	"fmt"
	"log/slog"
)

const redacted = "[redacted]"

// Secret is a string that does not print itself: not through fmt, not through slog, not through encoding/json.
// Call [Secret.Reveal] at the one place that sends it.
type Secret struct{ value string }

// NewSecret wraps a value that must not be shown.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns the value.
func (s Secret) Reveal() string { return s.value }

// IsZero reports whether the secret is empty.
func (s Secret) IsZero() bool { return s.value == "" }

// Format implements fmt.Formatter for every verb, %#v included.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText implements encoding.TextMarshaler, so that JSON and YAML show nothing either.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Credential is one identity at one registry. The zero value is the anonymous identity.
type Credential struct {
	// Name says where the credential came from, for logs and errors: "secret pull-secret of the pod", for example.
	Name string
	// AnyRegistry says that the credential came without the name of a registry, so that it is meant for the registry
	// that its owner's own reference names, and for no other.
	AnyRegistry bool
	// Username and Password answer a Basic challenge, and are what a token service is given.
	Username string
	Password Secret
	// RefreshToken is an identity token that a token service exchanges (docker's "identitytoken").
	RefreshToken Secret
	// AccessToken is sent as a bearer token as it is (docker's "registrytoken").
	AccessToken Secret
}

// IsAnonymous reports whether the credential proves nobody.
func (c Credential) IsAnonymous() bool {
	return c.Username == "" && c.Password.IsZero() && c.RefreshToken.IsZero() && c.AccessToken.IsZero()
}

// String names the credential and never shows it.
func (c Credential) String() string {
	if c.IsAnonymous() {
		return "anonymous"
	}
	if c.Name == "" {
		return "credential"
	}
	return c.Name
}

// LogValue implements slog.LogValuer.
func (c Credential) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Format implements fmt.Formatter, so that no verb reaches the fields.
func (c Credential) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// Keychain knows which credentials one caller has. Implementations must be safe for concurrent use.
type Keychain interface {
	// Credentials returns what the caller may use for the reference, best first. None means anonymous.
	// An error means that a source of credentials is broken, and names it without showing a secret; what other sources
	// have is returned with it.
	Credentials(ctx context.Context, ref Ref) ([]Credential, error)
}

// Anonymous is the keychain without credentials.
type Anonymous struct{}

// Credentials returns none.
func (Anonymous) Credentials(context.Context, Ref) ([]Credential, error) { return nil, nil }
