package model

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

var (
	// The grammar of repositories and tags is that of the OCI distribution specification, "Pulling manifests".
	repositoryPattern = regexp.MustCompile(`^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`)
	tagPattern        = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)
	hostPattern       = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]*[a-z0-9])?)(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[0-9]{1,5})?$|^\[[0-9a-f:.]+\](:[0-9]{1,5})?$`)
	// Ollama's own rules for the parts of a name.
	ollamaNamespacePattern = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_-]{0,79}$`)
	ollamaPartPattern      = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,79}$`)
	// The Hub's rule for an organisation and for a name; "--", ".." and ".git" at the end are excluded as well.
	hubPartPattern = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9._-]{0,94}[a-zA-Z0-9_])?$`)
	commitPattern  = regexp.MustCompile(`^[0-9a-f]{40}$`)
	// What a single component is in front of, in a reference to a model registry: a name of the domain system, as
	// opposed to the name of a model with a number behind its last dot.
	domainPattern = regexp.MustCompile(`\.[a-z]{2,}$`)
)

const (
	// A name longer than this is refused by registries and does not fit into file names derived from it.
	maxRepositoryLength = 255
	// A host name has 253 characters at most (RFC 1035), and a port six.
	maxHostLength = 260
)

// IsCommit reports whether a revision is the full hash of a git commit, which always means the same.
func IsCommit(revision string) bool { return commitPattern.MatchString(revision) }

func latestMoves(tag string) bool { return tag == "" || tag == latest }

func looksLikeHost(s string) bool {
	return s == "localhost" || strings.ContainsAny(s, ".:[")
}

// host reads a host in any case of letters.
func host(s string) (lower, why string) {
	lower = strings.ToLower(s)
	if len(s) > maxHostLength || !hostPattern.MatchString(lower) {
		return "", fmt.Sprintf("%q is not a host name or address with an optional port", s)
	}
	return lower, ""
}

// cutTag takes a tag off the end of what follows the host.
func cutTag(s string) (rest, tag, why string) {
	rest, tag, ok := strings.Cut(s, ":")
	if ok && !tagPattern.MatchString(tag) {
		return "", "", fmt.Sprintf("tag %q has characters that tags cannot have, or is too long", tag)
	}
	return rest, tag, ""
}

func writeTagged(r Ref) string {
	if r.Tag == "" {
		return r.Registry + "/" + r.Repository
	}
	return r.Registry + "/" + r.Repository + ":" + r.Tag
}

func parseOCI(rest string) (ref Ref, why string) {
	ref.Scheme = SchemeOCI
	if rest, ref.Digest, why = cutDigest(rest); why != "" {
		return ref, why
	}
	name, repository, ok := strings.Cut(rest, "/")
	if !ok || !looksLikeHost(name) {
		return ref, "it names no registry; write registry.example.com/repository[:tag], or docker.io/library/name for Docker Hub"
	}
	if ref.Registry, why = host(name); why != "" {
		return ref, why
	}
	if repository, ref.Tag, why = cutTag(repository); why != "" {
		return ref, why
	}
	if len(repository) > maxRepositoryLength || !repositoryPattern.MatchString(repository) {
		why = fmt.Sprintf("repository %q must be lower case letters, digits, and single separators (. _ - /)", repository)
		if ref.Registry == HubHost || ref.Registry == "hf.co" {
			why += "; for the Hugging Face Hub write " + hubGrammar
		}
		return ref, why
	}
	if ref.Registry == "docker.io" && !strings.Contains(repository, "/") {
		repository = "library/" + repository
	}
	ref.Repository = repository
	return ref, ""
}

// parseOllama reads Ollama's names. A namespace has no dot, so that a first component with one is a host.
func parseOllama(rest string) (ref Ref, why string) {
	ref = Ref{Scheme: SchemeOllama, Registry: ollamaHost}
	if rest, ref.Digest, why = cutDigest(rest); why != "" {
		return ref, why
	}
	first, path, ok := strings.Cut(rest, "/")
	if ok && (looksLikeHost(first) || strings.Contains(path, "/")) {
		if ref.Registry, why = host(first); why != "" {
			return ref, why
		}
		rest = path
	}
	if rest, ref.Tag, why = cutTag(rest); why != "" {
		return ref, why
	}
	namespace, name, ok := strings.Cut(rest, "/")
	if !ok {
		namespace, name = ollamaNamespace, rest
	}
	switch {
	case !ollamaNamespacePattern.MatchString(namespace):
		why = fmt.Sprintf("namespace %q must be letters, digits, - and _, 80 at most", namespace)
	case !ollamaPartPattern.MatchString(name):
		why = fmt.Sprintf("name %q must be letters, digits, - . and _, 80 at most; write %s", name, ollamaGrammar)
	case ref.Tag != "" && !ollamaPartPattern.MatchString(ref.Tag):
		why = fmt.Sprintf("tag %q is longer than the 80 characters of Ollama's tags", ref.Tag)
	}
	ref.Repository = namespace + "/" + name
	return ref, why
}

