package pull

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/model-csi/model-csi/pkg/grant"
	"github.com/model-csi/model-csi/pkg/ingest"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/store"
)

// BenchmarkPull measures whole pulls from a registry in memory: many small layers and few large ones, cold, and a model
// that the node has.
func BenchmarkPull(b *testing.B) {
	shapes := map[string][]layerSpec{"small": nil, "large": {{path: "w", data: noise(64<<20, 1)}}}
	for i := range 500 {
		shapes["small"] = append(shapes["small"], layerSpec{path: fmt.Sprint("f", i), data: noise(4000+i, uint64(i))})
	}
	for name, layers := range shapes {
		r := newFakeRegistry()
		bytes := int64(0)
		for _, l := range layers {
			bytes += int64(len(l.data))
		}
		r.push(b, "m:v1", layers...)
		b.Run(name+"/cold", func(b *testing.B) {
			b.SetBytes(bytes)
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				p, request := benchmarkPuller(b, r)
				b.StartTimer()
				benchmarkOne(b, p, request)
			}
		})
		b.Run(name+"/warm", func(b *testing.B) {
			p, request := benchmarkPuller(b, r)
			benchmarkOne(b, p, request)
			b.ReportAllocs()
			for b.Loop() {
				benchmarkOne(b, p, request)
			}
		})
	}
}

func benchmarkOne(b *testing.B, p *Puller, r Request) {
	b.Helper()
	result, err := p.Pull(b.Context(), r)
	if err != nil {
		b.Fatal(err)
	}
	result.Release()
}

func benchmarkPuller(b *testing.B, r *fakeRegistry) (*Puller, Request) {
	b.Helper()
	root, log := b.TempDir(), slog.New(slog.DiscardHandler)
	s, err := store.Open(root, store.Options{Policy: store.Policy{ReserveBytes: 1}, Logger: log})
	if err != nil {
		b.Fatal(err)
	}
	grants, err := grant.Open(root, grant.Options{})
	if err != nil {
		b.Fatal(err)
	}
	p := New(Options{Source: source.Mux{model.SchemeOCI: r}, Store: s, Engine: ingest.New(ingest.Options{Logger: log}), Grants: grants, Logger: log})
	b.Cleanup(func() {
		p.Close()
		_ = s.Close()
	})
	ref, err := model.ParseRef("registry.example.com/m:v1")
	if err != nil {
		b.Fatal(err)
	}
	return p, Request{Ref: ref}
}
