package telemetry

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/model-csi/model-csi/pkg/pull"
)

func TestMetrics(t *testing.T) {
	m := NewMetrics("v1", Sources{
		Pulls:   func() []pull.Progress { return []pull.Progress{{Done: 3, Total: 10}, {Done: 1, Total: 5}} },
		Volumes: func() int { return 4 }, PolicyCurrent: func() bool { return true },
	})
	m.Refused("denied")
	for _, how := range []string{"denied", "denied", "valid"} {
		m.Authorized(how)
	}
	m.Pulled(100, time.Second, nil)
	m.Pulled(50, time.Second, errors.New("broken"))
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	text := w.Body.String()
	for _, want := range []string{
		`model_csi_authorizations_total{result="denied"} 2`, `model_csi_authorizations_total{result="grace"} 0`,
		`model_csi_pulls_total{result="ok"} 1`, `model_csi_pulls_total{result="error"} 1`, `model_csi_pulled_bytes_total 100`,
		`model_csi_pull_duration_seconds_count 1`, `model_csi_pulls_running 2`, `model_csi_pulls_running_bytes 4`,
		`model_csi_pulls_running_expected_bytes 15`, `model_csi_volumes 4`, `model_csi_build_info{version="v1"} 1`,
		`model_csi_policy_refusals_total{reason="denied"} 1`, `model_csi_policy_refusals_total{reason="share"} 0`, "model_csi_policy_current 1",
		"go_goroutines", "process_resident_memory_bytes",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics lack %q", want)
		}
	}
}

func TestServe(t *testing.T) {
	m := NewMetrics("v1", Sources{Pulls: func() []pull.Progress { return nil }, Volumes: func() int { return 0 }})
	read, write := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	health := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "ok "+r.URL.Path) })
	go func() { ended <- m.Serve(ctx, "127.0.0.1:0", health, slog.New(slog.NewTextHandler(write, nil))) }()
	line := make([]byte, 1000)
	n, err := read.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	_, address, _ := strings.Cut(strings.TrimSpace(string(line[:n])), "address=")
	for path, want := range map[string]string{"/healthz": "ok /healthz", "/readyz": "ok /readyz", "/metrics": "model_csi_build_info"} {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: %.100q, %v", path, body, err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := m.Serve(t.Context(), "nowhere", health, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "http-address") {
		t.Errorf("a bad address: %v", err)
	}
}
