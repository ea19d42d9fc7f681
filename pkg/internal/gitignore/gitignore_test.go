package gitignore

import (
	"strings"
	"testing"
)

func TestDecide(t *testing.T) {
	tests := []struct {
		patterns  string
		path      string
		directory bool
		ignored   bool
		decided   bool
	}{
		{patterns: "*.bin", path: "a.bin", ignored: true, decided: true},
		{patterns: "*.bin", path: "sub/dir/a.bin", ignored: true, decided: true},
		{patterns: "/*.bin", path: "sub/a.bin"},
		{patterns: "sub/*.bin", path: "sub/a.bin", ignored: true, decided: true},
		{patterns: "sub/*.bin", path: "x/sub/a.bin"},
		{patterns: "**/sub/*.bin", path: "x/sub/a.bin", ignored: true, decided: true},
		{patterns: "cache/", path: "cache", directory: true, ignored: true, decided: true},
		{patterns: "cache/", path: "cache"},
		{patterns: "*.bin\n!keep.bin", path: "keep.bin", decided: true},
		{patterns: "!keep.bin\n*.bin", path: "keep.bin", ignored: true, decided: true},
		{patterns: "# a comment\n\n*.bin   ", path: "a.bin", ignored: true, decided: true},
		{patterns: `\#file`, path: "#file", ignored: true, decided: true},
		{patterns: `\!file`, path: "!file", ignored: true, decided: true},
		{patterns: "a{b,c}", path: "ab"},
		{patterns: "a{b,c}", path: "a{b,c}", ignored: true, decided: true},
		{patterns: "a?c", path: "abc", ignored: true, decided: true},
		{patterns: "[ab].txt", path: "b.txt", ignored: true, decided: true},
		{patterns: "docs/**", path: "docs/a/b", ignored: true, decided: true},
		{patterns: "*.bin\r\n", path: "a.bin", ignored: true, decided: true},
	}
	for _, tt := range tests {
		patterns, err := Read(strings.NewReader(tt.patterns))
		if err != nil {
			t.Errorf("%q: %v", tt.patterns, err)
			continue
		}
		if ignored, decided := Decide(patterns, tt.path, tt.directory); ignored != tt.ignored || decided != tt.decided {
			t.Errorf("%q on %q: ignored %v, decided %v", tt.patterns, tt.path, ignored, decided)
		}
	}
}

func TestErrorsNameTheLine(t *testing.T) {
	for text, want := range map[string]string{
		"*.bin\n[a":                          "line 2",
		"/":                                  "line 1",
		strings.Repeat("a", maxLength+1):     "line 1",
		strings.Repeat("a\n", maxPatterns+1): "more than",
	} {
		if _, err := Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func FuzzPatterns(f *testing.F) {
	f.Add("*.bin\n!a/**/b\n", "x/a.bin")
	f.Add(`\`, "a")
	f.Fuzz(func(t *testing.T, text, name string) {
		patterns, err := Read(strings.NewReader(text))
		if err != nil {
			return
		}
		_, first := Decide(patterns, name, true)
		if _, again := Decide(patterns, name, true); first != again {
			t.Error("the same question has two answers")
		}
	})
}
