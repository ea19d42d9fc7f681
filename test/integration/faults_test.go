package integration

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

// TestFaultsEndInTheRightBytes spoils the transfer of a model in every way a network or a registry does.
func TestFaultsEndInTheRightBytes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registry.Options{})
	blobs := func(r registry.Rule) registry.Rule {
		r.Kind, r.Method = registry.KindBlob, http.MethodGet
		return r
	}
	manifests := registry.Rule{Kind: registry.KindManifest, Times: 2}
	tests := map[string]struct {
		rule  registry.Rule
		fault registry.Fault
		pack  artifact.Packing
		// extra is how many times the model may be transferred besides once.
		extra float64
		// final says that the answer may be DataLoss, after which kubelet tears down and asks again.
		final bool
	}{
		"too many requests":         {rule: blobs(registry.Rule{Times: 4}), fault: registry.Status(429, time.Second)},
		"unavailable":               {rule: blobs(registry.Rule{Times: 4}), fault: registry.Status(503, 0)},
		"bad gateway":               {rule: blobs(registry.Rule{Times: 4}), fault: registry.Status(502, 0)},
		"manifest unavailable":      {rule: manifests, fault: registry.Status(503, 0)},
		"manifest reset":            {rule: manifests, fault: registry.Reset(0)},
		"manifest too many":         {rule: manifests, fault: registry.Status(429, time.Second)},
		"resets":                    {rule: blobs(registry.Rule{Every: 2, Times: 8}), fault: registry.Reset(300_000), extra: 1},
		"reset at once":             {rule: blobs(registry.Rule{Every: 2, Times: 4}), fault: registry.Reset(0)},
		"truncated":                 {rule: blobs(registry.Rule{Every: 2, Times: 8}), fault: registry.Truncate(1_000_001), extra: 1},
		"truncated, gzip":           {rule: blobs(registry.Rule{Every: 2, Times: 8}), fault: registry.Truncate(1_000_001), pack: artifact.TarGzip, extra: 1},
		"resets, zstd":              {rule: blobs(registry.Rule{Every: 2, Times: 8}), fault: registry.Reset(300_000), pack: artifact.TarZstd, extra: 1},
		"200 for 206":               {rule: blobs(registry.Rule{}), fault: registry.IgnoreRange(), extra: 1},
		"200 for 206, zstd":         {rule: blobs(registry.Rule{}), fault: registry.IgnoreRange(), pack: artifact.TarZstd, extra: 1},
		"200 for 206 in between":    {rule: blobs(registry.Rule{Skip: 1, Every: 2}), fault: registry.IgnoreRange(), extra: 2},
		"another range":             {rule: blobs(registry.Rule{Every: 2, Times: 4}), fault: registry.ShiftRange(4096), extra: 1},
		"too short":                 {rule: blobs(registry.Rule{Every: 2, Times: 6}), fault: registry.Short(700_000), extra: 1, final: true},
		"corrupted on the way":      {rule: blobs(registry.Rule{Times: 1}), fault: registry.Corrupt(77), extra: 1, final: true},
		"latency":                   {rule: registry.Rule{}, fault: registry.Latency(50 * time.Millisecond)},
		"internal error in between": {rule: blobs(registry.Rule{Every: 3, Times: 5}), fault: registry.Status(500, 0)},
	}
	number := uint64(0)
	for name, test := range tests {
		number++
		t.Run(name, func(t *testing.T) {
			w.t = t
			files := []artifact.File{artifact.Weights("a.safetensors", 18<<20, 10*number), artifact.Weights("b.safetensors", 5<<20+1, 10*number+1), artifact.Text("config.json", "{}")}
			reference, a := w.push("m/faults", files, artifact.Options{Packing: test.pack})
			injection := w.registry.Inject(test.rule, test.fault)
			defer injection.Remove()
			v := volume("csi-fault", reference, "pullPolicy", "Always")
			err := w.publish(v)
			if err != nil {
				if !test.final {
					t.Fatal(err)
				}
				w.refused(v, err, codes.DataLoss)
				w.mustPublish(v)
			}
			shows(t, w.node.Target(v.ID), files)
			if injection.Hits() == 0 {
				t.Error("the fault never happened")
			}
			limit := float64(a.LayerBytes) * (1.3 + test.extra) // some may be asked for twice where nothing comes for long
			if s := w.registry.Stats(); float64(s.BlobBytes) > limit {
				t.Errorf("%d bytes were sent for a model of %d", s.BlobBytes, a.LayerBytes)
			}
			w.mustUnpublish(v.ID)
		})
	}
	w.t = t
}

