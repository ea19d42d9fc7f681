package pack_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The table of conformance names tests that exist, and names one in every row of a rule.
func TestConformanceNamesTests(t *testing.T) {
	const root = "../.."
	text, err := os.ReadFile(filepath.Join(root, "docs/conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([a-z/]+) (Test[A-Za-z]+)`").FindAllStringSubmatch(string(text), -1)
	if len(named) < 30 {
		t.Errorf("only %d tests are named", len(named))
	}
	for _, n := range named {
		sources, err := filepath.Glob(filepath.Join(root, n[1], "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, file := range sources {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			found = found || strings.Contains(string(source), "func "+n[2]+"(t *testing.T)")
		}
		if !found {
			t.Errorf("%s has no %s", n[1], n[2])
		}
	}
	rules, _, _ := strings.Cut(string(text), "## Where the specification says nothing")
	for line := range strings.Lines(rules) {
		if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| rule") && !strings.HasPrefix(line, "| ---") && !strings.Contains(line, " Test") {
			t.Errorf("no test holds: %s", line)
		}
	}
}
