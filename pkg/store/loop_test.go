package store

import (
	"os/exec"
	"testing"
)

// mountLoop makes an ext4 filesystem in the image and mounts it until the test ends.
func mountLoop(t *testing.T, image string, options ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, args := range [][]string{
		append(append([]string{"mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal"}, options...), image),
		{"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}
