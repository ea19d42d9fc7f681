// Package sanitytest runs csi-sanity, the conformance tests of the CSI project, against a node plugin that has no
// controller.
//
// It imports nothing else of this module. The test module, which does not depend on the product's, sees it through the
// link test/sanitytest.
package sanitytest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"
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

// Run tests the plugin that answers on conn; its volumes are mounted for real, which needs root. reference is what they
// hold. The specs of node plugins make volumes through a controller, so that a front adds one and passes everything else
// on to the plugin. Run can be called once in a process, as ginkgo demands. The caller closes conn.
func Run(t *testing.T, conn *grpc.ClientConn, reference string) {
	t.Helper()
	dir := t.TempDir()
	config := sanity.NewTestConfig()
	config.Address = "unix://" + serveFront(t, filepath.Join(dir, "front.sock"), conn, reference)
	config.TargetPath = filepath.Join(dir, "targets")
	config.StagingPath = filepath.Join(dir, "staging")
	suite := sanity.GinkgoTest(&config)
	var report types.Report
	ginkgo.ReportAfterSuite("collect", func(r types.Report) { report = r })
	gomega.RegisterFailHandler(ginkgo.Fail)
	suiteConfig, reporterConfig := ginkgo.GinkgoConfiguration()
	reporterConfig.NoColor, reporterConfig.Succinct = true, true
	ginkgo.RunSpecs(t, "csi-sanity", suiteConfig, reporterConfig)
	suite.Finalize()

	checkReport(t, report)
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
