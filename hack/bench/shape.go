package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

// shape is a model and a registry that serves it.
type shape struct {
	name, title string
	files       func(scale float64) []artifact.File
	packing     artifact.Packing
	// spoil makes the registry worse than a loopback one.
	spoil func(*registry.Registry)
	// read adds a reader: the time ends when everything has been read once in sequence and touched once through mmap.
	read bool
	// single says that the model is one blob, whose pull is compared with hashing and saving it.
	single bool
	// disk is the rate, in bytes a second, to which the disk is slowed down; 0 leaves it as fast as it is.
	disk int64
	// keep leaves what was pulled until all is measured: making files is slow on ext4 where many were just deleted.
	keep bool
	// takes says which tools take part; nil means all.
	takes func(tool string) bool
	// custom measures something else than pulls.
	custom func(ctx context.Context, o options, j *job, r *shapeResult) error
}

const (
	mib = 1 << 20
	gib = 1 << 30
)

func large(n int, size int64) func(float64) []artifact.File {
	return func(scale float64) (files []artifact.File) {
		for i := range n {
			files = append(files, artifact.Random(fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, n), int64(float64(size)*scale), uint64(i+1)))
		}
		return files
	}
}

func weights(size int64) func(float64) []artifact.File {
	return func(scale float64) []artifact.File {
		return []artifact.File{artifact.Weights("model.safetensors", int64(float64(size)*scale), 1)}
	}
}

func small(n int) func(float64) []artifact.File {
	return func(scale float64) (files []artifact.File) {
		for i := range int(float64(n) * scale) {
			// 1 to 64 KiB, as configs, tokenizers and adapters have.
			files = append(files, artifact.Random(fmt.Sprintf("part-%d/%04d.bin", i%20, i), int64(1+i*7%64)<<10, uint64(i)))
		}
		return files
	}
}

// shapes in the order of the report.
var shapes = []shape{
	{name: "four", title: "four raw layers of 1 GiB", files: large(4, gib)},
	{name: "one", title: "one raw layer of 4 GiB", files: large(1, 4*gib), single: true, takes: noImage},
	{name: "small", title: "2,000 raw layers of 1-64 KiB", files: small(2000), keep: true, takes: noImage},
	{name: "gzip", title: "one tar+gzip layer, 1 GiB of 16 bit weights unpacked", files: weights(gib), packing: artifact.TarGzip},
	{name: "zstd", title: "one tar+zstd layer, 1 GiB of 16 bit weights unpacked", files: weights(gib), packing: artifact.TarZstd},
	{name: "capped", title: "one raw layer of 1 GiB, each connection limited to 100 MB/s", files: large(1, gib), takes: noImage,
		spoil: func(r *registry.Registry) { r.SetPace(100_000_000) }},
	{name: "latency", title: "four raw layers of 256 MiB, 50 ms before each answer", files: large(4, 256*mib), takes: noImage,
		spoil: func(r *registry.Registry) { r.Inject(registry.Rule{}, registry.Latency(50*time.Millisecond)) }},
	// A reset every 1,600 MiB is one in a hundred answers of 16 MiB.
	{name: "resets", title: "four raw layers of 1 GiB, a connection reset every 1,600 MiB", files: large(4, gib), takes: noImage,
		spoil: func(r *registry.Registry) {
			r.Inject(registry.Rule{Kind: registry.KindBlob}, registry.ResetEvery(1600*mib))
		}},
	{name: "reader", title: "four raw layers of 1 GiB, pulled, then read in sequence and touched by mmap", files: large(4, gib), read: true, takes: noLimit},
	{name: "disk", title: "four raw layers of 512 MiB to a disk that writes 100 MB/s", files: large(4, 512*mib), disk: 100_000_000, takes: noImage},
	{name: "push", title: "four files of 1 GiB pushed to a registry", files: large(4, gib), custom: measurePush, takes: noImage},
	{name: "warm", title: "publish of a cached model", files: large(4, 64*mib), custom: measureWarm},
}

// noImage leaves out containerd, which is measured where a container image of the files says something new.
func noImage(tool string) bool { return tool != "containerd" }

// noLimit leaves out the physical limits, which leave nothing to read.
func noLimit(tool string) bool {
	return !slices.ContainsFunc(limits, func(l *limit) bool { return l.title == tool })
}

func shapeNames() (out []string) {
	for _, s := range shapes {
		out = append(out, s.name)
	}
	return out
}

func findShape(name string) (shape, bool) {
	i := slices.IndexFunc(shapes, func(s shape) bool { return s.name == name })
	if i < 0 {
		return shape{}, false
	}
	return shapes[i], true
}

// job is a shape in a registry, and where to pull it to.
type job struct {
	registry *registry.Registry
	// model and image are references to the same files, as ModelPack and as a container image.
	model, image string
	// blobs are the URLs of the model's layers, with their sizes as they are stored.
	blobs map[string]int64
	// files, and their bytes in all.
	files []artifact.File
	bytes int64
	// packing of the layers; compressed says that they are not the files.
	packing    artifact.Packing
	compressed bool
	read       bool
	keep       bool
	// loaded are the layers in memory, while the limit that needs them is measured.
	loaded [][]byte
	// dir is below base, and a new one each time.
	base, dir string
	pulls     int
}

// next names the destination of the next pull.
func (j *job) next() {
	j.pulls++
	j.dir = filepath.Join(j.base, strconv.Itoa(j.pulls))
}

func (s shape) prepare(ctx context.Context, r *registry.Registry, scale float64) (*job, error) {
	files := s.files(scale)
	a, err := artifact.Push(ctx, r.Host(), "bench/model", "v1", files, artifact.Options{Packing: s.packing})
	if err != nil {
		return nil, err
	}
	j := &job{registry: r, model: r.Host() + "/bench/model:v1", files: files, bytes: a.FileBytes, blobs: map[string]int64{}, read: s.read, keep: s.keep, packing: s.packing}
	j.compressed = s.packing != "" && s.packing != artifact.Raw
	for _, l := range a.Layers {
		j.blobs[r.URL()+"/v2/bench/model/blobs/"+l.Digest.String()] = l.Size
	}
	if s.takes == nil || s.takes("containerd") {
		packing := s.packing
		if !j.compressed {
			packing = artifact.Tar
		}
		if _, err := artifact.Push(ctx, r.Host(), "bench/image", "v1", files, artifact.Options{Generation: artifact.Image, Packing: packing}); err != nil {
			return nil, err
		}
		j.image = r.Host() + "/bench/image:v1"
	}
	if s.spoil != nil {
		s.spoil(r)
	}
	return j, nil
}
