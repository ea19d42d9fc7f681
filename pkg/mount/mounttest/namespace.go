package mounttest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace tells the second run of a test binary that it is the second.
const inNamespace = "MODEL_CSI_TEST_MOUNT_NAMESPACE"

// Main runs the tests in a mount namespace of their own, whose mounts the host never sees and which end with the
// process. Call it from TestMain: os.Exit(mounttest.Main(m)). It needs root and says so without it.
func Main(m *testing.M) int {
	if os.Getenv(inNamespace) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return failed(fmt.Errorf("keep mounts private: %w", err))
		}
		return m.Run()
	}
	if os.Geteuid() != 0 {
		return failed(errors.New("these tests mount directories: run them as root (with CAP_SYS_ADMIN)"))
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return failed(fmt.Errorf("start the tests in a new mount namespace: %w", err))
	}
	return cmd.ProcessState.ExitCode()
}

func failed(err error) int {
	fmt.Fprintln(os.Stderr, "mounttest:", err)
	return 1
}
