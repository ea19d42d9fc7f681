package driver

import (
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/pkg/model"
)

// maxAttempts bounds what is remembered. Kubelet allows some hundred pods on a node.
const maxAttempts = 2000

// attempts remembers the volumes that wait. Safe for concurrent use.
type attempts struct {
	mu   sync.Mutex // guards what follows
	byID map[attemptKey]*model.Attempt
	now  func() time.Time
}

type attemptKey struct{ volumeID, target string }

func newAttempts() *attempts {
	return &attempts{byID: make(map[attemptKey]*model.Attempt), now: time.Now}
}

// begin notes a call. The returned function notes its end.
func (a *attempts) begin(driver string, r *csi.NodePublishVolumeRequest) (end func(error)) {
	key := attemptKey{r.GetVolumeId(), r.GetTargetPath()}
	about := r.GetVolumeContext()
	reference := about[attrReference]
	if reference == "" {
		reference = about[driver+"/"+attrReference]
	}
	pod := ""
	if about[podName] != "" {
		pod = about[podNamespace] + "/" + about[podName]
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	x := a.byID[key]
	if x == nil {
		x = &model.Attempt{First: now}
		a.forgetOldest()
		a.byID[key] = x
	}
	x.VolumeID, x.Target, x.Reference, x.Pod = message(key.volumeID), message(key.target), message(reference), message(pod)
	x.Began, x.Ended = now, time.Time{}
	x.Calls++
	return func(err error) { a.end(key, x, err) }
}

// end notes the answer to a call. A volume that was published waits no more.
func (a *attempts) end(key attemptKey, x *model.Attempt, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		delete(a.byID, key)
		return
	}
	s := status.Convert(toStatus(err))
	x.Ended, x.Code, x.Error = a.now(), s.Code().String(), s.Message()
}

// forget drops a volume that kubelet does not want any more.
func (a *attempts) forget(volumeID, target string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.byID, attemptKey{volumeID, target})
}

// forgetOldest makes room for one more. Callers hold the lock.
func (a *attempts) forgetOldest() {
	if len(a.byID) < maxAttempts {
		return
	}
	var oldest attemptKey
	var at time.Time
	for key, x := range a.byID {
		if at.IsZero() || x.Began.Before(at) {
			oldest, at = key, x.Began
		}
	}
	delete(a.byID, oldest)
}

// Attempts lists the volumes that wait, in no order.
func (d *Driver) Attempts() []model.Attempt {
	d.attempts.mu.Lock()
	defer d.attempts.mu.Unlock()
	out := make([]model.Attempt, 0, len(d.attempts.byID))
	for _, x := range d.attempts.byID {
		out = append(out, *x)
	}
	return out
}
