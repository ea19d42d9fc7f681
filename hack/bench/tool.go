package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tool pulls models.
type tool interface {
	name() string
	// version for the report.
	version() string
	// reference says that this is no tool but a physical limit, which is shown and not compared.
	reference() bool
	// start prepares what is not measured: an empty destination with a daemon, where the tool has one.
	start(ctx context.Context, j *job) error
	// pull is what is measured. When it returns, the model is there.
	pull(ctx context.Context, j *job) (usage, error)
	// files is the directory whose files a reader reads.
	files(j *job) string
	// stop ends what start began, and is called in every case.
	stop(j *job) error
}

// usage of the machine by one pull.
type usage struct {
	// cpu in user and system mode, of all processes of the tool.
	cpu time.Duration
	// memory is the most that the tool had resident, in bytes.
	memory int64
}

// sample is one measured pull.
type sample struct {
	Wall time.Duration `json:"wall"`
	// Sync is the part of Wall in which only the filesystem was waited for.
	Sync   time.Duration `json:"sync"`
	Read   time.Duration `json:"read,omitempty"`
	CPU    time.Duration `json:"cpu"`
	Memory int64         `json:"memory"`
	// Disk is what the destination took, in allocated bytes.
	Disk int64 `json:"disk"`
	// Requests and Sent are the registry's counts of blob downloads.
	Requests int   `json:"requests"`
	Sent     int64 `json:"sent"`
}

// once measures one pull of one tool into an empty destination on a synced filesystem.
func once(ctx context.Context, t tool, j *job) (s sample, err error) {
	j.next()
	if err := os.RemoveAll(j.dir); err != nil {
		return s, err
	}
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		return s, err
	}
	defer func() {
		err = errors.Join(err, t.stop(j))
		if !j.keep {
			err = errors.Join(err, os.RemoveAll(j.dir))
		}
	}()
	if err := t.start(ctx, j); err != nil {
		return s, err
	}
	if err := syncFilesystem(j.dir); err != nil {
		return s, err
	}
	j.registry.ResetStats()
	began := time.Now()
	u, err := t.pull(ctx, j)
	if err != nil {
		return s, err
	}
	pulled := time.Now()
	if j.read {
		if err := readAll(t.files(j)); err != nil {
			return s, err
		}
		s.Read = time.Since(pulled)
	} else if err := syncFilesystem(j.dir); err != nil {
		return s, err
	}
	s.Wall = time.Since(began)
	s.Sync = s.Wall - s.Read - pulled.Sub(began)
	s.CPU, s.Memory = u.cpu, u.memory
	stats := j.registry.Stats()
	s.Sent = stats.BlobBytes
	for _, n := range stats.BlobGets {
		s.Requests += n
	}
	s.Disk, err = diskUsage(j.dir)
	return s, err
}

func syncFilesystem(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Syncfs(fd)
}

// diskUsage counts allocated bytes, each inode once, and does not leave the filesystem's own tree through bind mounts.
func diskUsage(dir string) (int64, error) {
	seen := map[uint64]bool{}
	var total int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return nil //nolint:nilerr // removed while we looked
		}
		st := info.Sys().(*syscall.Stat_t)
		if !seen[st.Ino] {
			seen[st.Ino] = true
			total += st.Blocks * 512
		}
		return nil
	})
	return total, err
}

// readAll is the reader of a model: every file once in sequence, and once through a mapping, page by page.
func readAll(dir string) error {
	buffer := make([]byte, mib)
	files := 0
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		files++
		return readFile(name, buffer)
	})
	if err == nil && files == 0 {
		err = fmt.Errorf("there is no file in %s", dir)
	}
	return err
}

func readFile(name string, buffer []byte) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for n := 1; n > 0; {
		n, _ = f.Read(buffer)
	}
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	mapping, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	var touched byte
	for i := 0; i < len(mapping); i += os.Getpagesize() {
		touched ^= mapping[i]
	}
	runtime.KeepAlive(touched) // or the compiler may drop the reads
	return unix.Munmap(mapping)
}
