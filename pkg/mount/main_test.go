package mount_test

import (
	"os"
	"testing"

	"github.com/model-csi/model-csi/pkg/mount/mounttest"
)

func TestMain(m *testing.M) { os.Exit(mounttest.Main(m)) }
