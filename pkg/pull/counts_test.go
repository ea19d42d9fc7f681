package pull

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding"
	"flag"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
)

// The tests here guard what a pull costs by counting, because seconds say nothing on a shared machine: requests, bytes
// received, hashed, written and read, system calls, allocations.

// counted is a source that counts what is asked of it.
type counted struct {
	source.Source
	mu       sync.Mutex // guards requests
	requests map[digest.Digest]int
	received atomic.Int64
	asked    atomic.Int64 // questions about manifests
}

func (c *counted) Repository(ref model.Ref, as model.Credential) (source.Repository, error) {
	r, err := c.Source.Repository(ref, as)
	return countedRepository{r, c}, err
}

type countedRepository struct {
	source.Repository
	c *counted
}

func (r countedRepository) Resolve(ctx context.Context, want model.Selection) (source.Snapshot, error) {
	r.c.asked.Add(1)
	return r.Repository.Resolve(ctx, want)
}

func (r countedRepository) Check(ctx context.Context, d digest.Digest) error {
	r.c.asked.Add(1)
	return r.Repository.Check(ctx, d)
}

func (r countedRepository) ReadRange(ctx context.Context, b model.Blob, offset, length int64) (source.Body, error) {
	r.c.mu.Lock()
	r.c.requests[b.Digest]++
	r.c.mu.Unlock()
	body, err := r.Repository.ReadRange(ctx, b, offset, length)
	if err == nil {
		body.ReadCloser = countedBody{body.ReadCloser, r.c}
	}
	return body, err
}

type countedBody struct {
	io.ReadCloser
	c *counted
}

func (b countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.c.received.Add(int64(n))
	return n, err
}

// countedHash is SHA-256 that counts.
type countedHash struct {
	hash.Hash
	n *atomic.Int64
}

func (h countedHash) Write(p []byte) (int, error) {
	h.n.Add(int64(len(p)))
	return h.Hash.Write(p)
}

func (h countedHash) MarshalBinary() ([]byte, error) {
	return h.Hash.(encoding.BinaryMarshaler).MarshalBinary()
}

func (h countedHash) UnmarshalBinary(b []byte) error {
	return h.Hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(b)
}

// countHashes counts what package digest hashes with SHA-256 until the test's end.
func countHashes(t *testing.T) *atomic.Int64 {
	t.Helper()
	var n atomic.Int64
	crypto.RegisterHash(crypto.SHA256, func() hash.Hash { return countedHash{sha256.New(), &n} })
	t.Cleanup(func() { crypto.RegisterHash(crypto.SHA256, sha256.New) })
	return &n
}

// cost is what this process has done so far, as the kernel (proc_pid_io(5)) and the runtime count.
type cost struct{ read, written, reads, writes, allocated int64 }

func spent(t *testing.T) cost {
	t.Helper()
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Fatal(err)
	}
	var c cost
	for line := range strings.Lines(string(data)) {
		name, text, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		switch name {
		case "rchar":
			c.read = n
		case "wchar":
			c.written = n
		case "syscr":
			c.reads = n
		case "syscw":
			c.writes = n
		}
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	c.allocated = int64(m.TotalAlloc)
	return c
}

func (c cost) since(before cost) cost {
	return cost{c.read - before.read, c.written - before.written, c.reads - before.reads, c.writes - before.writes, c.allocated - before.allocated}
}

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

