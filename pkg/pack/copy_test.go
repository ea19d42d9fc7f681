package pack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/model-csi/model-csi/pkg/inspect"
	"github.com/model-csi/model-csi/pkg/model"
)

// place is a registry in memory: an Origin, and a Target for each name.
type place struct {
	mu        sync.Mutex
	blobs     map[digest.Digest][]byte
	documents []string // names of manifests in the order in which they came
	mountable bool
	broken    error
}

func (p *place) put(v any) ocispec.Descriptor {
	data, ok := v.([]byte)
	if !ok {
		data, _ = json.Marshal(v)
	}
	d := digest.FromBytes(data)
	p.blobs[d] = data
	return ocispec.Descriptor{Digest: d, Size: int64(len(data))}
}

func (p *place) Document(_ context.Context, d digest.Digest) (Document, error) {
	data, ok := p.blobs[d]
	if !ok {
		return Document{}, fmt.Errorf("manifest %s: %w", d, model.ErrNotFound)
	}
	return Document{Digest: d, MediaType: "type", Bytes: data}, nil
}

func (p *place) Open(_ context.Context, b model.Blob) func(int64) (io.ReadCloser, error) {
	return func(offset int64) (io.ReadCloser, error) {
		r := io.Reader(bytes.NewReader(p.blobs[b.Digest][offset:]))
		if p.broken != nil {
			r = io.MultiReader(io.LimitReader(r, 2), brokenReader{p.broken})
		}
		return io.NopCloser(r), nil
	}
}

type brokenReader struct{ err error }

func (r brokenReader) Read([]byte) (int, error) { return 0, r.err }

type spot struct {
	*place
	name string
}

func (p *place) at(d digest.Digest) (Target, error) { return spot{p, d.String()}, nil }

func (s spot) Exists(_ context.Context, b model.Blob) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.blobs[b.Digest]
	return ok, nil
}

func (s spot) Mount(context.Context, model.Blob, string) (bool, error) { return s.mountable, nil }

func (s spot) Upload(_ context.Context, b model.Blob, open func(int64) (io.ReadCloser, error), sent func(int64)) error {
	r, err := open(0)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	data, err := io.ReadAll(r)
	if err != nil {
		return errors.New("the content cannot be read")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[b.Digest] = data
	sent(b.Size)
	return nil
}

func (s spot) PutManifest(_ context.Context, _ string, manifest []byte) error {
	s.documents = append(s.documents, s.name)
	s.blobs[digest.FromBytes(manifest)] = manifest
	return nil
}

func newPlace() *place { return &place{blobs: map[digest.Digest][]byte{}} }

func TestCopy(t *testing.T) {
	from := newPlace()
	shared := from.put([]byte("shared weights"))
	manifest := func(own string) ocispec.Descriptor {
		config := from.put([]byte(own))
		return from.put(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{shared}})
	}
	one, two := manifest("one"), manifest("two")
	inner := from.put(ocispec.Index{Manifests: []ocispec.Descriptor{two, one}})
	top := from.put(ocispec.Index{Manifests: []ocispec.Descriptor{one, inner}})
	document, err := from.Document(t.Context(), top.Digest)
	if err != nil {
		t.Fatal(err)
	}
	to := newPlace()
	var events []EventKind
	r, err := Copy(t.Context(), from, document, to.at, CopyOptions{Observer: func(e Event) { events = append(events, e.Kind) }})
	if err != nil {
		t.Fatal(err)
	}
	size := shared.Size + 6
	if r.Digest != top.Digest || r.Bytes != size || r.Sent != size || r.Files != 3 || events[0] != Started || events[len(events)-1] != Finished {
		t.Errorf("%+v, %q", r, events)
	}
	if want := []string{one.Digest.String(), two.Digest.String(), inner.Digest.String(), ""}; !slices.Equal(to.documents, want) {
		t.Errorf("documents came in the order %q, want %q", to.documents, want)
	}
	for d, data := range from.blobs {
		if !bytes.Equal(to.blobs[d], data) {
			t.Errorf("%s is not there", d)
		}
	}
	if r, err = Copy(t.Context(), from, document, to.at, CopyOptions{}); err != nil || r.Existing != size || r.Sent != 0 {
		t.Errorf("again: %+v, %v", r, err)
	}
	near := newPlace()
	near.mountable = true
	if r, err = Copy(t.Context(), from, document, near.at, CopyOptions{MountFrom: []string{"other/name"}}); err != nil || r.Mounted != size {
		t.Errorf("within a registry: %+v, %v", r, err)
	}
	from.broken = fmt.Errorf("blob: %w", model.ErrCorrupt)
	if _, err = Copy(t.Context(), from, document, newPlace().at, CopyOptions{}); !errors.Is(err, model.ErrCorrupt) {
		t.Errorf("a source that breaks off: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = Copy(ctx, from, document, newPlace().at, CopyOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("an interruption: %v", err)
	}
}

func TestCopyRefuses(t *testing.T) {
	tests := map[string]struct {
		manifest string
		kind     error
	}{
		"no JSON":          {"x", model.ErrInvalid},
		"a bad digest":     {`{"layers":[{"digest":"sha256:../..","size":1}]}`, model.ErrInvalid},
		"a negative size":  {`{"config":{"digest":"` + digest.FromString("x").String() + `","size":-1}}`, model.ErrInvalid},
		"what is missing":  {`{"manifests":[{"digest":"` + digest.FromString("x").String() + `","size":1}]}`, model.ErrNotFound},
		"thousands listed": {`{"manifests":[{}` + strings.Repeat(",{}", maxDocuments) + `]}`, model.ErrTooLarge},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			top := Document{Digest: digest.FromString(tt.manifest), Bytes: []byte(tt.manifest)}
			if _, err := Copy(t.Context(), newPlace(), top, newPlace().at, CopyOptions{}); !errors.Is(err, tt.kind) {
				t.Errorf("%v", err)
			}
		})
	}
	p := newPlace()
	d := p.put([]byte("{}"))
	for range maxNesting + 2 {
		d = p.put(ocispec.Index{Manifests: []ocispec.Descriptor{d}})
	}
	top, err := p.Document(t.Context(), d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Copy(t.Context(), p, top, newPlace().at, CopyOptions{}); !errors.Is(err, model.ErrTooLarge) {
		t.Errorf("deep indexes: %v", err)
	}
}

