package model

import (
	_ "crypto/sha256" // the algorithms of digests
	_ "crypto/sha512"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
)

// SchemeOCI is the scheme of references that name no scheme.
const SchemeOCI = "oci"

// Ref names a model: registry/repository[:tag][@digest] as in the OCI distribution specification, with an optional
// scheme in front ("oci://" may be left out).
type Ref struct {
	// Scheme selects the source; "oci" for registries.
	Scheme string
	// Registry is the host, with a port where one was given, lower case.
	Registry string
	// Repository is the path below the registry.
	Repository string
	// Tag is empty when none was given.
	Tag string
	// Digest is empty when none was given. With both, the digest decides and the tag is for people.
	Digest digest.Digest
}

var (
	// The grammar of repositories and tags is that of the OCI distribution specification, "Pulling manifests".
	repositoryPattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	hostPattern       = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]*[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[0-9]{1,5})?$|^\[[0-9a-f:.]+\](:[0-9]{1,5})?$`)
)

// A name longer than this is refused by registries and does not fit into file names derived from it.
const maxRepositoryLength = 255

// ParseRef reads a reference as users write it. Errors wrap ErrInvalid and show what was expected.
func ParseRef(s string) (Ref, error) {
	ref := Ref{Scheme: SchemeOCI}
	rest := s
	if scheme, after, ok := strings.Cut(s, "://"); ok {
		if scheme != SchemeOCI {
			return Ref{}, refError(s, fmt.Sprintf("scheme %q is not known; use registry/repository[:tag][@digest]", scheme))
		}
		rest = after
	}
	if rest == "" {
		return Ref{}, refError(s, "it is empty; use registry/repository[:tag][@digest]")
	}
	if name, d, ok := strings.Cut(rest, "@"); ok {
		if why := digestFault(d); why != "" {
			return Ref{}, refError(s, why)
		}
		ref.Digest, rest = digest.Digest(d), name
	}
	host, repository, ok := strings.Cut(rest, "/")
	if !ok || !looksLikeHost(host) {
		return Ref{}, refError(s, "it names no registry; write registry.example.com/repository[:tag], or docker.io/library/name for Docker Hub")
	}
	ref.Registry = strings.ToLower(host)
	if !hostPattern.MatchString(ref.Registry) {
		return Ref{}, refError(s, fmt.Sprintf("%q is not a host name or address with an optional port", host))
	}
	if name, tag, ok := strings.Cut(repository, ":"); ok {
		if !tagPattern.MatchString(tag) {
			return Ref{}, refError(s, fmt.Sprintf("tag %q has characters that tags cannot have, or is too long", tag))
		}
		repository, ref.Tag = name, tag
	}
	if len(repository) > maxRepositoryLength || !repositoryPattern.MatchString(repository) {
		return Ref{}, refError(s, fmt.Sprintf("repository %q must be lower case letters, digits, and single separators (. _ - /)", repository))
	}
	if ref.Registry == "docker.io" && !strings.Contains(repository, "/") {
		repository = "library/" + repository
	}
	ref.Repository = repository
	return ref, nil
}

func refError(s, why string) error {
	const maxShown = 300 // a reference is attacker's text; an event has about a thousand characters
	if len(s) > maxShown {
		s = s[:maxShown] + "..."
	}
	return fmt.Errorf("reference %q: %s: %w", s, why, ErrInvalid)
}

func looksLikeHost(s string) bool {
	return s == "localhost" || strings.ContainsAny(s, ".:[")
}

// ParseDigest accepts sha256 and sha512 digests in lower case hexadecimal, and nothing else.
func ParseDigest(s string) (digest.Digest, error) {
	if why := digestFault(s); why != "" {
		return "", fmt.Errorf("%s: %w", why, ErrInvalid)
	}
	return digest.Digest(s), nil
}

// digestFault says what is wrong with a digest; empty when nothing is.
func digestFault(s string) string {
	d := digest.Digest(s)
	if err := d.Validate(); err != nil {
		return fmt.Sprintf("digest %.150q must be sha256: or sha512: and lower case hexadecimal digits", s)
	}
	if a := d.Algorithm(); a != digest.SHA256 && a != digest.SHA512 {
		return fmt.Sprintf("digest algorithm %q is not supported, only sha256 and sha512", a)
	}
	return ""
}

// String gives the reference back as it would be written, without the scheme for registries.
func (r Ref) String() string {
	var b strings.Builder
	if r.Scheme != "" && r.Scheme != SchemeOCI {
		b.WriteString(r.Scheme + "://")
	}
	b.WriteString(r.Name())
	if r.Tag != "" {
		b.WriteString(":" + r.Tag)
	}
	if r.Digest != "" {
		b.WriteString("@" + r.Digest.String())
	}
	return b.String()
}

// Name is registry/repository.
func (r Ref) Name() string { return r.Registry + "/" + r.Repository }

// Pinned returns the reference with its digest set.
func (r Ref) Pinned(d digest.Digest) Ref {
	r.Digest = d
	return r
}

// Reference is what stands behind the repository in a registry's URL: the digest, else the tag, else "latest".
func (r Ref) Reference() string {
	switch {
	case r.Digest != "":
		return r.Digest.String()
	case r.Tag != "":
		return r.Tag
	}
	return "latest"
}

// Loopback reports whether the registry is named by an address or name that leads to the machine itself: a loopback or
// unspecified address, "localhost", or a name below it (RFC 6761, section 6.3).
func (r Ref) Loopback() bool {
	host := r.Registry
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	addr = addr.Unmap()
	return addr.IsLoopback() || addr.IsUnspecified()
}
