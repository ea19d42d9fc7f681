package ingest

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/model-csi/model-csi/pkg/model"
)

// These measure the engine without a network and a disk: what it costs to receive, hash and hand out bytes.

// fromMemory answers at once.
func fromMemory(data []byte) OpenFunc {
	return func(_ context.Context, offset, length int64) (Body, error) {
		if length < 0 {
			length = int64(len(data)) - offset
		}
		return Body{ReadCloser: io.NopCloser(bytes.NewReader(data[offset : offset+length])), Offset: offset, Length: length}, nil
	}
}

// nowhere is a File and a Member that keeps nothing.
type nowhere struct{}

func (nowhere) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nowhere) Resume() (int64, []byte)                { return 0, nil }
func (nowhere) Checkpoint(int64, []byte) error         { return nil }
func (nowhere) Commit() error                          { return nil }

type dropped struct{}

func (dropped) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (dropped) Commit(model.Blob) error                { return nil }
func (dropped) Close() error                           { return nil }

func benchmarkEngine() *Engine { return New(Options{Logger: slog.New(slog.DiscardHandler)}) }

func BenchmarkFile(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20, 64 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			data, e := content(size, 30), benchmarkEngine()
			job := Job{Blob: blobOf(data), Host: "h", Open: fromMemory(data)}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if err := e.File(b.Context(), job, nowhere{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkArchive takes an archive of 32 MiB apart whose bytes compress by about a half.
func BenchmarkArchive(b *testing.B) {
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	for i := range 32 {
		data := content(1<<20, uint64(i+40))
		for at := range data {
			data[at] &= 0x0f
		}
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint("f", i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data))}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.Fatal(err)
	}
	var zipped, zstandard bytes.Buffer
	gz := gzip.NewWriter(&zipped)
	zs, err := zstd.NewWriter(&zstandard)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []io.WriteCloser{gz, zs} {
		if _, err := c.Write(plain.Bytes()); err != nil {
			b.Fatal(err)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
	for name, data := range map[string][]byte{"tar": plain.Bytes(), "gzip": zipped.Bytes(), "zstd": zstandard.Bytes()} {
		b.Run(name, func(b *testing.B) {
			e := benchmarkEngine()
			job := Job{Blob: blobOf(data), Host: "h", Open: fromMemory(data)}
			b.SetBytes(int64(plain.Len()))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.Archive(b.Context(), job, Tar, func(int64, bool) (Member, error) { return dropped{}, nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
