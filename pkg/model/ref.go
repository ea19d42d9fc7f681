package model

import (
	_ "crypto/sha256" // the algorithms of digests
	_ "crypto/sha512"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Ref names a model. What each field holds depends on the scheme:
//
//	                 Registry          Repository                    Tag
//	oci              host[:port]       path                          tag
//	ollama           host[:port]       namespace/name                tag
//	hf               huggingface.co    [datasets/|spaces/][org/]name revision
//	model-registry   host[:port] or "" name of the registered model  name of the version
//
// A Ref that ParseRef returned is safe to put into messages and paths of URLs: it has no control characters, no
// component that is "." or "..", and fields of bounded length.
type Ref struct {
	// Scheme selects the source; "oci" for registries.
	Scheme string
	// Registry is the host, with a port where one was given, lower case. It is empty only for the model registry that
	// the operator has configured.
	Registry string
	// Repository is the path below the registry. The case of its letters is kept.
	Repository string
	// Tag is empty when none was given. It is not escaped: a revision can have slashes.
	Tag string
	// Digest is empty when none was given. With both, the digest decides and the tag is for people.
	Digest digest.Digest
}

// ParseRef reads a reference as users write it. Errors wrap ErrInvalid and show what was expected.
func ParseRef(s string) (Ref, error) {
	name, rest, ok := strings.Cut(s, "://")
	if !ok {
		name, rest = SchemeOCI, s
	}
	scheme, known := schemes[strings.ToLower(name)]
	if !known {
		return Ref{}, refError(s, unknownScheme(name))
	}
	if rest == "" {
		return Ref{}, refError(s, "it is empty; use "+scheme.grammar)
	}
	ref, why := scheme.parse(rest)
	if why != "" {
		return Ref{}, refError(s, why)
	}
	return ref, nil
}

func refError(s, why string) error {
	const maxShown = 300 // a reference is attacker's text; an event has about a thousand characters
	if len(s) > maxShown {
		s = s[:maxShown] + "..."
	}
	return fmt.Errorf("reference %q: %s: %w", s, why, ErrInvalid)
}

// cutDigest takes a digest off the end of a reference.
func cutDigest(s string) (rest string, d digest.Digest, why string) {
	at := strings.LastIndexByte(s, '@')
	if at < 0 {
		return s, "", ""
	}
	if why = digestFault(s[at+1:]); why != "" {
		return "", "", why
	}
	return s[:at], digest.Digest(s[at+1:]), ""
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

// scheme is the reference's entry of the table; a Ref that names none is one of a registry.
func (r Ref) scheme() scheme {
	if s, ok := schemes[r.Scheme]; ok {
		return s
	}
	return schemes[SchemeOCI]
}

// String gives the reference back as it would be written, without the scheme for registries. ParseRef reads it back.
func (r Ref) String() string {
	text := r.scheme().write(r)
	if r.Digest != "" {
		text += "@" + r.Digest.String()
	}
	if r.Scheme == "" || r.Scheme == SchemeOCI {
		return text
	}
	return r.Scheme + "://" + text
}

// Authority names who answers for the repository: the host, with the scheme in front unless it speaks the protocol of
// registries. Ollama's hosts are registries; the Hugging Face Hub of a host is not the registry of that host.
func (r Ref) Authority() string {
	if s := r.scheme(); s.realm != "" {
		return s.realm + "://" + r.Registry
	}
	return r.Registry
}

// Name names the repository: the same for two references exactly if they lead to the same place. Permissions and what
// is known of a repository are kept under it.
func (r Ref) Name() string { return r.Authority() + "/" + r.Repository }

// Pinned returns the reference with its digest set.
func (r Ref) Pinned(d digest.Digest) Ref {
	r.Digest = d
	return r
}

// Reference is what stands behind the repository in a source's URL: the digest, else the tag, else what the scheme
// takes for granted: "latest" at registries, "main" at the Hugging Face Hub, nothing at model registries.
func (r Ref) Reference() string {
	switch {
	case r.Digest != "":
		return r.Digest.String()
	case r.Tag != "":
		return r.Tag
	}
	return r.scheme().untagged
}

// Moving reports whether people expect the reference to mean something else tomorrow, as with the tag "latest" of
// images or with a branch.
func (r Ref) Moving() bool {
	return r.Digest == "" && r.scheme().moving(r.Tag)
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
