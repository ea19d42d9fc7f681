package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// runPrefix starts the name of every run directory and of its cgroups.
const runPrefix = "model-csi-e2e-"

func runBase() string { return filepath.Join(os.TempDir(), "model-csi-e2e") }

func cgroupName(run string) string { return filepath.Base(run) }

// lockRuns keeps others from making and removing run directories. It locks the directory above them, since a lock file
// would be left behind.
func lockRuns() (unlock func(), err error) { return lockFile(os.TempDir(), unix.LOCK_EX) }

// newRun makes a locked run directory. The lock ends with the process.
func newRun() (run string, unlock func(), err error) {
	// RemoveDead must not meet the directory between its creation and its lock.
	done, err := lockRuns()
	if err != nil {
		return "", nil, err
	}
	defer done()
	if err := os.MkdirAll(runBase(), 0o755); err != nil {
		return "", nil, err
	}
	run, err = os.MkdirTemp(runBase(), runPrefix)
	if err != nil {
		return "", nil, err
	}
	// Containers of other users walk through it.
	if err := os.Chmod(run, 0o755); err != nil {
		return "", nil, err
	}
	lock := filepath.Join(run, "lock")
	if unlock, err = lockFile(lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return "", nil, err
	}
	return run, unlock, os.WriteFile(lock, fmt.Append(nil, os.Getpid()), 0o600)
}

// RemoveDead removes the directories and cgroups of runs whose outer process is gone. Their processes, mounts and
// network devices ended with the sandbox.
func RemoveDead() error {
	done, err := lockRuns()
	if err != nil {
		return err
	}
	defer done()
	entries, err := os.ReadDir(runBase())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var all error
	for _, e := range entries {
		run := filepath.Join(runBase(), e.Name())
		if !strings.HasPrefix(e.Name(), runPrefix) {
			continue
		}
		unlock, err := lockFile(filepath.Join(run, "lock"), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			continue // alive
		}
		if err == nil {
			unlock()
		}
		fmt.Fprintln(os.Stderr, "cluster: removing what a dead run left:", run)
		all = errors.Join(all, removeRun(run))
	}
	return all
}

// Serve marks the cluster as one that lives until EndServed is called.
func (c *Cluster) Serve() error {
	return os.WriteFile(filepath.Join(c.run, servedFile), nil, 0o600)
}

// EndServed ends every cluster that called Serve and waits until nothing is left of it.
func EndServed() error {
	entries, err := os.ReadDir(runBase())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		run := filepath.Join(runBase(), e.Name())
		if _, err := os.Stat(filepath.Join(run, servedFile)); err != nil {
			continue
		}
		var pid int
		data, err := os.ReadFile(filepath.Join(run, "lock"))
		if err != nil {
			return err
		}
		if _, err := fmt.Sscan(string(data), &pid); err != nil {
			return fmt.Errorf("read the process of %s: %w", run, err)
		}
		unlock, err := lockFile(filepath.Join(run, "lock"), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			unlock() // dead; RemoveDead's business
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			return fmt.Errorf("end the cluster %s: %w", run, err)
		}
		// Its outer process removes the directory before it lets the lock go.
		if unlock, err = lockFile(filepath.Join(run, "lock"), unix.LOCK_EX); err == nil {
			unlock()
		}
	}
	return RemoveDead()
}

// servedFile marks the run directory of a cluster that a person uses.
const servedFile = "served"

// removeRun removes a run's cgroups and files. It is called when the sandbox has ended.
func removeRun(run string) error {
	err := errors.Join(removeCgroups(cgroupName(run)), os.RemoveAll(run))
	_ = os.Remove(runBase()) // fails while there are others
	return err
}
