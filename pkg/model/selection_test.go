package model

import (
	"errors"
	"testing"
)

func TestParseSelection(t *testing.T) {
	for text, want := range map[string]string{
		"":                             "",
		"  ":                           "",
		"linux/arm64":                  "linux/arm64",
		"linux/arm/v7":                 "linux/arm/v7",
		" image , linux/arm64 ":        "linux/arm64,image",
		"b=2,a=1":                      "a=1,b=2",
		`a=x\,y\\z`:                    `a=x\,y\\z`,
		"path=a/b,linux/amd64":         "linux/amd64,path=a/b",
		"a=":                           "a=",
		"a=b=c":                        "a=b=c",
		"quantization=q4_k_m,image":    "image,quantization=q4_k_m",
		"org.example/key with spaces=": "org.example/key with spaces=",
	} {
		s, err := ParseSelection(text)
		if err != nil || s.String() != want {
			t.Errorf("%q: %q, %v, want %q", text, s, err, want)
		}
	}
	for _, bad := range []string{"arm64", "linux/", "/arm64", "linux/arm64/v8/x", "=x", "a=1,a=2", "linux/amd64,linux/arm64", "image,", "Image", "a b", ","} {
		if s, err := ParseSelection(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %q, %v", bad, s, err)
		}
	}
}

func FuzzParseSelection(f *testing.F) {
	for _, s := range []string{"linux/arm64,image,a=b", `a=\,\\`, "image", "=", `\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSelection(text)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Errorf("error without its kind: %v", err)
			}
			return
		}
		again, err := ParseSelection(s.String())
		if err != nil || again.String() != s.String() {
			t.Errorf("%q is written %q, which is read as %q, %v", text, s, again, err)
		}
	})
}
