package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The same executable plays every role; the environment says which.
const (
	roleVariable = "MODEL_CSI_E2E_ROLE"
	roleSandbox  = "sandbox"
	roleCgroup   = "node-cgroup" // the node's init before it has its cgroup namespace
	roleInit     = "node-init"

	runVariable = "MODEL_CSI_E2E_RUN"
	binVariable = "MODEL_CSI_E2E_BIN"
)

// Options say where the cluster finds its source and what a person wants of it.
type Options struct {
	// Source is the directory test/e2e of the repository; default is the working directory.
	Source string
	// Listen is an address of the host on which the API server can be reached while the sandbox lives, for instance
	// "127.0.0.1:0". Empty means that only the sandbox reaches it.
	Listen string
	// Prepare runs before the sandbox exists, with the network and the files of the host; for builds.
	Prepare func(context.Context) error
}

// Main runs fn in a sandbox of its own, with the cluster described by the package's documentation not yet started,
// and returns the exit code of fn. A program calls it first thing, because the program is started again for the other
// roles: in those Main does not return to the caller's business.
func Main(o Options, fn func(*Cluster) int) int {
	var err error
	code := 1
	switch role := os.Getenv(roleVariable); role {
	case "":
		code, err = outer(o)
	case roleSandbox:
		var c *Cluster
		if c, err = enterSandbox(); err == nil {
			code = fn(c)
		}
	case roleCgroup:
		err = enterCgroup()
	case roleInit:
		err = runInit()
	default:
		err = fmt.Errorf("%s=%s is unknown", roleVariable, role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		return 1
	}
	return code
}

// outer starts the sandbox and removes what is left of it and of dead earlier runs.
func outer(o Options) (code int, err error) {
	if err := checkHost(); err != nil {
		return 1, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if o.Source == "" {
		if o.Source, err = os.Getwd(); err != nil {
			return 1, err
		}
	}
	if err := RemoveDead(); err != nil {
		return 1, fmt.Errorf("remove what an earlier run left: %w", err)
	}
	bin, err := Build(ctx, o.Source, os.Stderr)
	if err != nil {
		return 1, err
	}
	if o.Prepare != nil {
		if err := o.Prepare(ctx); err != nil {
			return 1, err
		}
	}
	run, unlock, err := newRun()
	if err != nil {
		return 1, err
	}
	defer unlock()
	defer func() { err = errors.Join(err, removeRun(run)) }()

	// The death signal comes when the thread that forked ends, so this goroutine keeps its thread.
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), roleVariable+"="+roleSandbox, runVariable+"="+run, binVariable+"="+bin)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	if o.Listen != "" {
		file, err := hostListener(o.Listen)
		if err != nil {
			return 1, err
		}
		defer file.Close()
		cmd.ExtraFiles = []*os.File{file}
	}
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("start the sandbox: %w", err)
	}
	go func() {
		<-ctx.Done()
		// Harmless when the sandbox has ended: the process is reaped by the same exec.Cmd.
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if exit.ExitCode() < 0 {
			return 1, fmt.Errorf("the sandbox was ended: %v", exit)
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

func hostListener(address string) (*os.File, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for the API server's clients: %w", err)
	}
	defer l.Close()
	return l.(*net.TCPListener).File()
}

// enterSandbox makes the new namespaces usable: nothing propagates to the host, and /proc shows this PID namespace.
func enterSandbox() (*Cluster, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make the sandbox's mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, fmt.Errorf("mount the sandbox's /proc: %w", err)
	}
	c := &Cluster{run: os.Getenv(runVariable), bin: os.Getenv(binVariable)}
	// Programs started from here are not sandboxes.
	for _, v := range []string{roleVariable, runVariable, binVariable} {
		os.Unsetenv(v)
	}
	if _, err := unix.FcntlInt(3, unix.F_GETFD, 0); err == nil {
		if l, err := net.FileListener(os.NewFile(3, "api listener")); err == nil {
			c.listener = l
		}
	}
	return c, setUpNetwork()
}

// enterCgroup moves the node's init into cgroups of the run's name in every hierarchy and starts it again with these
// as the roots it sees. It needs the exec because a cgroup namespace is a thread's until the process has one thread.
func enterCgroup() error {
	runtime.LockOSThread()
	name := cgroupName(os.Getenv(runVariable))
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	for _, h := range hierarchies {
		dir := filepath.Join(h.path, name)
		if err := makeCgroup(h, dir); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("enter the cgroup %s: %w", dir, err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make the node's cgroup namespace: %w", err)
	}
	env := []string{roleVariable + "=" + roleInit}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, roleVariable+"=") {
			env = append(env, v)
		}
	}
	return syscall.Exec("/proc/self/exe", os.Args, env)
}
