package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/test/artifact"
)

// limit is something that no pull can do without, measured alone.
type limit struct {
	title string
	run   func(ctx context.Context, j *job) error
	// prepare does what is not measured; nil does nothing.
	prepare func(ctx context.Context, j *job) error
	// of says which models it is a limit of; nil means all.
	of func(j *job) bool
}

// hashing is what a push cannot do without, either.
var hashing = &limit{title: "sha256", run: hash}

// limits in the order of the report.
var limits = []*limit{
	{title: "get", run: get},
	{title: "save", run: save},
	hashing,
	{title: "unpack", run: unpack, prepare: load, of: func(j *job) bool { return j.compressed }},
	{title: "write", run: write},
}

func (l *limit) name() string        { return l.title }
func (l *limit) version() string     { return "" }
func (l *limit) reference() bool     { return true }
func (l *limit) files(j *job) string { return written(j) }

func (l *limit) start(ctx context.Context, j *job) error {
	if l.prepare == nil {
		return nil
	}
	return l.prepare(ctx, j)
}

func (l *limit) stop(j *job) error {
	j.loaded = nil
	return nil
}

// written is the directory of the files of a limit that writes some.
func written(j *job) string { return filepath.Join(j.dir, "written") }

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
	return download(ctx, j, func(int) string { return os.DevNull })
}

// save downloads them in the same way into files. It leaves them to the page cache: how long the disk takes then is
// measured as for the tools.
func save(ctx context.Context, j *job) error {
	if err := mkdir(written(j)); err != nil {
		return err
	}
	return download(ctx, j, func(n int) string { return filepath.Join(written(j), strconv.Itoa(n)) })
}

// download asks for one blob after the other; file names where the n-th goes.
func download(ctx context.Context, j *job, file func(n int) string) error {
	buffer := make([]byte, mib)
	n := 0
	for url, size := range j.blobs {
		if err := downloadOne(ctx, url, size, file(n), buffer); err != nil {
			return err
		}
		n++
	}
	return nil
}

func downloadOne(ctx context.Context, url string, size int64, file string, buffer []byte) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return fetch(ctx, url, size, f, buffer)
}

// fetch downloads a blob into w, through the buffer.
func fetch(ctx context.Context, url string, size int64, w io.Writer, buffer []byte) error {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	p, err := http.DefaultClient.Do(q)
	if err != nil {
		return err
	}
	defer func() { _ = p.Body.Close() }()
	// Of both only what is wanted is shown, or they would find a shorter way around the buffer.
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{p.Body}, buffer)
	if err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("%s: %d bytes of %d", url, n, size)
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

// load brings the layers into memory.
func load(ctx context.Context, j *job) error {
	buffer := make([]byte, mib)
	for url, size := range j.blobs {
		b := bytes.NewBuffer(make([]byte, 0, size))
		if err := fetch(ctx, url, size, b, buffer); err != nil {
			return err
		}
		j.loaded = append(j.loaded, b.Bytes())
	}
	return nil
}

// unpack decompresses the layers from memory to nowhere, one after the other, by the decoders that the product uses: a
// stream has one core.
func unpack(_ context.Context, j *job) error {
	for _, layer := range j.loaded {
		var content io.Reader
		var err error
		switch j.packing {
		case artifact.TarGzip:
			content, err = gzip.NewReader(bytes.NewReader(layer))
		case artifact.TarZstd:
			var z *zstd.Decoder
			if z, err = zstd.NewReader(bytes.NewReader(layer), zstd.WithDecoderConcurrency(1)); err == nil {
				defer z.Close()
				content = z
			}
		default:
			err = fmt.Errorf("no decoder for %s", j.packing)
		}
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			return err
		}
	}
	return nil
}

// write writes as many bytes past the page cache, and makes them durable.
func write(ctx context.Context, j *job) error {
	if err := mkdir(written(j)); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(written(j), "file"), os.O_CREATE|os.O_WRONLY|unix.O_DIRECT, 0o600)
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
