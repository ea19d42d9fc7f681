package model

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// Selection says which manifest is wanted where a reference leads to several: to the entries of an index.
type Selection struct {
	// Platform is os/architecture[/variant], such as "linux/arm64"; only an entry for it will do. Empty means that the
	// platform does not matter.
	Platform string
	// Node is the platform of whoever asks. It decides between several entries when no Platform is given.
	Node string
	// Labels select an entry of an index whose entries carry labels; every one must be equal. Empty means that labels
	// do not matter.
	Labels map[string]string
	// Image asks for the image where an index offers an image and a model artifact side by side.
	Image bool
}

// wordImage is how users ask for Selection.Image.
const wordImage = "image"

// platformPattern leaves out what no producer writes, so that a typing error is not a platform.
var platformPattern = regexp.MustCompile(`^[a-z0-9._-]+/[a-z0-9._-]+(/[a-z0-9._-]+)?$`)

// ParseSelection reads a selection as users write it: terms with commas between them, each the word "image", a
// platform (os/architecture[/variant]) or a label (key=value). A comma, or a backslash, that belongs to a label is
// written with a backslash before it. Errors wrap ErrInvalid.
func ParseSelection(s string) (Selection, error) {
	var out Selection
	if strings.TrimSpace(s) == "" {
		return out, nil
	}
	for _, term := range splitTerms(s) {
		key, value, label := strings.Cut(term, "=")
		key = strings.TrimSpace(key)
		_, again := out.Labels[key]
		switch {
		case label && key == "":
			return Selection{}, fmt.Errorf("label %.100q has no key: %w", term, ErrInvalid)
		case label && again:
			return Selection{}, fmt.Errorf("label %.100q is given twice: %w", key, ErrInvalid)
		case label:
			if out.Labels == nil {
				out.Labels = make(map[string]string)
			}
			out.Labels[key] = strings.TrimSpace(value)
		case key == wordImage:
			out.Image = true
		case !platformPattern.MatchString(key):
			return Selection{}, fmt.Errorf("%.100q is neither a platform such as linux/arm64, nor a label key=value, nor the word image: %w", key, ErrInvalid)
		case out.Platform != "":
			return Selection{}, fmt.Errorf("two platforms, %s and %.100s: %w", out.Platform, key, ErrInvalid)
		default:
			out.Platform = key
		}
	}
	return out, nil
}

// splitTerms splits at commas without a backslash before them and removes the backslashes.
func splitTerms(s string) []string {
	var out []string
	var term strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && (s[i+1] == ',' || s[i+1] == '\\'):
			i++
			term.WriteByte(s[i])
		case s[i] == ',':
			out = append(out, term.String())
			term.Reset()
		default:
			term.WriteByte(s[i])
		}
	}
	return append(out, term.String())
}

// String is the selection as [ParseSelection] reads it, the same for equal selections, without Node.
func (s Selection) String() string {
	var terms []string
	if s.Platform != "" {
		terms = append(terms, s.Platform)
	}
	if s.Image {
		terms = append(terms, wordImage)
	}
	escape := strings.NewReplacer(`\`, `\\`, `,`, `\,`)
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		terms = append(terms, escape.Replace(k+"="+s.Labels[k]))
	}
	return strings.Join(terms, ",")
}
