package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// newServer makes a gRPC server whose calls are told to end when stop does.
func (d *Driver) newServer(stop context.Context) *grpc.Server {
	return grpc.NewServer(grpc.ChainUnaryInterceptor(logCalls(d.log), translate, stopWith(stop), recoverPanics(d.log)))
}

// serve answers CSI calls until ctx ends.
func (d *Driver) serve(ctx context.Context, l net.Listener) error {
	server := d.newServer(ctx)
	csi.RegisterIdentityServer(server, d)
	csi.RegisterNodeServer(server, d)
	healthpb.RegisterHealthServer(server, health.NewServer())
	d.log.Info("CSI socket is served", "socket", d.socket, "driver", d.opts.Name, "node", d.opts.NodeID)
	return runServer(ctx, server, l, d.opts.StopTimeout)
}

// runServer serves until ctx ends and then gives the calls in flight some time.
func runServer(ctx context.Context, server *grpc.Server, l net.Listener, grace time.Duration) error {
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	// GracefulStop waits for every handler, also after Stop; one that does not heed its context must not hold us up.
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.GracefulStop()
	}()
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-ended:
	case <-late.C:
		server.Stop()
	}
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// quiet are calls that kubelet makes all the time.
var quiet = map[string]bool{
	csi.Identity_Probe_FullMethodName:                 true,
	csi.Identity_GetPluginInfo_FullMethodName:         true,
	csi.Node_NodeGetCapabilities_FullMethodName:       true,
	csi.Node_NodeGetVolumeStats_FullMethodName:        true,
	csi.Node_NodeGetVolumeHealth_FullMethodName:       true,
	healthpb.Health_Check_FullMethodName:              true,
	csi.Identity_GetPluginCapabilities_FullMethodName: true,
}

func logCalls(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		start := time.Now()
		response, err := handler(ctx, request)
		level := slog.LevelInfo
		code := status.Code(err)
		switch {
		case code == codes.Internal || code == codes.Unknown || code == codes.DataLoss:
			level = slog.LevelError
		case code == codes.Aborted || code == codes.Canceled:
			// The pull goes on, and kubelet asks again.
		case err != nil:
			level = slog.LevelWarn
		case quiet[info.FullMethod]:
			level = slog.LevelDebug
		}
		attrs := []slog.Attr{
			slog.String("method", info.FullMethod), slog.String("code", code.String()),
			slog.Duration("took", time.Since(start)), slog.Any("request", redacted{request}),
		}
		if err != nil {
			attrs = append(attrs, slog.String("error", status.Convert(err).Message()))
		}
		log.LogAttrs(ctx, level, "call answered", attrs...)
		return response, err
	}
}

// translate gives errors their gRPC code.
func translate(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	response, err := handler(ctx, request)
	if err != nil {
		return nil, toStatus(err)
	}
	return response, nil
}

// stopWith ends the context of calls, with the cause errStopping, when stop ends.
func stopWith(stop context.Context) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(stop, func() { cancel(errStopping) })()
		return handler(ctx, request)
	}
}

// recoverPanics answers a call whose handler panicked. The text of the panic may show anything, so it goes to the log
// alone.
func recoverPanics(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
		defer func() {
			if p := recover(); p != nil {
				log.ErrorContext(ctx, "call panicked", "method", info.FullMethod, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				response, err = nil, status.Errorf(codes.Internal, "%s panicked, which is a defect of the plugin; its log has the details", info.FullMethod)
			}
		}()
		return handler(ctx, request)
	}
}
