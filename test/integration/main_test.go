// Package integration tests the model-csi binary as a node runs it: real mounts, a real registry over a real socket, real
// signals. The tests run in a mount namespace of their own and need root.
package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/model-csi/model-csi/test/node"
)

// binary is the path of the program under test.
var binary string

func TestMain(m *testing.M) {
	os.Exit(node.Isolated(func() int {
		dir, err := os.MkdirTemp("", "model-csi-it-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		if binary, err = build(dir, raceEnabled); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}))
}

// build compiles the product, under the race detector where the tests run under it.
func build(dir string, race bool) (string, error) {
	out := filepath.Join(dir, "model-csi")
	args := []string{"build", "-o", out}
	if race {
		out += "-race"
		args = []string{"build", "-race", "-o", out}
	}
	cmd := exec.Command("go", append(args, "./cmd/model-csi")...)
	cmd.Dir = "../.."
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("build model-csi: %w", err)
	}
	return out, nil
}
