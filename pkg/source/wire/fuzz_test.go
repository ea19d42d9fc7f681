package wire

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/model-csi/model-csi/pkg/model"
)

func FuzzContentRange(f *testing.F) {
	for _, seed := range []string{"bytes 0-99/200", "bytes 0-99/*", "bytes */200", "bytes 5-4/9", "lines 0-1/2", "bytes -1-2/3", "bytes 0-9223372036854775807/*"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseContentRange(s)
		if err != nil {
			return
		}
		if r.First == -1 {
			if r.Last != -1 || r.Total < 0 {
				t.Fatalf("%q: %+v", s, r)
			}
			return
		}
		if r.First < 0 || r.Last < r.First || (r.Total != -1 && r.Last >= r.Total) {
			t.Fatalf("%q: %+v", s, r)
		}
		total := "*"
		if r.Total >= 0 {
			total = fmt.Sprint(r.Total)
		}
		if again, err := ParseContentRange(fmt.Sprintf("bytes %d-%d/%s", r.First, r.Last, total)); err != nil || again != r {
			t.Fatalf("%q: %+v is not stable: %+v, %v", s, r, again, err)
		}
	})
}

func FuzzLocation(f *testing.F) {
	for _, seed := range []string{"/x", "//host/x", "http://host", "https://u:p@host/", "file:///x", "?q", "https://[::1]:5/", "\\\\x"} {
		f.Add(seed)
	}
	from := &url.URL{Scheme: "https", Host: "registry.example.com", Path: "/v2/x"}
	f.Fuzz(func(t *testing.T, location string) {
		u, err := RedirectTarget(from, location)
		if err == nil && (u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "") {
			t.Fatalf("%q leads to %q", location, u)
		}
	})
}

func FuzzServerWords(f *testing.F) {
	f.Add([]byte(`{"errors":[{"code":"DENIED","message":"no"}]}`), "secret-value")
	f.Add([]byte(`{"details":"x","error":7,"code":"y"}`), "pass word")
	f.Fuzz(func(t *testing.T, body []byte, secret string) {
		r := NewRedactor(model.Credential{Username: "u", Password: model.NewSecret(secret)}, nil)
		got := r.Clean(ServerWords(body), MaxDetail)
		if len(got) > MaxDetail+3 || !utf8.ValidString(got) || strings.ContainsAny(got, "\r\n\x00\x1b") {
			t.Fatalf("unfit for a log: %q", got)
		}
	})
}