// parseHub reads the name of a model, dataset or space of the Hugging Face Hub. A revision is everything behind the
// first "@", with or without its slashes escaped.
func parseHub(rest string) (ref Ref, why string) {
	ref = Ref{Scheme: SchemeHub, Registry: HubHost}
	name, revision, given := strings.Cut(rest, "@")
	if i := strings.LastIndexByte(rest, '@'); given && strings.Contains(rest[i:], ":") {
		var before string
		if before, ref.Digest, why = cutDigest(rest); why != "" {
			return ref, why
		}
		name, revision, given = strings.Cut(before, "@")
	}
	if given {
		if ref.Tag, why = revisionOf(revision); why != "" {
			return ref, why
		}
	}
	kind, after, ok := strings.Cut(name, "/")
	switch {
	case ok && (kind == "datasets" || kind == "spaces"):
		kind, name = kind+"/", after
	case ok && kind == "models": // what is meant without a kind
		kind, name = "", after
	default:
		kind = ""
	}
	parts := strings.Split(name, "/")
	if len(parts) > 2 {
		return ref, fmt.Sprintf("%q has more than an organisation and a name; write %s, and choose files with the include attribute", name, hubGrammar)
	}
	for _, p := range parts {
		if !hubPartPattern.MatchString(p) || strings.Contains(p, "--") || strings.Contains(p, "..") || strings.HasSuffix(p, ".git") {
			return ref, fmt.Sprintf("%q is not an organisation or name of the Hugging Face Hub; write %s", p, hubGrammar)
		}
	}
	if kind == "" && slices.Contains([]string{"datasets", "spaces", "models"}, parts[0]) {
		return ref, "it names no repository; write " + hubGrammar
	}
	ref.Repository = kind + name
	return ref, ""
}

// revisionOf reads a branch, a tag or a commit. The rules are those of git-check-ref-format(1).
func revisionOf(escaped string) (revision, why string) {
	revision, err := url.PathUnescape(escaped)
	bad := err != nil || !plain(revision) || strings.ContainsAny(revision, ` ~^:?*[\`) || strings.Contains(revision, "..") ||
		strings.Contains(revision, "@{") || revision == "@" || strings.HasSuffix(revision, ".")
	for part := range strings.SplitSeq(revision, "/") {
		bad = bad || part == "" || strings.HasPrefix(part, ".") || strings.HasSuffix(part, ".lock")
	}
	if bad {
		return "", fmt.Sprintf("revision %.100q is not a branch, a tag or a commit", escaped)
	}
	return revision, ""
}

func writeHub(r Ref) string {
	if r.Tag == "" {
		return r.Repository
	}
	return r.Repository + "@" + escape(r.Tag)
}

// parseModelRegistry reads [host/]model[/version]. Three components are unambiguous; of two, the first is a host if it
// can be nothing else: with a port, an address, or a domain name. An empty host ("model-registry:///a.b/1") is the
// registry that the operator has configured.
func parseModelRegistry(rest string) (ref Ref, why string) {
	ref.Scheme = SchemeModelRegistry
	if strings.Contains(rest, "@") {
		return ref, "versions of a model registry have neither digests nor revisions; write %40 for an @ in a name, and " + modelRegistryGrammar
	}
	parts := strings.Split(rest, "/")
	switch {
	case len(parts) > 1 && parts[0] == "":
		parts = parts[1:]
		if len(parts) > 2 {
			return ref, "it has too many components; write " + modelRegistryGrammar
		}
	case len(parts) == 3, len(parts) == 2 && standsAlone(parts[0]):
		if ref.Registry, why = host(parts[0]); why != "" {
			return ref, why
		}
		parts = parts[1:]
	case len(parts) > 3:
		return ref, "it has too many components; write " + modelRegistryGrammar + ", and %2F for a slash in a name"
	}
	for i, to := range []*string{&ref.Repository, &ref.Tag} {
		if i >= len(parts) {
			break
		}
		if *to, why = nameOf(parts[i]); why != "" {
			return ref, why
		}
	}
	return ref, ""
}

// standsAlone reports whether a component is a host without the help of two more behind it.
func standsAlone(s string) bool {
	s = strings.ToLower(s)
	_, err := netip.ParseAddr(s)
	return s == "localhost" || err == nil || strings.ContainsAny(s, ":[") || hostPattern.MatchString(s) && domainPattern.MatchString(s)
}

// nameOf reads the escaped name of a registered model or of its version, which people choose freely.
func nameOf(escaped string) (name, why string) {
	name, err := url.PathUnescape(escaped)
	bad := err != nil || !plain(name) || strings.TrimSpace(name) != name
	for part := range strings.SplitSeq(name, "/") {
		bad = bad || part == "." || part == ".."
	}
	if bad {
		return "", fmt.Sprintf("%.100q is not the name of a model or version, with %%XX for special characters; write %s", escaped, modelRegistryGrammar)
	}
	return name, ""
}

func writeModelRegistry(r Ref) string {
	text := escape(r.Repository)
	if r.Tag != "" {
		text += "/" + escape(r.Tag)
	}
	switch {
	case r.Registry != "":
		return r.Registry + "/" + text
	case r.Tag != "" && standsAlone(escape(r.Repository)):
		return "/" + text
	}
	return text
}

// plain reports whether a text is short, printable and not empty.
func plain(s string) bool {
	return s != "" && len(s) <= maxRepositoryLength && utf8.ValidString(s) &&
		!strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// escape writes everything but RFC 3986's unreserved characters as %XX, so that no separator of a reference is left.
func escape(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
