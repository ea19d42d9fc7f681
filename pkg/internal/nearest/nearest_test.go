package nearest

import (
	"strings"
	"testing"
)

func TestOf(t *testing.T) {
	known := []string{"reference", "pullPolicy", "include", "exclude", "node-id", "root"}
	for word, want := range map[string]string{
		"refrence":                 "reference",
		"pull-policy":              "pullPolicy",
		"PULLPOLICY":               "pullPolicy",
		"nodeId":                   "node-id",
		"node_id":                  "node-id",
		"excludes":                 "exclude",
		"includ":                   "include",
		strings.Repeat("q", 1<<20): "reference",
	} {
		if got := Of(word, known); got != want {
			t.Errorf("Of(%.20q) = %q, want %q", word, got, want)
		}
	}
}

func TestOfNothingKnown(t *testing.T) {
	if got := Of("x", nil); got != "" {
		t.Errorf("Of with nothing known = %q, want none", got)
	}
}

func TestOfTieTakesTheFirst(t *testing.T) {
	if got := Of("bat", []string{"cat", "hat"}); got != "cat" {
		t.Errorf("Of = %q, want the first of equals", got)
	}
}
