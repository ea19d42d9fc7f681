package driver

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/model-csi/model-csi/pkg/mount/mounttest"
)

// ownNamespace runs the tests in a mount namespace of their own.
type ownNamespace struct{ *testing.M }

func (m ownNamespace) Run() int { return mounttest.Main(m.M) }

func TestMain(m *testing.M) {
	// ginkgo, which csi-sanity runs in, waits for signals until the process ends.
	goleak.VerifyTestMain(ownNamespace{m},
		goleak.IgnoreTopFunction("github.com/onsi/ginkgo/v2/internal/interrupt_handler.(*InterruptHandler).registerForInterrupts.func2"))
}