func remote(p, content string) File {
	blob := model.Blob{Digest: digest.FromString(content), Size: int64(len(content))}
	return File{Path: p, Size: blob.Size, Mode: 0o644, Content: &Remote{
		Blob: blob,
		Open: func(_ context.Context, offset int64) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(content[offset:])), nil
		},
		Inspect: func() (inspect.ReadAtCloser, error) { return nil, model.ErrNotFound },
	}}
}

// What is packed from elsewhere is the same as what is packed from a directory.
func TestFilesFromElsewhere(t *testing.T) {
	dir := t.TempDir()
	contents := map[string]string{"config.json": "{}", "README.md": "# x", "w/model.gguf": "GGUF"}
	var files []File
	for name, content := range contents {
		at := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(content), 0o644), os.Chmod(at, 0o644)); err != nil {
			t.Fatal(err)
		}
		files = append(files, remote(name, content))
	}
	scanned, err := Scan(dir, ScanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	listed, err := Files(files, ScanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var digests []digest.Digest
	for _, inv := range []Inventory{scanned, listed} {
		p := newPlace()
		target, _ := p.at("")
		r, err := Push(t.Context(), inv, Config{}, target, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, content := range contents {
			if string(p.blobs[digest.FromString(content)]) != content {
				t.Errorf("%q did not come", content)
			}
		}
		digests = append(digests, r.Digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("%s from disk, %s from elsewhere", digests[0], digests[1])
	}
	target, _ := newPlace().at("")
	if _, err := Push(t.Context(), listed, Config{}, target, Options{Archive: map[Category]Archive{Doc: Tar}}); !errors.Is(err, model.ErrUnsupported) {
		t.Errorf("an archive of what is elsewhere: %v", err)
	}
	for name, bad := range map[string][]File{
		"nothing": nil, "twice": {remote("a", "1"), remote("a", "2")}, "outside": {remote("../a", "1")}, "without content": {{Path: "a"}},
	} {
		if _, err := Files(bad, ScanOptions{}); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInherit(t *testing.T) {
	tests := map[string]struct{ config, want string }{
		"everything": {
			`{"descriptor":{"name":"theirs","vendor":"v","createdAt":"2025-01-02T03:04:05Z"},"modelfs":{"type":"layers","diffIds":["x"]},"config":{"paramSize":"7B","capabilities":{"toolUsage":true}}}`,
			`{"descriptor":{"createdAt":"2025-01-02T03:04:05Z","family":"ours","name":"theirs","vendor":"v"},"modelfs":{"type":"layers"},"config":{"format":"gguf","paramSize":"7B","capabilities":{"toolUsage":true}}}`,
		},
		"a bad size of parameters": {
			`{"config":{"paramSize":"seven"}}`,
			`{"descriptor":{"family":"ours"},"modelfs":{"type":"layers"},"config":{"format":"gguf","paramSize":"1B"}}`,
		},
		"what the specification does not have": {
			`{"config":{"capabilities":{"inputTypes":["text","smell"],"languages":["english","de"]}}}`,
			`{"descriptor":{"family":"ours"},"modelfs":{"type":"layers"},"config":{"format":"gguf","paramSize":"1B","capabilities":{"inputTypes":["text"],"languages":["de"]}}}`,
		},
		"another type": {
			`{"descriptor":{"vendor":"v"},"config":"x"}`,
			`{"descriptor":{"family":"ours"},"modelfs":{"type":"layers"},"config":{"format":"gguf","paramSize":"1B"}}`,
		},
		"no JSON": {``, `{"descriptor":{"family":"ours"},"modelfs":{"type":"layers"},"config":{"format":"gguf","paramSize":"1B"}}`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := Config{Descriptor: Descriptor{Family: "ours"}, Model: Model{Format: "gguf", ParamSize: "1B"}}
			c.Inherit([]byte(tt.config))
			if got, err := c.JSON(ModelPack, nil); err != nil || string(got) != tt.want {
				t.Errorf("%v\ngot  %s\nwant %s", err, got, tt.want)
			}
		})
	}
}