// TestStalledConnectionsAreLeft: half of the downloads hang after some bytes.
func TestStalledConnectionsAreLeft(t *testing.T) {
	t.Parallel() // it waits for a limit of half a minute
	w := newWorld(t, registry.Options{})
	files := []artifact.File{artifact.Random("a.safetensors", 5<<20, 1), artifact.Random("b.safetensors", 5<<20, 2)}
	reference, _ := w.push("m/stall", files, artifact.Options{})
	injection := w.registry.Inject(registry.Rule{Kind: registry.KindBlob, Method: http.MethodGet, Skip: 1, Times: 1}, registry.Stall(100<<10))
	shows(t, w.mustPublish(volume("csi-stall", reference)), files)
	if injection.Hits() != 1 {
		t.Errorf("%d stalls", injection.Hits())
	}
	w.mustUnpublish("csi-stall")
}

// TestCorruptedBlobsAreRefused: a registry that holds wrong bytes for good.
func TestCorruptedBlobsAreRefused(t *testing.T) {
	for _, packing := range []artifact.Packing{artifact.Raw, artifact.TarGzip, artifact.Tar} {
		t.Run(string(packing), func(t *testing.T) {
			w := newWorld(t, registry.Options{})
			files := []artifact.File{artifact.Random("big.safetensors", 20<<20, 1), artifact.Text("config.json", "{}")}
			reference, a := w.push("m/corrupt", files, artifact.Options{Packing: packing})
			injection := w.registry.Inject(registry.Rule{Kind: registry.KindBlob, Reference: a.Layers[0].Digest.String()}, registry.Corrupt(10<<20+5))
			v := volume("csi-corrupt", reference)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			w.refused(v, w.node.Publish(ctx, v), codes.DataLoss, reference)
			for _, d := range w.blobs() {
				if d == a.Layers[0].Digest {
					t.Error("the corrupted blob was kept")
				}
			}
			w.ingested("*" + a.Layers[0].Digest.Encoded() + "*")
			injection.Remove()
			shows(t, w.mustPublish(v), files)
			w.mustUnpublish(v.ID)
		})
	}
}

func TestTokensAndURLsThatExpireDuringAPull(t *testing.T) {
	w := newWorld(t, registry.Options{Users: map[string]string{"puller": "canary-password"}, TokenTTL: time.Hour, CDNTTL: time.Hour})
	files := []artifact.File{artifact.Random("a.safetensors", 40<<20, 1), artifact.Random("b.safetensors", 40<<20, 2)}
	reference, _ := w.push("m/private", files, artifact.Options{User: "puller", Password: "canary-password"})
	w.registry.SetPace(4 << 20)
	// They live for so many bytes, not for a time, within which a slow machine could not make use of them.
	stop := during(24<<20, func() int64 { return w.registry.Stats().BlobBytes }, func() {
		w.registry.ExpireTokens()
		w.registry.ExpireURLs()
	})
	v := volume("csi-private", reference)
	v.Secrets = map[string]string{"username": "puller", "password": "canary-password"}
	shows(t, w.mustPublish(v), files)
	if times := stop(); times == 0 {
		t.Error("no token and no URL expired")
	}
	w.mustUnpublish(v.ID)
	leaksNothing(t, w, "canary-password")
}

func TestCredentialsDecideAlsoWhenTheModelIsCached(t *testing.T) {
	w := newWorld(t, registry.Options{Users: map[string]string{"puller": "canary-password"}})
	files := artifact.TinyModel(0)
	reference, _ := w.push("m/private", files, artifact.Options{User: "puller", Password: "canary-password"})
	allowed := volume("csi-allowed", reference)
	allowed.Secrets = map[string]string{"username": "puller", "password": "canary-password"}
	shows(t, w.mustPublish(allowed), files)

	w.refused(volume("csi-nobody", reference), w.node.Publish(t.Context(), volume("csi-nobody", reference)), codes.Unauthenticated, reference, "anonymous")
	wrong := volume("csi-wrong", reference)
	wrong.Secrets = map[string]string{"username": "puller", "password": "canary-wrong"}
	w.refused(wrong, w.node.Publish(t.Context(), wrong), codes.Unauthenticated, reference)
	odd := volume("csi-odd", reference)
	odd.Secrets = map[string]string{".dockerconfigjson": `{"auths":{"canary-broken`}
	w.refused(odd, w.node.Publish(t.Context(), odd), codes.InvalidArgument, ".dockerconfigjson")

	// What was proven holds while the registry is away, for who proved it.
	if err := w.registry.Close(); err != nil {
		t.Fatal(err)
	}
	again := allowed
	again.ID = "csi-again"
	shows(t, w.mustPublish(again), files)
	err := w.node.Publish(t.Context(), volume("csi-nobody", reference))
	w.refused(volume("csi-nobody", reference), err, codes.Unavailable, reference)
	w.mustUnpublish("csi-allowed", "csi-again")
	leaksNothing(t, w, "canary-")
}

// leaksNothing greps everything that the daemon wrote for a secret.
func leaksNothing(t *testing.T, w *world, canary string) {
	t.Helper()
	if strings.Contains(w.node.Log(), canary) {
		t.Error("the log shows the secret")
	}
	err := filepath.WalkDir(w.node.Root(), func(name string, e os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the daemon goes on working
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if strings.Contains(string(content), canary) {
			t.Errorf("%s holds the secret", name)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
