package mounttest_test

import (
	"testing"

	"github.com/model-csi/model-csi/pkg/mount/mounttest"
)

func TestFake(t *testing.T) {
	mounttest.Conform(t, func(*testing.T) mounttest.Subject {
		fake := mounttest.NewFake()
		return mounttest.Subject{
			Mounter: fake,
			Corrupt: func(_ *testing.T, target string) { fake.Corrupt(target) },
		}
	})
}
