package driver

import (
	"os"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
)

func TestVolumeStats(t *testing.T) {
	e := newEnv(t)
	must(t, e.publish(e.request()))
	r, err := e.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: "csi-0123", VolumePath: e.target})
	must(t, err)
	want := map[csi.VolumeUsage_Unit]int64{csi.VolumeUsage_BYTES: e.puller.tree.Size(), csi.VolumeUsage_INODES: 5}
	for _, u := range r.GetUsage() {
		if u.GetUsed() != want[u.GetUnit()] || u.GetTotal() != u.GetUsed() || u.GetAvailable() != 0 {
			t.Errorf("usage: %v", u)
		}
		delete(want, u.GetUnit())
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
	for code, r := range map[codes.Code]*csi.NodeGetVolumeStatsRequest{
		codes.InvalidArgument: {VolumeId: "csi-0123"},
		codes.NotFound:        {VolumeId: "csi-0123", VolumePath: "/elsewhere"},
	} {
		_, err := e.NodeGetVolumeStats(t.Context(), r)
		wantCode(t, toStatus(err), code)
	}
}

func TestVolumeHealth(t *testing.T) {
	e := newEnv(t)
	must(t, e.publish(e.request()))
	reason := func() string {
		t.Helper()
		r, err := e.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: "csi-0123"})
		must(t, err)
		if len(r.GetVolumeHealth().GetHealthStatuses()) == 0 {
			return ""
		}
		s := r.GetVolumeHealth().GetHealthStatuses()[0]
		if s.GetStatus() != csi.VolumeHealthErrorType_INACCESSIBLE || s.GetMessage() == "" {
			t.Errorf("status: %v", s)
		}
		return s.GetReason()
	}
	check := func(want string) {
		t.Helper()
		if got := reason(); got != want {
			t.Errorf("reason %q, want %q", got, want)
		}
	}
	check("")
	e.mounter.Corrupt(e.target)
	check("Corrupted")
	e.mounter.Reboot()
	check("NotMounted")
	must(t, e.mounter.BindReadOnly(t.TempDir(), e.target, mountOptions))
	check("OtherMount")
	for code, r := range map[codes.Code]*csi.NodeGetVolumeHealthRequest{
		codes.InvalidArgument: {},
		codes.NotFound:        {VolumeId: "other"},
	} {
		_, err := e.NodeGetVolumeHealth(t.Context(), r)
		wantCode(t, toStatus(err), code)
	}
	_, err := e.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: "csi-0123", VolumePublishPath: os.DevNull})
	wantCode(t, toStatus(err), codes.NotFound)
}
