package registry_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

func TestTransportForOtherSources(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(server.Close)
	src, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(src.CloseIdleConnections)
	for _, test := range []struct {
		host, url string
		allowed   bool
	}{
		{server.Listener.Addr().String(), server.URL, true},
		{"hub.example.com", server.URL, false},
		{"hub.example.com", strings.Replace(server.URL, "127.0.0.1", "localhost", 1), false},
		{server.Listener.Addr().String(), "http://169.254.169.254/latest/meta-data", false},
		{server.Listener.Addr().String(), strings.Replace(server.URL, "://", "://user:password@", 1), false},
		{server.Listener.Addr().String(), "file:///etc/passwd", false},
	} {
		transport, err := src.Transport(test.host)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, test.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		if test.allowed != (err == nil) || (err != nil && !errors.Is(err, model.ErrDenied)) {
			t.Errorf("%s for the sake of %s: %v", test.url, test.host, err)
		}
	}
	dir := configDir(t, "hub.example.com", `ca = "missing.pem"`)
	if src, err = registry.New(registry.Options{ConfigDir: dir}); err != nil {
		t.Fatal(err)
	}
	if _, err := src.Transport("hub.example.com"); !errors.Is(err, model.ErrInvalid) {
		t.Errorf("a CA that is missing: %v", err)
	}
}
