package driver

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/model-csi/model-csi/pkg/driver/sanitytest"
	"github.com/model-csi/model-csi/pkg/mount"
)

// TestSanity runs csi-sanity against the driver over its gRPC server and with real mounts.
func TestSanity(t *testing.T) {
	e := newEnv(t, func(o *Options) { o.Mounter = mount.New() })
	ctx, cancel := context.WithCancel(t.Context())
	listener, err := listen(e.socket)
	must(t, err)
	e.reconciled.Store(true)
	served := make(chan error, 1)
	go func() { served <- e.serve(ctx, listener) }()
	conn, err := grpc.NewClient("unix://"+e.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)

	sanitytest.Run(t, conn, testReference)

	must(t, conn.Close())
	cancel()
	must(t, <-served)
	if leases := e.store.Leases(); len(leases) > 0 {
		t.Errorf("leases are left: %v", leases)
	}
}
