package registry

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestTags(t *testing.T) {
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		asked = append(asked, q.URL.String())
		if q.URL.Path != "/v2/m/tagged/tags/list" {
			http.Error(w, `{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known"}]}`, http.StatusNotFound)
			return
		}
		switch q.URL.Query().Get("last") {
		case "":
			// An absolute link to another host is where a hostile registry would like the credential to go.
			w.Header().Set("Link", `<http://elsewhere.example/v2/m/tagged/tags/list?n=2&last=v2>; rel="next"`)
			_, _ = fmt.Fprint(w, `{"name":"m/tagged","tags":["v2","v1"]}`)
		case "v2":
			_, _ = fmt.Fprint(w, `{"name":"m/tagged","tags":["v3","v1"]}`)
		}
	}))
	defer server.Close()
	s, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(server.URL, "http://")
	tags, err := s.Tags(t.Context(), model.Ref{Scheme: model.SchemeOCI, Registry: host, Repository: "m/tagged"}, model.Credential{})
	if err != nil || strings.Join(tags, " ") != "v1 v2 v3" {
		t.Errorf("%v, %v; asked %v", tags, err, asked)
	}
	if _, err := s.Tags(t.Context(), model.Ref{Scheme: model.SchemeOCI, Registry: host, Repository: "m/none"}, model.Credential{}); err == nil || !strings.Contains(err.Error(), "m/none") {
		t.Errorf("a repository that is not there: %v", err)
	}
}

func TestNextPage(t *testing.T) {
	for link, want := range map[string]string{
		"": "",
		`</v2/m/tags/list?last=a&n=2>; rel="next"`: "last=a&n=2",
		`</v2/m/tags/list?last=a>; rel=next`:       "last=a",
		`</v2/m/tags/list?last=a>; rel="prev"`:     "",
		`%zz; rel="next"`:                          "",
		`<http://[::1>; rel="next"`:                "",
	} {
		if got := nextPage(link).Encode(); got != want {
			t.Errorf("%s: %q, want %q", link, got, want)
		}
	}
}
