package registry

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

func FuzzParseHosts(f *testing.F) {
	for _, seed := range []string{
		"", "server = \"https://registry.example.com\"\n",
		"server = \"example.com\"\n[host.\"https://mirror\"]\ncapabilities = [\"pull\", \"resolve\"]\nca = [\"a\", \"b\"]\nclient = [[\"c\", \"k\"], \"both\"]\nskip_verify = true\noverride_path = true\ndial_timeout = \"5s\"\n[host.\"https://mirror\".header]\nx = [\"y\"]\n",
		"host = {\"https://b\" = {}, \"https://a\" = {skip_verify = true}}\n",
		"host.\"https://b\".capabilities = [\"pull\"]\nhost.\"a\".ca = \"x\"\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		mirrors, server, err := parseHosts(data, "/etc/hosts.d/x")
		if err != nil {
			if !errors.Is(err, model.ErrInvalid) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		for i, c := range append(mirrors, server) {
			if c.base == nil {
				if i < len(mirrors) {
					t.Fatal("a mirror without a URL")
				}
				continue
			}
			if c.base.Hostname() == "" || c.base.User != nil || c.base.RawQuery != "" || (c.base.Scheme != "http" && c.base.Scheme != "https") {
				t.Fatalf("unusable URL %q", c.base)
			}
			for _, file := range c.caFiles {
				if !strings.HasPrefix(file, "/") {
					t.Fatalf("relative path %q", file)
				}
			}
		}
	})
}

func FuzzManifest(f *testing.F) {
	for _, seed := range []string{
		`{"layers":[]}`, `{"manifests":[]}`, `{"blobs":[]}`, `{"fsLayers":[],"schemaVersion":1}`, `{"manifests":[],"layers":[]}`,
		`{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{}]}`, `{"config":{"digest":"sha256:00","size":-1,"data":"e30="},"layers":null}`,
	} {
		f.Add([]byte(seed), typeOCIManifest)
	}
	f.Fuzz(func(t *testing.T, data []byte, contentType string) {
		d, err := parseManifest(data, contentType)
		if err != nil {
			if !errors.Is(err, model.ErrInvalid) && !errors.Is(err, model.ErrUnsupported) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(data, &fields); err != nil {
			t.Fatalf("accepted what is no object: %v", err)
		}
		if has := len(fields["manifests"]) > 0 && string(fields["manifests"]) != "null"; has != d.isIndex() {
			t.Fatalf("%q with manifests: %t", d.mediaType, has)
		}
		if d.config.Digest != "" {
			d.config.inline()
		}
	})
}

// fakeNet answers requests in place of the network and remembers who was sent which Authorization header.
type fakeNet struct {
	challenge string
	sent      []*http.Request
}

func (n *fakeNet) RoundTrip(req *http.Request) (*http.Response, error) {
	n.sent = append(n.sent, req)
	resp := &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{}, Request: req, Body: io.NopCloser(strings.NewReader(`{"token":"t"}`))}
	resp.Header.Set("WWW-Authenticate", n.challenge)
	if !strings.HasPrefix(req.URL.Path, "/v2/") {
		resp.StatusCode = http.StatusOK
	}
	return resp, nil
}

// Whatever a registry answers as its challenge, the password goes to the registry or to a host with TLS, and no request
// goes where none may go.
func FuzzChallenge(f *testing.F) {
	for _, seed := range []string{
		"Basic", `Bearer realm="https://auth.example.com/token",service="x",scope="repository:a:pull"`, `Bearer realm="http://auth.example.com/"`,
		`Bearer realm="https://169.254.169.254/"`, `bearer realm=https://127.0.0.1/`, `Bearer realm="https://u:p@h/"`, `Negotiate`, `Bearer realm="`, `Basic realm="x", Bearer realm="y"`,
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	const secret = "fuzz-secret-value"
	f.Fuzz(func(t *testing.T, challenge string, tls bool) {
		base := &url.URL{Scheme: "http", Host: "registry.example.com", Path: "/v2"}
		if tls {
			base.Scheme = "https"
		}
		net := &fakeNet{challenge: challenge}
		s, err := New(Options{})
		if err != nil {
			t.Fatal(err)
		}
		cred := model.Credential{Username: "u", Password: model.NewSecret(secret)}
		c := s.client(&endpoint{base: base, pull: true, own: net, other: net, health: &health{}}, "a/b", cred)
		resp, failed := c.get(t.Context(), subject{cred: cred, redact: c.redact}, http.MethodGet, c.url("a/b", "manifests", "v1"), http.Header{})
		if failed != nil && strings.Contains(failed.Error(), secret) {
			t.Fatalf("the secret shows: %v", failed)
		}
		if resp != nil {
			_ = resp.Body.Close()
		}
		for _, req := range net.sent {
			_, password, _ := req.BasicAuth()
			home := wire.SameOrigin(req.URL, base)
			if password == secret && !home && req.URL.Scheme != "https" && !strings.EqualFold(req.URL.Hostname(), base.Hostname()) {
				t.Fatalf("the password went to %s", req.URL)
			}
			if tls && req.URL.Scheme != "https" {
				t.Fatalf("left TLS for %s", req.URL)
			}
			if s.guard.checkURL(req.URL, &endpoint{base: base}) != nil {
				t.Fatalf("asked %s", req.URL)
			}
		}
	})
}

func FuzzRangeEnd(f *testing.F) {
	for _, seed := range []string{"0-99", "bytes=0-99", "0-0", "5-9", "0--1", "0-99999999999999999999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if end, ok := rangeEnd(value); ok && end < 0 {
			t.Errorf("%q ends at %d", value, end)
		}
	})
}
