package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"github.com/model-csi/model-csi/pkg/internal/serve"
)

// Serve answers /metrics, and /healthz and /readyz by health, on a TCP address until ctx ends.
func (m *Metrics) Serve(ctx context.Context, address string, health http.Handler, log *slog.Logger) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	mux.Handle("GET /healthz", health)
	mux.Handle("GET /readyz", health)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("http-address %s: %w", address, err)
	}
	log.Info("health and metrics are served", "address", listener.Addr().String())
	if err := serve.HTTP(ctx, listener, mux); err != nil {
		return fmt.Errorf("http-address %s: %w", address, err)
	}
	return nil
}
