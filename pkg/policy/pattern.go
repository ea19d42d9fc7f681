package policy

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/model-csi/model-csi/pkg/internal/nearest"
	"github.com/model-csi/model-csi/pkg/model"
)

// Pattern describes repositories. "*" stands for any text within one component of a path, "**" for any text across
// components; everything else stands for itself, upper or lower case. A pattern without a scheme begins with a host and
// matches whatever leads to that host, by any scheme. One with a scheme ("hf://org/*") matches references of that scheme,
// in the short form that users write or with the host. Tags and digests have no part in it.
type Pattern struct {
	text   string
	scheme string // empty for any
	expr   *regexp.Regexp
}

// maxPattern is longer than any name of a repository.
const maxPattern = 512

// schemes are those that a pattern may name.
var schemes = []string{model.SchemeOCI, model.SchemeOllama, model.SchemeHub, model.SchemeModelRegistry}

// ParsePattern reads a pattern. Errors wrap model.ErrInvalid, show the pattern and say what to write.
func ParsePattern(text string) (Pattern, error) {
	bad := func(why string) (Pattern, error) {
		return Pattern{}, fmt.Errorf("pattern %.100q %s: %w", text, why, model.ErrInvalid)
	}
	p := Pattern{text: text}
	path := strings.ToLower(text)
	if before, after, ok := strings.Cut(path, "://"); ok {
		if !slices.Contains(schemes, before) {
			return bad(fmt.Sprintf("has an unknown scheme; did you mean %s://?", nearest.Of(before, schemes)))
		}
		p.scheme, path = before, after
	}
	host, rest, deep := strings.Cut(path, "/")
	last := path[strings.LastIndexByte(path, '/')+1:]
	switch {
	case path == "":
		return bad("is empty; ** matches everything")
	case len(text) > maxPattern:
		return bad(fmt.Sprintf("is longer than %d bytes", maxPattern))
	case strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f || r == 0xfffd }):
		return bad("has white space or control characters")
	case strings.Contains(path, "@"), (deep || p.short()) && strings.Contains(last, ":"):
		return bad("has a tag or digest; patterns name repositories")
	case strings.Contains(path, "***"), strings.ContainsAny(path, `?{}\`), strings.ContainsAny(rest, "[]"):
		return bad("has special characters other than * and **")
	case strings.Contains("/"+path+"/", "//"):
		return bad("has an empty component")
	case !deep && path != "**" && !p.short():
		return bad("names no repository; write " + text + "/** for all of a registry")
	}
	if deep {
		if host = plainHost(host); strings.ContainsAny(host, "[]") && !isIPv6(host) {
			return bad("has brackets that are not around an IPv6 address")
		}
		if host == "docker.io" && !strings.Contains(rest, "/") && !strings.Contains(rest, "**") {
			rest = "library/" + rest // as references to Docker Hub are read
		}
		path = host + "/" + rest
	}
	p.expr = expression(path)
	return p, nil
}

// short reports whether references of the pattern's scheme can be written without a host.
func (p Pattern) short() bool { return p.scheme != "" && p.scheme != model.SchemeOCI }

// expression translates a pattern. Go's regular expressions take linear time, whatever the pattern and the reference.
func expression(path string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	components := strings.Split(path, "/")
	for i, c := range components {
		if c == "**" && i+1 < len(components) {
			b.WriteString(`(?:.+/)?`) // any number of components, none included
			continue
		}
		if c == "*" {
			c = `[^/]+`
		} else {
			c = strings.ReplaceAll(regexp.QuoteMeta(c), `\*\*`, `.*`)
			c = strings.ReplaceAll(c, `\*`, `[^/]*`)
		}
		if b.WriteString(c); i+1 < len(components) {
			b.WriteString("/")
		}
	}
	b.WriteString(`\z`)
	return regexp.MustCompile(b.String())
}

// String is the pattern as it was written.
func (p Pattern) String() string { return p.text }

// ollamaHost is the host of names at Ollama that name none.
var ollamaHost = func() string {
	ref, _ := model.ParseRef(model.SchemeOllama + "://x")
	return ref.Registry
}()

// Match reports whether the pattern describes the repository of the reference. Ollama's hosts are registries, so the same
// repository is the same to a rule, whether it is named as Ollama does or as a registry's.
func (p Pattern) Match(ref model.Ref) bool {
	host := plainHost(strings.ToLower(ref.Registry))
	registry := ref.Scheme == "" || ref.Scheme == model.SchemeOCI || ref.Scheme == model.SchemeOllama
	switch p.scheme {
	case "":
	case model.SchemeOCI:
		if !registry {
			return false
		}
	case model.SchemeOllama:
		if ref.Scheme != model.SchemeOllama && (!registry || host != ollamaHost) {
			return false
		}
	default:
		if ref.Scheme != p.scheme {
			return false
		}
	}
	for _, name := range p.names(host, strings.ToLower(ref.Repository)) {
		if p.expr.MatchString(name) {
			return true
		}
	}
	return false
}

// names are the ways to write a repository that the pattern is compared with: with the host, and as people write the
// names of the pattern's scheme.
func (p Pattern) names(host, repository string) []string {
	names := []string{host + "/" + repository}
	switch {
	case p.scheme == model.SchemeOllama && host == ollamaHost:
		names = append(names, repository, strings.TrimPrefix(repository, "library/"))
	case p.scheme == model.SchemeHub, p.scheme == model.SchemeModelRegistry && host == "":
		names = append(names, repository)
	}
	return names
}

// isIPv6 reports whether the host, in the form of plainHost, is an IPv6 address.
func isIPv6(host string) bool {
	inside, ok := strings.CutPrefix(host, "[")
	address, port, closed := strings.Cut(inside, "]")
	addr, err := netip.ParseAddr(address)
	return ok && closed && err == nil && addr.Is6() && !strings.ContainsAny(port, "[]")
}

// hubAliases are the names under which Docker Hub serves the same as under docker.io.
var hubAliases = []string{"index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"}

// plainHost gives hosts that are the same one form, so that no other spelling slips past a rule: the default port, zeros
// before a port, the forms of an IPv6 address, and the names of Docker Hub.
func plainHost(host string) string {
	name, port := host, ""
	if h, p, err := net.SplitHostPort(host); err == nil {
		name, port = h, p
	}
	if inside, ok := strings.CutPrefix(name, "["); ok && strings.HasSuffix(inside, "]") {
		name = strings.TrimSuffix(inside, "]")
	}
	name = strings.TrimSuffix(name, ".")
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		if port = strconv.FormatUint(n, 10); n == 443 {
			port = ""
		}
	}
	if addr, err := netip.ParseAddr(name); err == nil {
		if name = addr.Unmap().String(); strings.Contains(name, ":") {
			name = "[" + name + "]"
		}
	}
	if port == "" && slices.Contains(hubAliases, name) {
		name = "docker.io"
	}
	if port != "" {
		name += ":" + port
	}
	return name
}
