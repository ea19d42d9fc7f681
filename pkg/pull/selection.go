package pull

import (
	"fmt"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/model-csi/model-csi/pkg/model"
)

// selection says which paths of a model a volume shows.
type selection struct {
	include, exclude []pattern
	// key is the same for selections that were written in the same way.
	key string
	// keep decides about one path; nil keeps all.
	keep func(path string) bool
}

// pattern is one line of gitignore syntax, translated to globs with "**".
type pattern struct {
	glob   glob
	negate bool
	// directory says that the pattern ended in a slash: it matches no file, only what is below a directory.
	directory bool
}

const (
	maxPatterns      = 1000
	maxPatternLength = 1024
)

// ParsePatterns splits the text of an attribute at commas and line ends. Spaces around a pattern, empty ones and lines
// that start with "#" are dropped. It fails with model.ErrInvalid for a pattern that cannot match anything.
func ParsePatterns(s string) ([]string, error) {
	var out []string
	for field := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ',' || r == '\n' || r == '\r' }) {
		field = strings.TrimSpace(field)
		if field == "" || strings.HasPrefix(field, "#") {
			continue
		}
		if _, err := parsePattern(field); err != nil {
			return nil, err
		}
		if out = append(out, field); len(out) > maxPatterns {
			return nil, fmt.Errorf("more than %d patterns: %w", maxPatterns, model.ErrInvalid)
		}
	}
	return out, nil
}

// parsePattern translates one pattern as gitignore(5) explains it: a pattern with a slash that is not at its end is
// bound to the root, another one matches at any depth, a slash at the end matches directories only, and what matches a
// directory matches everything below it.
func parsePattern(s string) (pattern, error) {
	var p pattern
	g := s
	if rest, ok := strings.CutPrefix(g, "!"); ok {
		p.negate, g = true, rest
	}
	g = strings.TrimPrefix(g, `\`) // an escaped leading ! or #
	if rest, ok := strings.CutSuffix(g, "/"); ok {
		p.directory, g = true, rest
	}
	if rest, ok := strings.CutPrefix(g, "/"); ok {
		g = rest
	} else if !strings.Contains(g, "/") {
		g = "**/" + g
	}
	p.glob = glob(g)
	if len(s) > maxPatternLength || strings.Trim(g, "*/") == "" && g != "**/*" && g != "**" || !doublestar.ValidatePattern(g) {
		return pattern{}, fmt.Errorf("pattern %.80q is not a valid gitignore pattern: %w", s, model.ErrInvalid)
	}
	return p, nil
}

// matches reports whether the pattern matches the path itself or a directory above it.
func (p pattern) matches(path string) bool {
	if !p.directory && p.glob.match(path) {
		return true
	}
	for i := strings.LastIndexByte(path, '/'); i > 0; i = strings.LastIndexByte(path[:i], '/') {
		if p.glob.match(path[:i]) {
			return true
		}
	}
	return false
}

// glob is a pattern of doublestar that has been validated, so that matching cannot fail.
type glob string

func (g glob) match(path string) bool {
	ok, _ := doublestar.Match(string(g), path)
	return ok
}

// lastMatch applies patterns in order; the last one that matches decides.
func lastMatch(patterns []pattern, path string, otherwise bool) bool {
	for i := len(patterns) - 1; i >= 0; i-- {
		if patterns[i].matches(path) {
			return !patterns[i].negate
		}
	}
	return otherwise
}

func newSelection(include, exclude []string) (selection, error) {
	var s selection
	for _, set := range []struct {
		text []string
		to   *[]pattern
	}{{include, &s.include}, {exclude, &s.exclude}} {
		for _, text := range set.text {
			p, err := parsePattern(text)
			if err != nil {
				return selection{}, err
			}
			*set.to = append(*set.to, p)
		}
	}
	if len(include)+len(exclude) == 0 {
		return s, nil
	}
	s.key = fmt.Sprintf("%q %q", include, exclude)
	s.keep = func(path string) bool {
		// A list that begins with an exception includes all else, as "exclude these" is meant.
		included := lastMatch(s.include, path, len(s.include) == 0 || s.include[0].negate)
		return included && !lastMatch(s.exclude, path, false)
	}
	return s, nil
}
