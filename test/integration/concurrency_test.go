package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

// TestAHundredPodsShareOneTransfer: all ask for the same cold model at once, and some of them go away meanwhile.
func TestAHundredPodsShareOneTransfer(t *testing.T) {
	w := newWorld(t, registry.Options{})
	files := append(artifact.TinyModel(0), artifact.Random("a.safetensors", 24<<20, 1), artifact.Random("b.safetensors", 24<<20, 2))
	reference, a := w.push("m/shared", files, artifact.Options{})
	w.registry.SetPace(8 << 20) // slow enough that everybody comes before the end
	const pods, impatient = 100, 25
	errs := make([]error, pods)
	var group sync.WaitGroup
	for i := range pods {
		group.Go(func() {
			ctx := t.Context()
			if i < impatient {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, time.Duration(rand.IntN(300))*time.Millisecond)
				defer cancel()
			}
			errs[i] = w.node.Publish(ctx, volume(fmt.Sprintf("csi-%d", i), reference))
		})
	}
	group.Wait()
	w.registry.SetPace(0)
	if sent := w.registry.Stats().BlobBytes; float64(sent) > 1.5*float64(a.LayerBytes) { // on a slow machine a range may be asked for twice
		t.Errorf("the registry sent %d bytes for one model of %d", sent, a.LayerBytes)
	}
	var first syscall.Stat_t
	for i := impatient; i < pods; i++ {
		id := fmt.Sprintf("csi-%d", i)
		if errs[i] != nil {
			t.Errorf("pod %d: %v", i, errs[i])
			continue
		}
		var s syscall.Stat_t
		if err := syscall.Stat(w.node.Target(id)+"/a.safetensors", &s); err != nil {
			t.Error(err)
		}
		if i == impatient {
			first = s
			shows(t, w.node.Target(id), files)
		}
		if s.Ino != first.Ino {
			t.Errorf("pod %d has a copy of its own", i)
		}
	}
	for i := range pods {
		w.mustUnpublish(fmt.Sprintf("csi-%d", i))
	}
}

// TestNothingPilesUp: a pull leaves no goroutine, no file and no connection behind in the daemon.
func TestNothingPilesUp(t *testing.T) {
	w := newWorld(t, registry.Options{}, "--http-address", "127.0.0.1:0")
	address := w.httpAddress()
	pull := func(i int) {
		files := []artifact.File{artifact.Random("a.safetensors", 3<<20, uint64(i)), artifact.Text("config.json", strconv.Itoa(i))}
		reference, _ := w.push(fmt.Sprintf("m/leak%d", i), files, artifact.Options{Packing: []artifact.Packing{artifact.Raw, artifact.TarGzip, artifact.TarZstd}[i%3]})
		id := fmt.Sprintf("csi-%d", i)
		if i%4 == 3 { // and one in four fails
			injection := w.registry.Inject(registry.Rule{Kind: registry.KindBlob}, registry.Corrupt(1))
			if err := w.node.Publish(t.Context(), volume(id, reference)); err == nil {
				t.Error("a corrupt blob was accepted")
			}
			injection.Remove()
			return
		}
		w.mustPublish(volume(id, reference))
		w.mustUnpublish(id)
	}
	for i := range 4 {
		pull(i)
	}
	// Idle connections end after a while or stay in a pool of a fixed size: what counts is that the numbers stop growing.
	settle := func() (goroutines, files int) {
		goroutines, files = 1<<30, 1<<30
		for range 20 {
			open, err := w.node.OpenFiles()
			if err != nil {
				t.Fatal(err)
			}
			goroutines, files = min(goroutines, metric(t, address, "go_goroutines")), min(files, len(open))
			time.Sleep(50 * time.Millisecond)
		}
		return goroutines, files
	}
	goroutines, files := settle()
	for i := 4; i < 20; i++ {
		pull(i)
	}
	// How many connections there were differs from time to time, until those that idle are closed.
	var moreGoroutines, moreFiles int
	until(t, "goroutines and files are as few as before", func() bool {
		moreGoroutines, moreFiles = settle()
		return moreGoroutines <= goroutines+4 && moreFiles <= files+2
	})
	if t.Failed() {
		open, _ := w.node.OpenFiles()
		t.Errorf("16 pulls left %d goroutines besides %d, %d open files besides %d: %v", moreGoroutines-goroutines, goroutines, moreFiles-files, files, open)
	}
}

// httpAddress is where the daemon serves health and metrics; it was started with the port 0.
func (w *world) httpAddress() string {
	w.t.Helper()
	var served []string
	until(w.t, "the log says where metrics are", func() bool {
		served = regexp.MustCompile(`"health and metrics are served" address=(\S+)`).FindStringSubmatch(w.node.Log())
		return served != nil
	})
	if served == nil {
		w.t.FailNow()
	}
	return served[1]
}

func metric(t *testing.T, address, name string) int {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Body.Close() }()
	var body [1 << 20]byte
	n := 0
	for {
		k, err := p.Body.Read(body[n:])
		n += k
		if err != nil {
			break
		}
	}
	m := regexp.MustCompile(`(?m)^` + name + ` ([0-9.e+]+)$`).FindSubmatch(body[:n])
	if m == nil {
		t.Fatalf("no metric %s in %s", name, body[:n])
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return int(v)
}

// TestMemoryStaysBounded pulls far more bytes than the daemon may hold. It uses a build without the race detector, whose
// shadow memory is not the product's.
func TestMemoryStaysBounded(t *testing.T) {
	dir := t.TempDir()
	plain := binary
	if raceEnabled {
		var err error
		if plain, err = build(dir, false); err != nil {
			t.Fatal(err)
		}
	}
	under := binary
	binary = plain
	defer func() { binary = under }()
	for _, packing := range []artifact.Packing{artifact.Raw, artifact.TarZstd} {
		t.Run(string(packing), func(t *testing.T) {
			w := newWorld(t, registry.Options{})
			layers := 4
			if packing != artifact.Raw {
				layers = 1 // packing takes longer than pulling
			}
			var files []artifact.File
			for i := range layers {
				files = append(files, artifact.Random(fmt.Sprintf("%d.safetensors", i), 256<<20, uint64(i)))
			}
			reference, _ := w.push("m/large", files, artifact.Options{Packing: packing})
			w.mustPublish(volume("csi-large", reference))
			peak, err := w.node.PeakRSS()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("peak RSS %d MiB", peak>>20)
			if peak > 256<<20 {
				t.Errorf("the daemon had %d MiB resident", peak>>20)
			}
			w.mustUnpublish("csi-large")
		})
	}
}
