package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// KeepLogsVariable names an environment variable: when it is set, the logs of a run that passed are kept as well.
const KeepLogsVariable = "MODEL_CSI_E2E_KEEP_LOGS"

// LogBase is where the logs of failed runs are kept.
func LogBase() string { return filepath.Join(os.TempDir(), "model-csi-e2e-logs") }

// PrintLogs writes the end of every component's log to w and keeps the whole logs.
func (c *Cluster) PrintLogs(w io.Writer, lines int) {
	entries, _ := os.ReadDir(c.Logs())
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(c.Logs(), e.Name()))
		if err != nil || len(data) == 0 {
			continue
		}
		fmt.Fprintf(w, "--- %s\n%s\n", e.Name(), tail(string(data), lines))
	}
	c.KeepLogs(w)
}

// KeepLogs copies the logs of the components and of the pods that still exist to LogBase, and says where they are.
func (c *Cluster) KeepLogs(w io.Writer) {
	kept := filepath.Join(LogBase(), filepath.Base(c.run))
	earlier, _ := filepath.Glob(filepath.Join(LogBase(), runPrefix+"*"))
	for _, dir := range earlier {
		_ = os.RemoveAll(dir)
	}
	err := errors.Join(copyRegular(c.Logs(), kept), copyRegular(filepath.Join(c.run, "disk", "log", "pods"), filepath.Join(kept, "pods")))
	if err != nil {
		fmt.Fprintln(w, "keep the logs:", err)
	}
	fmt.Fprintln(w, "the logs are in", kept)
}

// copyRegular copies the regular files of a tree; a tree that is not there is empty.
func copyRegular(from, to string) error {
	return filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		return errors.Join(os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, data, 0o644))
	})
}