func TestCosts(t *testing.T) {
	const (
		large, middle = 40 << 20, 3 << 20
		small         = 100
	)
	r := newFakeRegistry()
	layers := []layerSpec{{path: "large", data: noise(large, 1)}, {path: "middle", data: noise(middle, 2)}}
	for i := range small {
		layers = append(layers, layerSpec{path: fmt.Sprint("small/", i), data: noise(1000+i, uint64(i+10))})
	}
	inTar := map[string]string{"a": string(noise(200_000, 3)), "b": string(noise(1_500_000, 4))}
	layers = append(layers, layerSpec{tar: inTar})
	r.push(t, "m:v1", layers...)
	var total, archive int64
	for _, data := range r.blobs {
		total += int64(len(data))
	}
	for _, text := range inTar {
		archive += int64(len(text))
	}
	c := &counted{requests: map[digest.Digest]int{}}
	n := newNode(t, r, func(o *Options) {
		c.Source, o.Source = o.Source, c
		o.WriteMode = WriteDirect
	})
	request := Request{Ref: parse(t, "registry.example.com/m:v1")}
	hashed := countHashes(t)

	before := spent(t)
	result, err := n.Pull(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	cold := spent(t).since(before)
	result.Release()
	atMost := func(what string, got, most int64) {
		t.Helper()
		if t.Logf("%s: %d of %d", what, got, most); got > most {
			t.Errorf("%s: %d, at most %d are needed", what, got, most)
		}
	}
	if c.asked.Load() != 1 {
		t.Errorf("%d questions about the manifest, one is enough", c.asked.Load())
	}
	for d, requests := range c.requests {
		switch size := len(r.blobs[d]); {
		case size == large:
			// Ranges of 4 MiB before the host's speed is known, and larger ones later.
			atMost("requests for the large layer", int64(requests), large/(4<<20))
		case size >= middle:
			// A quarter of it each, rounded up to a power of two.
			atMost("requests for the middle layer", int64(requests), 3)
		case size > 1<<20: // the archive, of 1.7 MB in ranges of 512 KiB
			atMost("requests for the archive", int64(requests), 4)
		case requests != 1:
			t.Errorf("%d requests for a layer of %d bytes", requests, size)
		}
	}
	if got := c.received.Load(); got != total {
		t.Errorf("%d bytes were received for %d", got, total)
	}
	// Every byte once, the files of the archive twice: as a part of it and for themselves. The rest is for manifests.
	atMost("bytes hashed", hashed.Load(), total+archive+1<<20)
	// The archive is not kept. The rest is for records and the ledger of grants.
	stored := total + archive // the archive is a little more than its files
	for _, data := range r.blobs {
		if len(data) > 1<<20 && len(data) < middle {
			stored -= int64(len(data))
		}
	}
	if cold.written < stored {
		t.Errorf("%d bytes were written of %d: this test counts the wrong thing", cold.written, stored)
	}
	atMost("bytes written", cold.written, stored+stored/100+256<<10)
	// One write a small file and a range or a MiB of an archive; the last part of a file is a write of its own, since it
	// does not fill a block. Records are some ten. The runtime wakes its poller by a write now and then.
	atMost("write system calls", cold.writes, small+2*10+2*3+8+30+30)
	// Nothing of the model is read back. What is read are records, and what the kernel says about memory and processors.
	atMost("bytes read", cold.read, 128<<10)
	atMost("read system calls", cold.reads, 200)
	// Buffers are no garbage; an archive has 4 MiB of its own. A layer costs some 20 KiB for its plan, its requests and its
	// file; the race detector more.
	atMost("bytes allocated", cold.allocated, (4+16)<<20+(small+3)*64<<10)

	t.Run("warm", func(t *testing.T) {
		for range 2 { // the tree is remembered from the first time on
			asked, received := c.asked.Load(), c.received.Load()
			hashed.Store(0)
			before := spent(t)
			result, err := n.Pull(t.Context(), request)
			if err != nil {
				t.Fatal(err)
			}
			warm := spent(t).since(before)
			result.Release()
			if c.asked.Load() != asked || c.received.Load() != received || !result.Warm {
				t.Error("the network was used")
			}
			// The runtime wakes its poller by writing 8 bytes, as often as it likes; the smallest record has more than 64.
			// Where go test may remember results, this process also writes down which files it opens.
			if f := flag.Lookup("test.testlogfile"); f == nil || f.Value.String() == "" {
				atMost("bytes written", warm.written, 8*warm.writes)
			}
			// The records of the tag and the manifest, of 36 KiB.
			atMost("bytes read", warm.read, 64<<10)
			atMost("bytes hashed", hashed.Load(), 64<<10)
		}
	})
}

// TestNothingIsLeft counts what the process has open before and after a node's life.
func TestNothingIsLeft(t *testing.T) {
	files := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	r := newFakeRegistry()
	r.push(t, "m:v1", layerSpec{path: "large", data: noise(40<<20, 1)}, layerSpec{path: "small", data: noise(100, 2)},
		layerSpec{tar: map[string]string{"a": "a", "b": string(noise(3<<20, 3))}})
	r.push(t, "broken:v1", layerSpec{path: "other", data: noise(5<<20, 4)})
	for _, mode := range []WriteMode{WriteAuto, WriteDirect, WriteBuffered} {
		before, routines := files(), runtime.NumGoroutine()
		n := newNode(t, r, func(o *Options) { o.WriteMode = mode })
		result, err := n.Pull(t.Context(), Request{Ref: parse(t, "registry.example.com/m:v1")})
		if err != nil {
			t.Fatal(err)
		}
		result.Release()
		if got := files(); got != before+1 {
			t.Errorf("%s: %d files are open after a pull, %d before; only the lock of the store should be", mode, got, before)
		}
		r.mu.Lock()
		r.spoil = func(_ digest.Digest, data []byte) []byte { return append([]byte("x"), data[1:]...) }
		r.mu.Unlock()
		if _, err := n.Pull(t.Context(), Request{Ref: parse(t, "registry.example.com/broken:v1")}); err == nil {
			t.Fatal("a damaged layer was accepted")
		}
		r.mu.Lock()
		r.spoil = nil
		r.mu.Unlock()
		n.stop(t)
		if got := files(); got != before {
			t.Errorf("%s: %d files are open at the end, %d before", mode, got, before)
		}
		for range 10_000 { // those that end are given the time to
			if runtime.NumGoroutine() <= routines {
				break
			}
			time.Sleep(time.Millisecond)
		}
		if got := runtime.NumGoroutine(); got > routines {
			buf := make([]byte, 1<<20)
			t.Errorf("%s: %d goroutines run at the end, %d before:\n%s", mode, got, routines, buf[:runtime.Stack(buf, true)])
		}
	}
}
