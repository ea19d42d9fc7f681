package model

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

const (
	// maxNameLength is NAME_MAX of every Linux filesystem in use.
	maxNameLength = 255
	// maxPathLength leaves room below PATH_MAX (4096) for the directories that a view and a pod put in front.
	maxPathLength = 2048
	// maxPathDepth is far above any model seen and keeps recursion bounded.
	maxPathDepth = 64
)

// CleanPath turns a path from an artifact into the form that trees use: relative, slash separated, without "." and
// empty components. One leading "./" and a trailing slash are dropped. Absolute paths, "..", NUL, empty and over-long
// paths are refused with ErrInvalid. A backslash is an ordinary character, as it is for Linux.
func CleanPath(p string) (string, error) {
	bad := func(why string) (string, error) {
		shown := p
		if len(shown) > maxNameLength {
			shown = shown[:maxNameLength] + "..."
		}
		return "", fmt.Errorf("path %q %s: %w", shown, why, ErrInvalid)
	}
	switch {
	case p == "":
		return bad("is empty")
	case len(p) > maxPathLength:
		return bad(fmt.Sprintf("is longer than %d bytes", maxPathLength))
	case strings.HasPrefix(p, "/"):
		return bad("is absolute")
	case strings.ContainsRune(p, 0):
		return bad("contains a NUL byte")
	case !utf8.ValidString(p):
		return bad("is not UTF-8")
	}
	var out []string
	for part := range strings.SplitSeq(p, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return bad("leaves the model's directory")
		case len(part) > maxNameLength:
			return bad(fmt.Sprintf("has a name longer than %d bytes", maxNameLength))
		}
		out = append(out, part)
	}
	if len(out) == 0 {
		return bad("names the model's directory itself")
	}
	if len(out) > maxPathDepth {
		return bad(fmt.Sprintf("is deeper than %d directories", maxPathDepth))
	}
	return strings.Join(out, "/"), nil
}
