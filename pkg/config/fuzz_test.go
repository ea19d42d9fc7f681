package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzLoad holds whatever the file says to two promises: an accepted file gives valid settings that survive being
// written out again, and a refused one is named.
func FuzzLoad(f *testing.F) {
	f.Add("root: /a\ncache-limit: 1.5Gi\ncache-reserve: 3%\n")
	f.Add("node-id: \"\"\nmax-files: 7\nlog-level: debug\n")
	f.Add("nodeId: x\nroot: [1, {a: b}]\n")
	f.Add("a: &a [*a, *a]\n? {x: y}\n: 1\n")
	f.Add("pull-linger: 1h\ngrant-ttl: 1ns\n---\nroot: /b\n")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := fromFile(path)
		if err != nil {
			if !strings.Contains(err.Error(), path) {
				t.Fatalf("the error does not name the file: %v", err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Fatalf("what Validate refuses was accepted: %v", err)
		}
		again := base()
		for _, s := range settings {
			if err := s.set(&again, s.read(&c)); err != nil {
				t.Fatal(err)
			}
		}
		if again != c {
			t.Fatalf("written out and read again:\n%+v\nwas\n%+v", again, c)
		}
	})
}
