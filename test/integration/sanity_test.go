package integration

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

// TestSanity runs csi-sanity against the binary. Its node tests make volumes through a controller, which a plugin for
// inline volumes does not have: a front adds one and passes everything else on to the daemon.
func TestSanity(t *testing.T) {
	w := newWorld(t, registry.Options{})
	reference, _ := w.push("m/tiny", artifact.TinyModel(0), artifact.Options{})
	socket := filepath.Join(w.dir, "front.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, identityFront{client: csi.NewIdentityClient(w.node.Conn())})
	csi.RegisterNodeServer(server, nodeFront{client: csi.NewNodeClient(w.node.Conn())})
	csi.RegisterControllerServer(server, &controller{reference: reference, volumes: map[string]*csi.Volume{}})
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()

	config := sanity.NewTestConfig()
	config.Address = "unix://" + socket
	config.TargetPath = filepath.Join(w.dir, "target")
	config.StagingPath = filepath.Join(w.dir, "staging")
	config.IdempotentCount = 3
	context := sanity.GinkgoTest(&config)
	defer context.Finalize()

	passed := map[string]bool{}
	ginkgo.ReportAfterEach(func(r ginkgo.SpecReport) {
		switch {
		case r.State.Is(types.SpecStatePassed):
			passed[r.FullText()] = true
		case r.State.Is(types.SpecStateSkipped):
			// csi-sanity skips what a driver does not claim to have; nothing else may be left out.
			if why := r.Failure.Message; !strings.Contains(why, "not support") && !strings.Contains(why, "does not have") {
				t.Errorf("skipped: %s: %s", r.FullText(), why)
			}
		}
	})
	gomega.RegisterFailHandler(ginkgo.Fail)
	suite, reporter := ginkgo.GinkgoConfiguration()
	reporter.Succinct = true
	if !ginkgo.RunSpecs(t, "CSI sanity", suite, reporter) {
		t.Error("csi-sanity failed")
	}
	var node, identity int
	for name := range passed {
		if strings.Contains(name, "Node Service") {
			node++
		}
		if strings.Contains(name, "Identity Service") {
			identity++
		}
	}
	t.Logf("passed: %d specs, %d of them of the node service and %d of identity", len(passed), node, identity)
	if node < 10 || identity < 3 {
		t.Error("the specs of the node plugin did not run")
	}
	if _, err := os.Stat(config.TargetPath); err == nil {
		t.Error("the target is left")
	}
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
