package addresses

import (
	"fmt"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "[link-local metadata multicast loopback node] [] []",
		"default":                           "[link-local metadata multicast loopback node] [] []",
		"none":                              "[] [] []",
		"loopback, node":                    "[loopback node] [] []",
		"10.0.0.0/8":                        "[] [10.0.0.0/8] []",
		"10.1.2.3/8,fd00::1":                "[] [10.0.0.0/8 fd00::1/128] []",
		"default,10.0.0.0/8,!10.9.0.1":      "[link-local metadata multicast loopback node] [10.0.0.0/8] [10.9.0.1/32]",
		"metadata, ! 1.2.3.4":               "",
		"metadata,!::ffff:1.2.3.4":          "[metadata] [] [1.2.3.4/32]",
		"::ffff:10.0.0.0/104":               "[] [10.0.0.0/8] []",
		"::ffff:10.0.0.0/8":                 "",
		"!10.0.0.1":                         "",
		"default,none":                      "",
		"default,":                          "",
		"loop-back":                         "",
		"!loopback":                         "",
		"fe80::1%eth0":                      "",
		"registry.example.com":              "",
		"10.0.0.0/33":                       "",
		strings.Repeat("1.1.1.1,", 3) + "x": "",
	} {
		l, err := Parse(text)
		if (err != nil) != (want == "") {
			t.Errorf("Parse(%q): %v", text, err)
			continue
		}
		if got := fmt.Sprint(l.Groups, l.Blocked, l.Except); err == nil && got != want {
			t.Errorf("Parse(%q) = %s, want %s", text, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "none", "default,!10.0.0.1", "10.0.0.0/8, fd00::/8", "::ffff:1.2.3.4/100", "!"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := Parse(text)
		if err != nil {
			if len(err.Error()) > 600 {
				t.Fatalf("the error has %d bytes", len(err.Error()))
			}
			return
		}
		for _, p := range append(l.Blocked, l.Except...) {
			if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
				t.Fatalf("Parse(%q) has the prefix %s", text, p)
			}
		}
	})
}
