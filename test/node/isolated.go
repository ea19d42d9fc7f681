package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

const isolatedVariable = "MODEL_CSI_ISOLATED"

// Isolated runs this program again in a mount namespace of its own and returns its exit status; in there it calls run.
// It needs root, and says so.
func Isolated(run func() int) int {
	if os.Getenv(isolatedVariable) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fmt.Fprintln(os.Stderr, "keep mounts private:", err)
			return 1
		}
		return run()
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "This needs root: it mounts directories. Run it as root, for example with sudo.")
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), isolatedVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "start in a new mount namespace:", err)
		return 1
	}
	return cmd.ProcessState.ExitCode()
}
