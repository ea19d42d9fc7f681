// Package nearest finds what somebody probably meant by a word that is not known.
package nearest

import (
	"strings"

	"github.com/agext/levenshtein"
)

// Of returns the known word that takes the fewest edits to reach from word, letter case and the separators "-", "_"
// and "." aside. Of several equally near ones it is the first. It is empty only when known is.
func Of(word string, known []string) string {
	best, distance := "", -1
	word = fold(word)
	for _, k := range known {
		if d := levenshtein.Distance(word, fold(k), nil); distance < 0 || d < distance {
			best, distance = k, d
		}
	}
	return best
}

// maxLength bounds the work for a hostile word: the distance takes time proportional to both lengths, and no word that
// is known here comes near this length.
const maxLength = 128

func fold(s string) string {
	s = strings.NewReplacer("-", "", "_", "", ".", "").Replace(strings.ToLower(s))
	return s[:min(len(s), maxLength)]
}
