package credential

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

// Pattern says which repositories are meant, in the form that docker config files and credential providers share: a
// host, possibly with a port, possibly followed by the beginning of a path. Each label of the host may hold a glob, which
// never spans a dot: *.example.com is registry.example.com, and neither example.com nor a.b.example.com.
type Pattern struct {
	// text as it was written, for errors and the order of equals.
	text string
	// labels of the host name; port and path as they follow it.
	labels []string
	port   string
	path   string
}

// ParsePattern reads a pattern that an operator wrote. It fails with model.ErrInvalid for what could match nothing, and
// for a host that is nothing but a glob, because that reads as "all of them" and means only hosts without a dot.
func ParsePattern(s string) (Pattern, error) {
	p := parseKey(s)
	wrong := func(why string) (Pattern, error) {
		return Pattern{}, fmt.Errorf("pattern %q %s; write registry.example.com, *.example.com or registry.example.com/path: %w", shorten(s), why, model.ErrInvalid)
	}
	switch {
	case strings.Contains(s, "://"):
		return wrong("has a scheme in front")
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return wrong("has spaces or control characters")
	case len(p.labels) == 1 && strings.Trim(p.labels[0], "*?") == "":
		return wrong("names no registry")
	case strings.ContainsAny(p.port+p.path, "*?["):
		return wrong("has a glob in its port or path, where none is possible")
	}
	for _, label := range p.labels {
		if _, err := path.Match(label, ""); err != nil && !strings.Contains(label, ":") {
			return wrong("has a glob that is not complete")
		}
		if label == "" {
			return wrong("has an empty part in its host")
		}
	}
	return p, nil
}

// ImagePattern reads a pattern of a credential provider's configuration as kubelet does, to which nearly anything is one.
// It fails with model.ErrInvalid for what is empty or could be in no reference.
func ImagePattern(s string) (Pattern, error) {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return Pattern{}, fmt.Errorf("image pattern %q is empty or has spaces or control characters: %w", shorten(s), model.ErrInvalid)
	}
	return parseKey(s), nil
}

// ParsePatterns reads several patterns, and reports every one that is wrong.
func ParsePatterns(list []string) ([]Pattern, error) {
	var out []Pattern
	var errs []error
	for _, s := range list {
		p, err := ParsePattern(s)
		out, errs = append(out, p), append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return out, nil
}

// String is the pattern as it was written.
func (p Pattern) String() string { return p.text }

// Matches reports whether the reference is meant: the ports are equal, every label of the host matches its pattern, and
// the path is the repository or a directory above it.
func (p Pattern) Matches(ref model.Ref) bool {
	return p.matchesHost(ref) && (p.path == "" || ref.Repository == p.path || strings.HasPrefix(ref.Repository, p.path+"/"))
}

// MatchesPrefix is Matches by kubelet's rule for credential providers, which lets the path end inside of a name:
// registry.example.com/team is also registry.example.com/team-b.
func (p Pattern) MatchesPrefix(ref model.Ref) bool {
	return p.matchesHost(ref) && strings.HasPrefix(ref.Repository, p.path)
}

func (p Pattern) matchesHost(ref model.Ref) bool {
	labels, port := splitHost(ref.Registry)
	if port != p.port || len(labels) != len(p.labels) {
		return false
	}
	for i, pattern := range p.labels {
		if pattern == labels[i] {
			continue
		}
		if ok, err := path.Match(pattern, labels[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// globs counts the labels that are patterns.
func (p Pattern) globs() (n int) {
	for _, l := range p.labels {
		if strings.ContainsAny(l, "*?[") && !strings.Contains(l, ":") { // "[::1]" is an address
			n++
		}
	}
	return n
}

// moreSpecific orders patterns: literal hosts before globs, long paths before short ones, and the rest by their text, so
// that the order never depends on that of a map.
func moreSpecific(a, b Pattern) int {
	if d := a.globs() - b.globs(); d != 0 {
		return d
	}
	if d := len(b.path) - len(a.path); d != 0 {
		return d
	}
	return strings.Compare(a.text, b.text)
}

// Restrict returns a keychain that has what k has, for references that one of the patterns matches, and nothing for any
// other, for which k is not even asked.
func Restrict(k model.Keychain, patterns []Pattern) model.Keychain {
	return restricted{k, patterns}
}

type restricted struct {
	keychain model.Keychain
	patterns []Pattern
}

// Credentials implements model.Keychain.
func (r restricted) Credentials(ctx context.Context, ref model.Ref) ([]model.Credential, error) {
	for _, p := range r.patterns {
		if p.Matches(ref) {
			return r.keychain.Credentials(ctx, ref)
		}
	}
	return nil, nil
}
