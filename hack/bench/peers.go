package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/model-csi/model-csi/test/peer"
)

// measured runs a command and says what it used. The peak of its memory is sampled: what the kernel reports about an
// ended process includes the peak of the process that started it.
func measured(cmd *exec.Cmd) (usage, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return usage{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var u usage
	for {
		select {
		case err := <-ended:
			if err != nil {
				text := out.String()
				return usage{}, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.TrimSpace(text[max(0, len(text)-500):]))
			}
			u.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
			return u, nil
		case <-time.After(20 * time.Millisecond):
			u.memory = max(u.memory, peakMemory(cmd.Process.Pid))
		}
	}
}

// command is a peer that is one program run.
type command struct {
	title, path, release string
	args                 func(j *job) []string
}

func (c *command) name() string                      { return c.title }
func (c *command) version() string                   { return c.release }
func (c *command) reference() bool                   { return false }
func (c *command) start(context.Context, *job) error { return nil }
func (c *command) stop(*job) error                   { return nil }
func (c *command) files(j *job) string               { return filepath.Join(j.dir, "layout", "blobs") }

func (c *command) pull(ctx context.Context, j *job) (usage, error) {
	return measured(exec.CommandContext(ctx, c.path, c.args(j)...))
}

func newOras(ctx context.Context) (tool, error) {
	path, err := peer.ORAS.Build(ctx)
	return &command{title: "oras", path: path, release: peer.ORAS.Version, args: func(j *job) []string {
		return []string{"copy", "--no-tty", "--from-plain-http", j.model, "--to-oci-layout", filepath.Join(j.dir, "layout") + ":v1"}
	}}, err
}

func newCrane(ctx context.Context) (tool, error) {
	path, err := peer.Crane.Build(ctx)
	return &command{title: "crane", path: path, release: peer.Crane.Version, args: func(j *job) []string {
		return []string{"pull", "--insecure", "--format=oci", j.model, filepath.Join(j.dir, "layout")}
	}}, err
}

// containerd pulls and unpacks the same files as a container image, which is what an image volume costs.
type containerd struct {
	daemon, ctr string
	cmd         *exec.Cmd
	dir         string
}

func newContainerd(ctx context.Context) (tool, error) {
	daemon, err := peer.Containerd.Build(ctx)
	if err != nil {
		return nil, err
	}
	ctr, err := peer.CTR.Build(ctx)
	return &containerd{daemon: daemon, ctr: ctr}, err
}

func (c *containerd) name() string    { return "containerd" }
func (c *containerd) version() string { return peer.Containerd.Version }
func (c *containerd) reference() bool { return false }

func (c *containerd) socket() string { return filepath.Join(c.dir, "s") }

func (c *containerd) files(*job) string {
	return filepath.Join(c.dir, "root", "io.containerd.snapshotter.v1.overlayfs", "snapshots")
}

func (c *containerd) start(ctx context.Context, j *job) error {
	c.dir = j.dir
	config := fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.cri.v1.runtime", "io.containerd.cri.v1.images", "io.containerd.grpc.v1.cri"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`, filepath.Join(c.dir, "root"), filepath.Join(c.dir, "state"), c.socket(), c.socket()+".ttrpc")
	file := filepath.Join(c.dir, "config.toml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		return err
	}
	var out bytes.Buffer
	c.cmd = exec.Command(c.daemon, "--config", file, "--log-level", "warn")
	c.cmd.Stdout, c.cmd.Stderr = &out, &out
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := exec.CommandContext(ctx, c.ctr, "-a", c.socket(), "version").Run()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			return errors.Join(fmt.Errorf("containerd does not start: %w: %s", err, out.String()), ctx.Err())
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (c *containerd) pull(ctx context.Context, j *job) (usage, error) {
	before := processCPU(c.cmd.Process.Pid)
	u, err := measured(exec.CommandContext(ctx, c.ctr, "-a", c.socket(), "images", "pull", "--plain-http", "--snapshotter", "overlayfs", j.image))
	if err != nil {
		return u, err
	}
	u.cpu += processCPU(c.cmd.Process.Pid) - before
	u.memory += peakMemory(c.cmd.Process.Pid)
	return u, nil
}

func (c *containerd) stop(*job) error {
	if c.cmd == nil {
		return nil
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.cmd.Wait() // it was told to end
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		_ = c.cmd.Process.Kill()
		<-done
	}
	c.cmd = nil
	return nil
}

// processCPU is what a process has computed so far; 0 when it is gone.
func processCPU(pid int) time.Duration {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] { // utime and stime of proc_pid_stat(5), behind the name
		n, _ := strconv.Atoi(f)
		ticks += n
	}
	return time.Duration(ticks) * time.Second / 100
}

// peakMemory is the most that a process had resident, in bytes; 0 when it is gone.
func peakMemory(pid int) int64 {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(content)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}
