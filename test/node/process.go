package node

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// CPU is the time that the daemon has computed so far, in user and system mode together. 0 when it is gone.
func (n *Node) CPU() time.Duration {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.PID()))
	if err != nil {
		return 0
	}
	// Fields are counted behind the name, which may contain blanks: utime and stime are 14 and 15 of proc_pid_stat(5).
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] {
		v, _ := strconv.Atoi(f)
		ticks += v
	}
	return time.Duration(ticks) * time.Second / 100 // USER_HZ is 100 everywhere
}

// PeakRSS is the most memory that the daemon has had resident, in bytes.
func (n *Node) PeakRSS() (int64, error) { return n.memory("VmHWM:") }

// RSS is the memory that is resident now, in bytes.
func (n *Node) RSS() (int64, error) { return n.memory("VmRSS:") }

func (n *Node) memory(field string) (int64, error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.PID()))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(content) {
		if rest, ok := bytes.CutPrefix(line, []byte(field)); ok {
			kib, err := strconv.ParseInt(strings.Fields(string(rest))[0], 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s is not in the status of process %d", field, n.PID())
}

// OpenFiles lists what the daemon's file descriptors refer to.
func (n *Node) OpenFiles() ([]string, error) {
	dir := fmt.Sprintf("/proc/%d/fd", n.PID())
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			out = append(out, to)
		}
	}
	return out, nil
}

// Mounts lists the mount points below dir in this namespace.
func Mounts(dir string) ([]string, error) {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range bytes.Lines(content) {
		fields := strings.Fields(string(line))
		if at := fields[4]; strings.HasPrefix(at, dir+"/") {
			out = append(out, at)
		}
	}
	return out, nil
}
