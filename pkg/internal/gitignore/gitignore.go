// Package gitignore matches paths against patterns in the syntax of gitignore(5).
package gitignore

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Pattern is one line, translated to a glob with "**".
type Pattern struct {
	glob string
	// negate says that the line began with "!".
	negate bool
	// directory says that the line ended in a slash.
	directory bool
}

const (
	maxPatterns = 10_000
	maxLength   = 4096
)

var errPattern = errors.New("is not a valid gitignore pattern")

// Parse reads one pattern. ok is false for an empty line and a comment.
func Parse(line string) (p Pattern, ok bool, err error) {
	g := trimSpaces(strings.TrimSuffix(line, "\r"))
	if g == "" || strings.HasPrefix(g, "#") {
		return Pattern{}, false, nil
	}
	if rest, cut := strings.CutPrefix(g, "!"); cut {
		p.negate, g = true, rest
	} else if strings.HasPrefix(g, `\!`) || strings.HasPrefix(g, `\#`) {
		g = g[1:]
	}
	if rest, cut := strings.CutSuffix(g, "/"); cut {
		p.directory, g = true, rest
	}
	nothing := strings.Trim(g, "/") == ""
	if rest, cut := strings.CutPrefix(g, "/"); cut {
		g = rest
	} else if !strings.Contains(g, "/") {
		g = "**/" + g
	}
	// Braces are ordinary characters for git and alternatives for doublestar.
	p.glob = strings.NewReplacer(`\{`, `\{`, `\}`, `\}`, `{`, `\{`, `}`, `\}`).Replace(g)
	if nothing || len(line) > maxLength || !doublestar.ValidatePattern(p.glob) {
		return Pattern{}, false, fmt.Errorf("%.80q %w", line, errPattern)
	}
	return p, true, nil
}

// trimSpaces drops trailing spaces that no backslash protects.
func trimSpaces(s string) string {
	for strings.HasSuffix(s, " ") && !strings.HasSuffix(s, `\ `) {
		s = strings.TrimSuffix(s, " ")
	}
	return s
}

// Read parses a file of patterns. Errors name the line.
func Read(r io.Reader) ([]Pattern, error) {
	var out []Pattern
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		p, ok, err := Parse(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if ok {
			out = append(out, p)
		}
		if len(out) > maxPatterns {
			return nil, fmt.Errorf("line %d: more than %d patterns", n, maxPatterns)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("a line cannot be read: %w", err)
	}
	return out, nil
}

// Decide looks for the last pattern that matches the path itself, which is relative and slash separated. decided is
// false where none does. A directory that is ignored is to be passed over with everything in it: what lies below an
// ignored directory cannot be brought back by a later pattern, as with git.
func Decide(patterns []Pattern, name string, directory bool) (ignored, decided bool) {
	for i := len(patterns) - 1; i >= 0; i-- {
		p := patterns[i]
		if p.directory && !directory {
			continue
		}
		if ok, err := doublestar.Match(p.glob, path.Clean(name)); err == nil && ok {
			return !p.negate, true
		}
	}
	return false, false
}
