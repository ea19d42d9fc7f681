package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// limit is something that no pull can do without, measured alone.
type limit struct {
	title string
	run   func(ctx context.Context, j *job) error
}

func (l *limit) name() string                      { return l.title }
func (l *limit) version() string                   { return "" }
func (l *limit) reference() bool                   { return true }
func (l *limit) start(context.Context, *job) error { return nil }
func (l *limit) stop(*job) error                   { return nil }
func (l *limit) files(j *job) string               { return filepath.Join(j.dir, "written") }

// pull runs in this process, whose own work is next to nothing beside it.
func (l *limit) pull(ctx context.Context, j *job) (usage, error) {
	before := cpuTime()
	err := l.run(ctx, j)
	return usage{cpu: cpuTime() - before}, err
}

func cpuTime() time.Duration {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// get downloads all blobs, one after the other, to nowhere.
func get(ctx context.Context, j *job) error {
	buffer := make([]byte, mib)
	for url, size := range j.blobs {
		q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		p, err := http.DefaultClient.Do(q)
		if err != nil {
			return err
		}
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{p.Body}, buffer)
		_ = p.Body.Close()
		if err != nil || n != size {
			return fmt.Errorf("%s: %d bytes of %d: %w", url, n, size, err)
		}
	}
	return nil
}

// hash computes SHA-256 over as many bytes, from memory, on one core.
func hash(ctx context.Context, j *job) error {
	buffer := make([]byte, 16*mib)
	h := sha256.New()
	for left := j.bytes; left > 0 && ctx.Err() == nil; left -= int64(len(buffer)) {
		h.Write(buffer[:min(left, int64(len(buffer)))])
	}
	return ctx.Err()
}

// write writes as many bytes past the page cache, and makes them durable.
func write(ctx context.Context, j *job) error {
	if err := mkdir(filepath.Join(j.dir, "written")); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(j.dir, "written", "file"), os.O_CREATE|os.O_WRONLY|unix.O_DIRECT, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.Fallocate(int(f.Fd()), 0, 0, j.bytes); err != nil {
		return err
	}
	// A mapping is aligned as direct writes need it.
	const step = 16 * mib
	buffer, err := unix.Mmap(-1, 0, step, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Munmap(buffer) }()
	for i := range buffer {
		buffer[i] = byte(i * i >> 3)
	}
	for left := j.bytes; left > 0 && ctx.Err() == nil; left -= step {
		if _, err := f.Write(buffer); err != nil {
			return err
		}
	}
	return f.Sync()
}

func mkdir(dir string) error { return os.MkdirAll(dir, 0o700) }
