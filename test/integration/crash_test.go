package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

// kills is how many pulls are killed; MODEL_CSI_KILLS sets another number for a long run.
func kills(t *testing.T) int {
	if s := os.Getenv("MODEL_CSI_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("MODEL_CSI_KILLS: %v", err)
		}
		return n
	}
	return 12
}

// TestKilledAtAnyPoint kills the daemon while it pulls, at a random point, again and again: what is visible is always
// right, what was finished is not fetched again, and the volume of another model stays readable throughout.
func TestKilledAtAnyPoint(t *testing.T) {
	w := newWorld(t, registry.Options{})
	keeper := artifact.TinyModel(0)
	keeperRef, _ := w.push("m/keeper", keeper, artifact.Options{})
	keeperTarget := w.mustPublish(volume("csi-keeper", keeperRef))
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)

	files := func(i int) []artifact.File {
		out := []artifact.File{artifact.Text("config.json", fmt.Sprint(i))}
		for k := range 6 {
			out = append(out, artifact.Random(fmt.Sprintf("dir/%d.safetensors", k), int64(1+k)<<20, uint64(100*i+k)))
		}
		return out
	}
	packings := []artifact.Options{{}, {Packing: artifact.TarZstd}, {Packing: artifact.Tar, Together: true}}
	// How long the whole takes is measured first: the kills are spread over that time and a little more.
	reference, _ := w.push("m/measured", files(0), packings[0])
	w.registry.SetPace(24 << 20)
	began := time.Now()
	w.mustPublish(volume("csi-measured", reference))
	whole := time.Since(began)
	w.mustUnpublish("csi-measured")

	for i := 1; i <= kills(t); i++ {
		repository, model := fmt.Sprintf("m/killed%d", i), files(i)
		reference, a := w.push(repository, model, packings[i%len(packings)])
		v := volume("csi-"+strconv.Itoa(i), reference)
		result := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { result <- w.node.Publish(ctx, v) }()
		time.Sleep(time.Duration(random.Int64N(int64(whole) * 12 / 10)))
		w.node.Kill()
		cancel()
		published := <-result == nil

		target := w.node.Target(v.ID)
		mounted := has(t, w.dir, target)
		if published && !mounted {
			t.Error("the volume was published and is not mounted")
		}
		if mounted {
			shows(t, target, model)
		}
		finished := w.blobs()
		shows(t, keeperTarget, keeper)
		w.quiet()

		began := time.Now()
		w.start()
		if took := time.Since(began); took > 20*time.Second { // five are promised to whoever has the machine for himself
			t.Errorf("serving again took %s", took)
		}
		w.registry.ResetStats()
		shows(t, w.mustPublish(v), model)
		if again := fetchedAgain(a.Layers, finished, w.registry.Stats()); len(again) > 3 {
			t.Errorf("%v were finished before the kill and fetched after it", again)
		}
		w.mustPublish(volume("csi-keeper", keeperRef))
		w.mustUnpublish(v.ID)
		if t.Failed() {
			t.Fatalf("iteration %d", i)
		}
	}
	w.mustUnpublish("csi-keeper")
}

// fetchedAgain lists the layers that were finished and fetched all the same. Small ones do not count, whose origin is not
// written down one by one; as many large ones as are fetched at once may lie between the blob and the note where it came from.
func fetchedAgain(layers []ocispec.Descriptor, finished []digest.Digest, s registry.Stats) (out []digest.Digest) {
	for _, l := range layers {
		if l.Size >= 1<<20 && slices.Contains(finished, l.Digest) && s.BlobGets[l.Digest] > 0 {
			out = append(out, l.Digest)
		}
	}
	return out
}

// TestAKilledPullResumes: of a large file, what was checkpointed before the kill is not fetched again.
func TestAKilledPullResumes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registry.Options{})
	const size, held = 320 << 20, 256 << 20
	files := []artifact.File{artifact.Random("large.safetensors", size, 1)}
	reference, a := w.push("m/large", files, artifact.Options{})
	// The end does not come, so that the pull is under way whenever it is killed.
	hold := w.registry.Inject(registry.Rule{Kind: registry.KindBlob}, holdBehind(held))
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- w.node.Publish(ctx, volume("csi-large", reference)) }()
	checkpoint := func() int64 {
		names, _ := filepath.Glob(filepath.Join(w.node.Root(), "ingest", "*"+a.Layers[0].Digest.Encoded()+"*.json"))
		var c struct{ Offset int64 }
		for _, name := range names {
			if content, err := os.ReadFile(name); err == nil {
				_ = json.Unmarshal(content, &c)
			}
		}
		return c.Offset
	}
	until(t, "a checkpoint is written, and most has come", func() bool {
		return checkpoint() > 0 && w.registry.Stats().BlobBytes > held*3/4
	})
	w.node.Kill()
	cancel()
	if err := <-result; err == nil {
		t.Error("the volume was published without its end")
	}
	kept := checkpoint()
	hold.Remove()
	w.start()
	w.registry.ResetStats()
	target := w.mustPublish(volume("csi-large", reference))
	sent := w.stats().BlobBytes
	t.Logf("of %d bytes %d were kept and %d sent again", int64(size), kept, sent)
	if limit := size - kept + 16<<20; kept == 0 || sent > limit { // one range may be asked for twice
		t.Errorf("%d bytes of %d were fetched after the kill, %d were kept", sent, int64(size), kept)
	}
	shows(t, target, files)
	w.mustUnpublish("csi-large")
}

// holdBehind lets those wait who ask for ranges behind an offset.
func holdBehind(offset int64) registry.Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			var from, to int64
			if n, _ := fmt.Sscanf(q.Header.Get("Range"), "bytes=%d-%d", &from, &to); n == 2 && to >= offset {
				<-q.Context().Done()
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, q)
		})
	}
}

// TestRestartWithoutTheRegistry: live mounts and cached models need nobody.
func TestRestartWithoutTheRegistry(t *testing.T) {
	w := newWorld(t, registry.Options{})
	files := artifact.TinyModel(1 << 16)
	reference, _ := w.push("m/tiny", files, artifact.Options{Packing: artifact.TarGzip})
	target := w.mustPublish(volume("csi-1", reference))
	if err := w.registry.Close(); err != nil {
		t.Fatal(err)
	}
	for _, end := range []func(){func() { w.node.Kill() }, func() {
		if err := w.node.Stop(); err != nil {
			t.Error(err)
		}
	}} {
		end()
		shows(t, target, files)
		w.start()
		if err := w.node.Publish(t.Context(), volume("csi-1", reference)); err != nil {
			t.Errorf("publish again on a live mount: %v", err)
		}
		second := w.mustPublish(volume("csi-2", reference))
		shows(t, second, files)
		w.mustUnpublish("csi-2")
	}
	w.mustUnpublish("csi-1")
}
