package format

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestDocumentation keeps the README's table of formats equal to the formats.
func TestDocumentation(t *testing.T) {
	const readme, begin, end = "../../README.md", "<!-- begin formats -->\n", "<!-- end formats -->\n"
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no markers for the formats", readme)
	}
	var table strings.Builder
	table.WriteString("| format | what is read |\n| --- | --- |\n")
	for _, d := range Names() {
		fmt.Fprintf(&table, "| `%s` | %s |\n", d.Name, d.Reads)
	}
	if old == table.String() {
		return
	}
	if !*update {
		t.Fatalf("the table of formats in %s is out of date: run make generate", readme)
	}
	if err := os.WriteFile(readme, []byte(before+begin+table.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
