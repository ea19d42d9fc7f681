package driver

import (
	"context"
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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/pkg/mount"
)

// notServed are the reasons for which csi-sanity may leave a spec out: features that a read-only node plugin without a
// controller does not have. Any other reason fails the test, and so does a reason that is not needed any more.
var notServed = map[string]bool{
	"GetCapacity not supported":                                 true,
	"ListVolumes not supported":                                 true,
	"Snapshot not supported":                                    true,
	"Volume Cloning not supported":                              true,
	"Modify volume not supported":                               true,
	"Modify Volume not supported":                               true,
	"ControllerPublishVolume not supported":                     true,
	"Controller Publish, UnpublishVolume not supported":         true,
	"ControllerUnpublishVolume not supported":                   true,
	"ListSnapshots not supported":                               true,
	"GetSnapshot not supported":                                 true,
	"DeleteSnapshot not supported":                              true,
	"CreateSnapshot not supported":                              true,
	"ControllerExpandVolume not supported":                      true,
	"ControllerModifyVolume not supported":                      true,
	"ControllerGetVolumeHealth not supported":                   true,
	"ControllerListVolumeHealth not supported":                  true,
	"GroupControllerService not supported":                      true,
	"NodeStageVolume not supported":                             true,
	"NodeUnstageVolume not supported":                           true,
	"NodeExpandVolume not supported":                            true,
	"NodeGetStorageHealth not supported":                        true,
	"Service does not have single node multi writer capability": true,
}

// wantPassed is how many specs of csi-test v5.6.0 apply.
const wantPassed = 34

// TestSanity runs csi-sanity against the driver over its gRPC server and with real mounts. Publishing needs a volume
// that CreateVolume made, so a controller of the test's own stands beside the driver.
func TestSanity(t *testing.T) {
	e := newEnv(t, func(o *Options) { o.Mounter = mount.New() })
	ctx, cancel := context.WithCancel(t.Context())
	listener, err := listen(e.socket)
	must(t, err)
	server := e.newServer(ctx)
	e.reconciled.Store(true)
	csi.RegisterNodeServer(server, e.Driver)
	csi.RegisterIdentityServer(server, withController{e.Driver})
	csi.RegisterControllerServer(server, &testController{volumes: map[string]int64{}})
	served := make(chan error, 1)
	go func() { served <- runServer(ctx, server, listener, e.opts.StopTimeout) }()

	config := sanity.NewTestConfig()
	config.Address = "unix://" + e.socket
	config.TargetPath = filepath.Join(t.TempDir(), "targets")
	config.StagingPath = filepath.Join(t.TempDir(), "staging")
	suite := sanity.GinkgoTest(&config)
	var report types.Report
	ginkgo.ReportAfterSuite("collect", func(r types.Report) { report = r })
	gomega.RegisterFailHandler(ginkgo.Fail)
	suiteConfig, reporterConfig := ginkgo.GinkgoConfiguration()
	reporterConfig.NoColor, reporterConfig.Succinct = true, true
	ginkgo.RunSpecs(t, "csi-sanity", suiteConfig, reporterConfig)
	suite.Finalize()
	cancel()
	must(t, <-served)

	checkReport(t, report)
	if leases := e.store.Leases(); len(leases) > 0 {
		t.Errorf("leases are left: %v", leases)
	}
	if _, err := os.Lstat(config.TargetPath); err == nil {
		t.Error("the directory of targets is left")
	}
}

func checkReport(t *testing.T, report types.Report) {
	t.Helper()
	passed, unused := 0, map[string]bool{}
	for reason := range notServed {
		unused[reason] = true
	}
	for _, spec := range report.SpecReports {
		if spec.LeafNodeType != types.NodeTypeIt {
			continue
		}
		switch spec.State {
		case types.SpecStatePassed:
			passed++
		case types.SpecStateSkipped:
			reason := strings.TrimSpace(spec.Failure.Message)
			delete(unused, reason)
			if !notServed[reason] {
				t.Errorf("%s was skipped: %s", spec.FullText(), reason)
			}
		case types.SpecStatePending:
			t.Logf("csi-test itself leaves out: %s", spec.FullText())
		default:
			t.Errorf("%s: %s", spec.FullText(), spec.State)
		}
	}
	if passed != wantPassed {
		t.Errorf("%d specs passed, want %d", passed, wantPassed)
	}
	for reason := range unused {
		t.Errorf("nothing was skipped because of %q; take it off the list", reason)
	}
	t.Logf("csi-sanity: %d specs passed, %d in all", passed, len(report.SpecReports))
}

// withController is the driver, saying that there is a controller as well.
type withController struct{ *Driver }

func (d withController) GetPluginCapabilities(ctx context.Context, r *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	response, err := d.Driver.GetPluginCapabilities(ctx, r)
	if err != nil {
		return nil, err
	}
	response.Capabilities = append(response.Capabilities, &csi.PluginCapability{Type: &csi.PluginCapability_Service_{
		Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE},
	}})
	return response, nil
}

// testController creates volumes that are a name and a reference.
type testController struct {
	csi.UnimplementedControllerServer
	mu      sync.Mutex
	volumes map[string]int64 // size by name, which is the id
}

func (c *testController) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: []*csi.ControllerServiceCapability{{
		Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{
			Type: csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		}},
	}}}, nil
}

func (c *testController) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if r.GetName() == "" || len(r.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "name or capabilities are missing")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	size := r.GetCapacityRange().GetRequiredBytes()
	if old, ok := c.volumes[r.GetName()]; ok && old != size {
		return nil, status.Error(codes.AlreadyExists, "another size")
	}
	c.volumes[r.GetName()] = size
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId: r.GetName(), CapacityBytes: size, VolumeContext: map[string]string{"reference": testReference},
	}}, nil
}

func (c *testController) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "id is missing")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.volumes, r.GetVolumeId())
	return &csi.DeleteVolumeResponse{}, nil
}

func (c *testController) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if r.GetVolumeId() == "" || len(r.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "id or capabilities are missing")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.volumes[r.GetVolumeId()]; !ok {
		return nil, status.Error(codes.NotFound, "no such volume")
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeCapabilities: r.GetVolumeCapabilities(),
	}}, nil
}
