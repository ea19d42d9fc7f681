package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// Paths as the node's processes see them.
const (
	nodeRun = "/mnt/e2e" // the run directory
	nodeBin = "/mnt/bin" // the cluster's binaries
)

// machine is the node seen from the sandbox: its init process and the connection to it.
type machine struct {
	run  string
	init *exec.Cmd
	rpc  *rpc.Client
	runs atomic.Int64 // names of the programs of Exec
}

// powerOn starts the node's init. Its disk is as the last power cut left it.
func powerOn(run, bin string) (*machine, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "node"), os.NewFile(uintptr(pair[1]), "sandbox")
	log, err := os.OpenFile(filepath.Join(run, "logs", "init.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// The same command line leads to Main again, as the sandbox's did.
	m := &machine{run: run}
	m.init = exec.Command("/proc/self/exe", os.Args[1:]...)
	m.init.Env = append(os.Environ(), roleVariable+"="+roleCgroup, runVariable+"="+run, binVariable+"="+bin)
	m.init.Stdout, m.init.Stderr = log, log
	m.init.ExtraFiles = []*os.File{theirs}
	m.init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC}
	err = m.init.Start()
	theirs.Close() // the init's copy alone tells its end
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("start the node: %w", err)
	}
	m.rpc = rpc.NewClient(ours)
	var yes bool
	if err := m.rpc.Call("Node.Running", "init", &yes); err != nil {
		_ = m.powerCut()
		return nil, fmt.Errorf("start the node: %w (see init.log)", err)
	}
	return m, nil
}

// powerCut kills everything on the node at once; its mounts go with it, its disk stays.
func (m *machine) powerCut() error {
	m.rpc.Close()
	if err := m.init.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	// Wait returns when the init is reaped, which the kernel allows after the last process of its namespace.
	err := m.init.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

// start runs a component in the background; its output goes to the log of its name.
func (m *machine) start(name string, argv ...string) error {
	var pid int
	return m.rpc.Call("Node.Start", m.command(name, argv), &pid)
}

func (m *machine) command(name string, argv []string) StartArgs {
	if !strings.HasPrefix(argv[0], "/") {
		if path, err := exec.LookPath(argv[0]); err == nil {
			argv = append([]string{path}, argv[1:]...)
		}
	}
	return StartArgs{
		Name: name, Argv: argv, Log: filepath.Join(nodeRun, "logs", name+".log"),
		Env: []string{"PATH=" + nodeBin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
	}
}

// kill ends a component and returns when it is gone.
func (m *machine) kill(name string, signal syscall.Signal) error {
	var code int
	return m.rpc.Call("Node.Kill", KillArgs{Name: name, Signal: int(signal)}, &code)
}

// exec runs a program on the node and returns what it printed.
func (m *machine) exec(ctx context.Context, argv ...string) (string, error) {
	name := "exec-" + strconv.FormatInt(m.runs.Add(1), 10)
	log := filepath.Join(m.run, "logs", name+".log")
	defer os.Remove(log)
	if err := m.start(name, argv...); err != nil {
		return "", err
	}
	var code int
	call := m.rpc.Go("Node.Wait", name, &code, nil)
	select {
	case <-call.Done:
	case <-ctx.Done():
		_ = m.kill(name, syscall.SIGKILL) // fails only when it has just ended
		return "", fmt.Errorf("%s on the node: %w", strings.Join(argv, " "), ctx.Err())
	}
	out, _ := os.ReadFile(log)
	if call.Error != nil {
		return string(out), call.Error
	}
	if code != 0 {
		return string(out), fmt.Errorf("%s on the node: exit code %d: %s", strings.Join(argv, " "), code, tail(string(out), 20))
	}
	return string(out), nil
}

// path is the node's path as the sandbox reaches it, mounts of the node included.
func (m *machine) path(nodePath string) string {
	return fmt.Sprintf("/proc/%d/root%s", m.init.Process.Pid, nodePath)
}

// until calls check until it returns nil, and after the deadline returns its last error.
func until(ctx context.Context, limit time.Duration, what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	start := time.Now()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not after %s: %w", what, time.Since(start).Round(time.Second), err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// tail returns the last n lines.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
