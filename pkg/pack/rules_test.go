package pack

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The documentation has every rule, in the order in which they are asked.
func TestRulesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/packing.md")
	if err != nil {
		t.Fatal(err)
	}
	rest := string(text)
	for _, r := range rules {
		row := documented(r)
		_, after, ok := strings.Cut(rest, row)
		if !ok {
			t.Errorf("docs/packing.md does not have, or not in this order:\n%s", row)
			continue
		}
		rest = after
	}
}

func documented(r rule) string {
	var words []string
	for _, list := range [][]string{r.names, r.stems, r.extensions} {
		for _, w := range list {
			words = append(words, "`"+w+"`")
		}
	}
	return fmt.Sprintf("| %s | %s |\n", strings.Join(words, " "), r.category)
}
