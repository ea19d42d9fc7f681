package sanitytest

import (
	"context"
	"net"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// serveFront serves the plugin behind conn, and a controller, at a socket until the test ends. It returns the socket.
func serveFront(t *testing.T, socket string, conn *grpc.ClientConn, reference string) string {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, identityFront{client: csi.NewIdentityClient(conn)})
	csi.RegisterNodeServer(server, nodeFront{client: csi.NewNodeClient(conn)})
	csi.RegisterControllerServer(server, &controller{reference: reference, volumes: map[string]*csi.Volume{}})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Errorf("the front of the plugin: %v", err)
		}
	})
	return socket
}

// identityFront claims a controller besides what the daemon claims.
type identityFront struct {
	csi.UnimplementedIdentityServer
	client csi.IdentityClient
}

func (f identityFront) GetPluginInfo(ctx context.Context, q *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return f.client.GetPluginInfo(ctx, q)
}

func (f identityFront) Probe(ctx context.Context, q *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return f.client.Probe(ctx, q)
}

func (f identityFront) GetPluginCapabilities(ctx context.Context, q *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	p, err := f.client.GetPluginCapabilities(ctx, q)
	if err == nil {
		p.Capabilities = append(p.Capabilities, &csi.PluginCapability{Type: &csi.PluginCapability_Service_{
			Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE},
		}})
	}
	return p, err
}

// nodeFront passes everything on.
type nodeFront struct {
	csi.UnimplementedNodeServer
	client csi.NodeClient
}

func (f nodeFront) NodeGetInfo(ctx context.Context, q *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return f.client.NodeGetInfo(ctx, q)
}

func (f nodeFront) NodeGetCapabilities(ctx context.Context, q *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	return f.client.NodeGetCapabilities(ctx, q)
}

func (f nodeFront) NodePublishVolume(ctx context.Context, q *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	return f.client.NodePublishVolume(ctx, q)
}

func (f nodeFront) NodeUnpublishVolume(ctx context.Context, q *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	return f.client.NodeUnpublishVolume(ctx, q)
}

func (f nodeFront) NodeGetVolumeStats(ctx context.Context, q *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	return f.client.NodeGetVolumeStats(ctx, q)
}

func (f nodeFront) NodeGetVolumeHealth(ctx context.Context, q *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	return f.client.NodeGetVolumeHealth(ctx, q)
}

// controller makes volumes that are only names.
type controller struct {
	csi.UnimplementedControllerServer
	reference string

	mu      sync.Mutex
	volumes map[string]*csi.Volume
}

func (c *controller) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: []*csi.ControllerServiceCapability{{
		Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME}},
	}}}, nil
}

func (c *controller) CreateVolume(_ context.Context, q *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if q.GetName() == "" || len(q.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "a volume has a name and capabilities")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	size := q.GetCapacityRange().GetRequiredBytes()
	v, ok := c.volumes[q.GetName()]
	if !ok {
		v = &csi.Volume{VolumeId: q.GetName(), CapacityBytes: size, VolumeContext: map[string]string{"reference": c.reference}}
		c.volumes[q.GetName()] = v
	}
	if v.CapacityBytes != size {
		return nil, status.Error(codes.AlreadyExists, "the volume exists with another size")
	}
	return &csi.CreateVolumeResponse{Volume: v}, nil
}

func (c *controller) DeleteVolume(_ context.Context, q *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if q.GetVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "a volume has an id")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.volumes, q.GetVolumeId())
	return &csi.DeleteVolumeResponse{}, nil
}

func (c *controller) ValidateVolumeCapabilities(_ context.Context, q *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if q.GetVolumeId() == "" || len(q.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "a volume has an id and capabilities")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.volumes[q.GetVolumeId()]; !ok {
		return nil, status.Error(codes.NotFound, "there is no such volume")
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: q.GetVolumeCapabilities()}}, nil
}
