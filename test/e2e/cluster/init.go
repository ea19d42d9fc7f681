package cluster

import (
	"errors"
	"fmt"
	"net/rpc"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// nodeSupervisor is the init of the node: it starts and ends processes by name for the sandbox, and reaps orphans,
// which containers' shims become by design.
type nodeSupervisor struct {
	mu    sync.Mutex // guards all below, and is held while a process starts so that the reaper knows it
	procs map[string]*nodeProcess
	pids  map[int]*nodeProcess
}

type nodeProcess struct {
	pid    int
	done   chan struct{}
	status syscall.WaitStatus // valid when done is closed
}

// StartArgs is a process to start on the node.
type StartArgs struct {
	Name string // by which it is killed and waited for; unique among the running
	Argv []string
	Env  []string
	Log  string // file that takes its output, appended to
}

// KillArgs ends a process of the node and waits until it is gone.
type KillArgs struct {
	Name   string
	Signal int
}

// runInit is the node's init: it lays out the node's file system and serves the sandbox on file descriptor 3. When that
// is closed, for any reason, it ends, and the kernel ends everything else in its PID namespace.
func runInit() error {
	if err := layOutNode(os.Getenv(runVariable), os.Getenv(binVariable)); err != nil {
		return err
	}
	for _, v := range []string{roleVariable, runVariable, binVariable} {
		os.Unsetenv(v)
	}
	s := &nodeSupervisor{procs: map[string]*nodeProcess{}, pids: map[int]*nodeProcess{}}
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	go func() {
		for range children {
			s.reap()
		}
	}()
	server := rpc.NewServer()
	if err := server.RegisterName("Node", s); err != nil {
		return err
	}
	conn := os.NewFile(3, "supervisor")
	// The children of the node must not hold the connection open.
	unix.CloseOnExec(3)
	server.ServeConn(conn)
	return nil
}

// layOutNode gives the node its own /proc, /sys, /run and /var over a shared root, as systemd would.
func layOutNode(run, bin string) error {
	hs, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	disk := filepath.Join(run, "disk")
	for _, d := range []string{"lib", "log", "tmp"} {
		if err := os.MkdirAll(filepath.Join(disk, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.Symlink("/run", filepath.Join(disk, "run")); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	type mount struct {
		source, target, kind string
		flags                uintptr
		options              string
	}
	mounts := []mount{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		// The run and binary directories appear here, because /run and /var are about to hide others.
		{"tmpfs", "/mnt", "tmpfs", 0, "mode=755"},
	}
	for _, m := range mounts {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("mount %s on the node: %w", m.target, err)
		}
	}
	if err := mountCgroups(hs); err != nil {
		return err
	}
	for source, name := range map[string]string{run: "e2e", bin: "bin"} {
		if err := os.MkdirAll("/mnt/"+name, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(source, "/mnt/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s into the node: %w", source, err)
		}
	}
	if err := maskSysctls(); err != nil {
		return err
	}
	for _, m := range []mount{
		{"/mnt/e2e/disk", "/var", "", unix.MS_BIND, ""},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{"", "/", "", unix.MS_REC | unix.MS_SHARED, ""},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("mount %s on the node: %w", m.target, err)
		}
	}
	return nil
}

// maskSysctls shows kubelet the kernel settings it wants. They belong to the whole machine, not to a namespace, and it
// would change them; what it reads in these files is already right.
func maskSysctls() error {
	for name, value := range map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
	} {
		file := "/mnt/" + strings.ReplaceAll(name, "/", ".")
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(file, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mask the setting %s: %w", name, err)
		}
	}
	return nil
}

func (s *nodeSupervisor) reap() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if p := s.pids[pid]; p != nil {
			p.status = status
			close(p.done)
			delete(s.pids, pid)
		}
	}
}

// Start starts a process on the node.
func (s *nodeSupervisor) Start(a StartArgs, pid *int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.procs[a.Name]; p != nil && s.pids[p.pid] == p {
		return fmt.Errorf("%s runs already on the node, as process %d", a.Name, p.pid)
	}
	log, err := os.OpenFile(a.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	*pid, err = syscall.ForkExec(a.Argv[0], a.Argv, &syscall.ProcAttr{
		Env:   a.Env,
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", a.Name, err)
	}
	p := &nodeProcess{pid: *pid, done: make(chan struct{})}
	s.procs[a.Name], s.pids[*pid] = p, p
	return nil
}

// Wait waits for the end of a process and returns its exit code, or 128 and its signal's number.
func (s *nodeSupervisor) Wait(name string, code *int) error {
	s.mu.Lock()
	p := s.procs[name]
	s.mu.Unlock()
	if p == nil {
		return fmt.Errorf("%s was never started on the node", name)
	}
	<-p.done
	*code = p.status.ExitStatus()
	if p.status.Signaled() {
		*code = 128 + int(p.status.Signal())
	}
	return nil
}

// Kill signals a process and returns when it is gone.
func (s *nodeSupervisor) Kill(a KillArgs, code *int) error {
	s.mu.Lock()
	p := s.procs[a.Name]
	if p == nil || s.pids[p.pid] != p {
		s.mu.Unlock()
		return fmt.Errorf("%s does not run on the node", a.Name)
	}
	err := syscall.Kill(p.pid, syscall.Signal(a.Signal))
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("signal %s: %w", a.Name, err)
	}
	return s.Wait(a.Name, code)
}

// Running reports whether a process runs.
func (s *nodeSupervisor) Running(name string, yes *bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.procs[name]
	*yes = p != nil && s.pids[p.pid] == p
	return nil
}
