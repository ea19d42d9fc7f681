package store

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// These measure the disk that holds the temporary directory: set TMPDIR to one that counts.

func benchmarkStore(b *testing.B) *Store {
	b.Helper()
	s, err := Open(b.TempDir(), Options{Policy: roomy})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	return s
}

// BenchmarkWriter writes, syncs and commits a blob of 64 MiB in the ways that there are.
func BenchmarkWriter(b *testing.B) {
	const size = 64 << 20
	for name, cache := range map[string]CachePolicy{"buffered": CacheAll, "direct": CacheNone, "auto": CacheCheap} {
		b.Run(name, func(b *testing.B) {
			s := benchmarkStore(b)
			data := alignedBlock(16 << 20)
			b.SetBytes(size)
			n := uint64(0)
			for b.Loop() {
				n++
				// The store believes the digest that it is given.
				blob := model.Blob{Digest: digest.FromString(fmt.Sprint(name, n)), Size: size}
				w, err := s.NewWriter(blob, WriterOptions{Cache: cache})
				if err != nil {
					b.Fatal(err)
				}
				for off := 0; off < size; off += len(data) {
					if _, err := w.WriteAt(data, int64(off)); err != nil {
						b.Fatal(err)
					}
				}
				if err := w.Commit(); err != nil {
					b.Fatal(err)
				}
				if _, err := s.Evict(b.Context(), Everything); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkSmallBlobs commits blobs of 4 KiB from 64 goroutines; an operation is one blob.
func BenchmarkSmallBlobs(b *testing.B) {
	s := benchmarkStore(b)
	var left, names atomic.Int64
	left.Store(int64(b.N))
	b.ReportAllocs()
	b.ResetTimer()
	var group sync.WaitGroup
	for range 64 {
		group.Go(func() {
			data := make([]byte, 4<<10)
			for left.Add(-1) >= 0 {
				binary.LittleEndian.PutUint64(data, uint64(names.Add(1)))
				blob := model.Blob{Digest: digest.FromBytes(data), Size: int64(len(data))}
				w, err := s.NewWriter(blob, WriterOptions{})
				if err == nil {
					if _, err = w.WriteAt(data, 0); err == nil {
						err = w.Commit()
					}
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
}
