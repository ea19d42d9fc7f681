package driver

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/model-csi/model-csi/pkg/model"
)

func request(id, reference string) *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{VolumeId: id, TargetPath: "/t/" + id, VolumeContext: map[string]string{
		"reference": reference, podName: "pod-" + id, podNamespace: "ns",
	}}
}

func TestAttempts(t *testing.T) {
	clock := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	a := newAttempts()
	a.now = func() time.Time { clock = clock.Add(time.Second); return clock }
	d := &Driver{attempts: a}

	end := a.begin("driver", request("a", "r.example/m:v1"))
	if got := d.Attempts(); len(got) != 1 || got[0].Pod != "ns/pod-a" || got[0].Reference != "r.example/m:v1" || !got[0].Ended.IsZero() || got[0].Error != "" {
		t.Fatalf("while it runs: %+v", got)
	}
	end(fmt.Errorf("r.example/m:v1: pod may not: %w", model.ErrDenied))
	if got := d.Attempts()[0]; got.Code != "PermissionDenied" || got.Error != "r.example/m:v1: pod may not" || got.Ended.IsZero() {
		t.Errorf("after a refusal: %+v", got)
	}
	end = a.begin("driver", request("a", "r.example/m:v1"))
	if got := d.Attempts()[0]; got.Calls != 2 || !got.Began.After(got.First) || !got.Ended.IsZero() || got.Error == "" {
		t.Errorf("the second call must keep what the first one said: %+v", got)
	}
	end(nil)
	if got := d.Attempts(); len(got) != 0 {
		t.Errorf("a published volume waits: %+v", got)
	}

	a.begin("driver", request("b", "bad\nname"+strings.Repeat("x", 2000)))(model.ErrInvalid)
	if got := d.Attempts()[0]; strings.Contains(got.Reference, "\n") || len(got.Reference) > maxMessage {
		t.Errorf("what a pod says is not bounded: %q", got.Reference)
	}
	a.forget("b", "/t/b")
	for i := range maxAttempts + 10 {
		a.begin("driver", request(fmt.Sprint(i), "r"))(model.ErrInvalid)
	}
	if n := len(d.Attempts()); n != maxAttempts {
		t.Errorf("%d attempts are remembered", n)
	}
	if a.byID[attemptKey{"0", "/t/0"}] != nil || a.byID[attemptKey{"2009", "/t/2009"}] == nil {
		t.Error("not the oldest were forgotten")
	}
}
