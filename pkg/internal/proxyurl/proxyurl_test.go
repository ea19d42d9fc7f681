package proxyurl

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"http://p.example.com:3128": "http://p.example.com:3128", "p.example.com:3128": "http://p.example.com:3128",
		"https://u:canary@p": "https://u:canary@p", "socks5://[::1]:1080": "socks5://[::1]:1080",
		"ftp://u:canary@p": "", "http://": "", "http://u:canary@p:port": "", "http://u:canary@p\x00": "", "//canary": "",
	} {
		u, err := Parse(text)
		switch {
		case want == "" && err == nil:
			t.Errorf("Parse(%q) = %s", text, u)
		case want == "" && strings.Contains(err.Error(), "canary"):
			t.Errorf("the error for %q shows it: %v", text, err)
		case want != "" && (err != nil || u.String() != want):
			t.Errorf("Parse(%q) = %s, %v", text, u, err)
		}
	}
	if u, err := Parse(""); u != nil || err != nil {
		t.Errorf("no proxy: %v, %v", u, err)
	}
}
