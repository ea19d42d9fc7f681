package pack_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pack"
)

// memory is a target that keeps everything, and shares blobs with another repository.
type memory struct {
	mu       sync.Mutex
	blobs    map[digest.Digest][]byte
	other    map[digest.Digest]bool
	finds    bool // by itself what others have
	manifest []byte
	uploads  int
	fail     error
}

func newMemory() *memory { return &memory{blobs: map[digest.Digest][]byte{}} }

func (m *memory) Exists(_ context.Context, b model.Blob) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.blobs[b.Digest]
	return ok, nil
}

func (m *memory) Mount(_ context.Context, b model.Blob, from string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if from != "other" && (from != "" || !m.finds) || !m.other[b.Digest] {
		return false, nil
	}
	m.blobs[b.Digest] = nil
	return true, nil
}

func (m *memory) Upload(_ context.Context, b model.Blob, open func(int64) (io.ReadCloser, error), sent func(int64)) error {
	if m.fail != nil {
		return m.fail
	}
	// In two parts, as an upload that breaks would need it.
	var content []byte
	for _, part := range [][2]int64{{0, b.Size / 3}, {b.Size / 3, b.Size}} {
		r, err := open(part[0])
		if err != nil {
			return err
		}
		data, err := io.ReadAll(io.LimitReader(r, part[1]-part[0]))
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
		content = append(content, data...)
		sent(int64(len(content)))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.uploads++
	if d := digest.FromBytes(content); d != b.Digest || int64(len(content)) != b.Size {
		return fmt.Errorf("%d bytes with the digest %s", len(content), d)
	}
	m.blobs[b.Digest] = content
	return nil
}

func (m *memory) PutManifest(_ context.Context, _ string, manifest []byte) error {
	m.manifest = manifest
	return nil
}

func (m *memory) parsed(t *testing.T) ocispec.Manifest {
	t.Helper()
	var out ocispec.Manifest
	if err := json.Unmarshal(m.manifest, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// directory writes files; the first byte of a name may be "*" for an executable.
func directory(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		mode := fs.FileMode(0o644)
		if rest, ok := strings.CutPrefix(name, "*"); ok {
			name, mode = rest, 0o755
		}
		at := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(content), mode), os.Chmod(at, mode)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var files = map[string]string{
	"config.json": `{"model_type":"llama"}`, "b.gguf": "weights", "a/b.safetensors": strings.Repeat("w", 5000), "*code/run.sh": "#!/bin/sh\n", "README.md": "# A model\n",
	"data/train.jsonl": "{}\n", "empty.py": "", "copy.gguf": "weights",
}

func scan(t *testing.T, dir string, o pack.ScanOptions) pack.Inventory {
	t.Helper()
	inv, err := pack.Scan(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func push(t *testing.T, dir string, o pack.Options) (*memory, pack.Result) {
	t.Helper()
	m := newMemory()
	r, err := pack.Push(t.Context(), scan(t, dir, pack.ScanOptions{}), pack.Config{}, m, o)
	if err != nil {
		t.Fatal(err)
	}
	return m, r
}

func TestManifest(t *testing.T) {
	m, r := push(t, directory(t, files), pack.Options{})
	manifest := m.parsed(t)
	if manifest.MediaType != ocispec.MediaTypeImageManifest || manifest.ArtifactType != "application/vnd.cncf.model.manifest.v1+json" ||
		manifest.Config.MediaType != "application/vnd.cncf.model.config.v1+json" {
		t.Errorf("%s", m.manifest)
	}
	var got []string
	for _, l := range manifest.Layers {
		got = append(got, l.Annotations["org.cncf.model.filepath"]+" "+strings.TrimPrefix(l.MediaType, "application/vnd.cncf.model."))
		if l.Annotations[ocispec.AnnotationTitle] != l.Annotations["org.cncf.model.filepath"] {
			t.Errorf("title %q", l.Annotations[ocispec.AnnotationTitle])
		}
	}
	want := []string{
		"config.json weight.config.v1.raw", "a/b.safetensors weight.v1.raw", "b.gguf weight.v1.raw", "copy.gguf weight.v1.raw",
		"code/run.sh code.v1.raw", "empty.py code.v1.raw", "README.md doc.v1.raw", "data/train.jsonl dataset.v1.raw",
	}
	if !slices.Equal(got, want) {
		t.Errorf("layers %q\nwant   %q", got, want)
	}
	// b.gguf and copy.gguf are one blob, and the config is another.
	if m.uploads != len(files)-1+1 || r.Files != len(files) || r.Digest != digest.FromBytes(m.manifest) || r.Existing != 0 {
		t.Errorf("%d uploads, %+v", m.uploads, r)
	}
	if found := pack.Validate(m.manifest, m.blobs[manifest.Config.Digest], nil); len(found) > 0 {
		t.Errorf("findings %v", found)
	}
}

// The attributes of a file are told: its mode as it is, its times and owners as constants.
func TestFileAttributes(t *testing.T) {
	m, _ := push(t, directory(t, files), pack.Options{})
	for _, l := range m.parsed(t).Layers {
		var a struct {
			Name     string
			Mode     uint32
			UID, GID *int
			MTime    *time.Time
			Size     int64
			Typeflag *int
		}
		if err := json.Unmarshal([]byte(l.Annotations["org.cncf.model.file.metadata+json"]), &a); err != nil {
			t.Fatal(err)
		}
		p := l.Annotations["org.cncf.model.filepath"]
		mode := uint32(0o644)
		if p == "code/run.sh" {
			mode = 0o755
		}
		if a.Name != filepath.Base(p) || a.Mode != mode || a.Size != l.Size || a.UID == nil || *a.UID != 0 || a.GID == nil || *a.GID != 0 || a.MTime == nil || a.MTime.Unix() != 0 || *a.Typeflag != 0 {
			t.Errorf("%s: %s", p, l.Annotations["org.cncf.model.file.metadata+json"])
		}
		if l.Annotations["org.cncf.model.file.mediatype.untested"] != "false" {
			t.Errorf("%s: %v", p, l.Annotations)
		}
	}
}

// The same directory gives the same digest, whatever its times are and in which way it is packed.
func TestReproducible(t *testing.T) {
	for _, archive := range pack.Archives {
		archives := map[pack.Category]pack.Archive{}
		for _, c := range pack.Categories {
			archives[c] = archive
		}
		dir, again := directory(t, files), directory(t, files)
		old := time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)
		for _, f := range slices.Sorted(maps.Keys(files)) {
			if err := os.Chtimes(filepath.Join(again, strings.TrimPrefix(f, "*")), old, old); err != nil {
				t.Fatal(err)
			}
		}
		_, first := push(t, dir, pack.Options{Archive: archives, Jobs: 1})
		_, second := push(t, again, pack.Options{Archive: archives, Jobs: 8})
		if first != second {
			t.Errorf("%s: %+v and %+v", archive, first, second)
		}
	}
}

// Archives have one member, with the whole path and constant attributes, and their uncompressed digests are listed.
func TestArchives(t *testing.T) {
	open := map[pack.Archive]func(io.Reader) (io.Reader, error){
		pack.Tar:     func(r io.Reader) (io.Reader, error) { return r, nil },
		pack.TarGzip: func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
		pack.TarZstd: func(r io.Reader) (io.Reader, error) { return zstd.NewReader(r) },
	}
	for archive, decompress := range open {
		archives := map[pack.Category]pack.Archive{}
		for _, c := range pack.Categories {
			archives[c] = archive
		}
		m, _ := push(t, directory(t, files), pack.Options{Archive: archives})
		manifest := m.parsed(t)
		var config struct {
			ModelFS struct {
				Type    string
				DiffIDs []digest.Digest
			}
		}
		if err := json.Unmarshal(m.blobs[manifest.Config.Digest], &config); err != nil || config.ModelFS.Type != "layers" {
			t.Fatalf("%v: %s", err, m.blobs[manifest.Config.Digest])
		}
		for i, l := range manifest.Layers {
			r, err := decompress(bytes.NewReader(m.blobs[l.Digest]))
			if err != nil {
				t.Fatal(err)
			}
			plain, err := io.ReadAll(r)
			if err != nil || digest.FromBytes(plain) != config.ModelFS.DiffIDs[i] {
				t.Errorf("%s: the diff id is not that of the archive: %v", archive, err)
			}
			archived := tar.NewReader(bytes.NewReader(plain))
			h, err := archived.Next()
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(archived)
			name := l.Annotations["org.cncf.model.filepath"]
			want, ok := files[name]
			if !ok {
				want = files["*"+name]
			}
			if err != nil || h.Name != name || string(content) != want || h.Uid+h.Gid != 0 || h.Uname+h.Gname != "" || h.ModTime.Unix() != 0 || h.Typeflag != tar.TypeReg {
				t.Errorf("%s: %+v %q", archive, h, content)
			}
			if _, err := archived.Next(); err != io.EOF {
				t.Errorf("%s: more than one member: %v", archive, err)
			}
			if !strings.HasPrefix(l.Annotations[ocispec.AnnotationTitle], name+".tar") {
				t.Errorf("%s: title %q of something that is not the file", archive, l.Annotations[ocispec.AnnotationTitle])
			}
		}
	}
}

func TestBlobsThatAreThere(t *testing.T) {
	dir := directory(t, files)
	first, _ := push(t, dir, pack.Options{})
	again, err := pack.Push(t.Context(), scan(t, dir, pack.ScanOptions{}), pack.Config{}, first, pack.Options{})
	if err != nil || again.Sent != 0 || again.Existing == 0 {
		t.Errorf("%+v, %v", again, err)
	}
	second := newMemory()
	second.other = map[digest.Digest]bool{}
	for d := range first.blobs {
		second.other[d] = true
	}
	r, err := pack.Push(t.Context(), scan(t, dir, pack.ScanOptions{}), pack.Config{}, second, pack.Options{MountFrom: []string{"nothing", "other"}})
	if err != nil || r.Sent != 0 || r.Mounted == 0 || second.uploads != 1 { // the config has another history
		t.Errorf("%+v, %d uploads, %v", r, second.uploads, err)
	}
	// A registry that finds them by itself is not told where they are.
	third := newMemory()
	third.other, third.finds = second.other, true
	r, err = pack.Push(t.Context(), scan(t, dir, pack.ScanOptions{}), pack.Config{}, third, pack.Options{})
	if err != nil || r.Sent != 0 || r.Mounted == 0 || third.uploads != 1 {
		t.Errorf("%+v, %d uploads, %v", r, third.uploads, err)
	}
}

func TestEvents(t *testing.T) {
	var last map[string]pack.Event
	var kinds []pack.EventKind
	seen := map[string]pack.Event{}
	m := newMemory()
	_, err := pack.Push(t.Context(), scan(t, directory(t, files), pack.ScanOptions{}), pack.Config{}, m, pack.Options{Observer: func(e pack.Event) {
		if e.Bytes < 0 || e.Bytes > e.Total {
			t.Errorf("%+v", e)
		}
		if e.Path == "" {
			kinds = append(kinds, e.Kind)
		} else {
			seen[e.Path] = e
		}
	}})
	last = seen
	if err != nil || !slices.Equal(kinds, []pack.EventKind{pack.Started, pack.Finished}) || last["config.json"].Kind != pack.Uploaded {
		t.Errorf("%v %v %v", err, kinds, last)
	}
}

func TestPushFails(t *testing.T) {
	dir := directory(t, files)
	m := newMemory()
	m.fail = fmt.Errorf("full: %w", model.ErrUnavailable)
	if _, err := pack.Push(t.Context(), scan(t, dir, pack.ScanOptions{}), pack.Config{}, m, pack.Options{}); !errors.Is(err, model.ErrUnavailable) || m.manifest != nil {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pack.Push(ctx, scan(t, dir, pack.ScanOptions{}), pack.Config{}, newMemory(), pack.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	// Somebody writes to a file between the look at the directory and the end of the push.
	inv := scan(t, dir, pack.ScanOptions{})
	if err := os.WriteFile(filepath.Join(dir, "b.gguf"), []byte("other weights"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pack.Push(t.Context(), inv, pack.Config{}, newMemory(), pack.Options{}); !errors.Is(err, model.ErrConflict) || !strings.Contains(err.Error(), "b.gguf") {
		t.Errorf("a file that changes: %v", err)
	}
}

func TestCategories(t *testing.T) {
	names := map[pack.Category]string{
		pack.Weight:       "a.safetensors A.GGUF b.bin c.pt d.pth e.ckpt f.onnx f.onnx_data g.pb h.h5 i.tflite x.model w.npz",
		pack.WeightConfig: "config.json tokenizer.model tokenizer.json vocab.txt merges.txt x.yaml chat_template.jinja Modelfile a.tiktoken openvino_model.xml",
		pack.Doc:          "README.md LICENSE LICENSE.txt USE_POLICY.md NOTICE a.pdf b.png c.txt",
		pack.Code:         "a.py b.ipynb requirements.txt Dockerfile x.so pyproject.toml",
		pack.Dataset:      "a.parquet b.csv c.jsonl d.arrow",
	}
	all := map[string]string{"unknown": "?"}
	for _, list := range names {
		for _, name := range strings.Fields(list) {
			all["sub/"+name] = "x"
		}
	}
	inv := scan(t, directory(t, all), pack.ScanOptions{})
	for _, f := range inv.Files {
		if f.Path == "unknown" {
			if f.Category != pack.Code || !f.Untested {
				t.Errorf("%+v", f)
			}
			continue
		}
		if !slices.Contains(strings.Fields(names[f.Category]), strings.TrimPrefix(f.Path, "sub/")) || f.Untested {
			t.Errorf("%s is taken for %s (untested %v)", f.Path, f.Category, f.Untested)
		}
	}
	o := pack.ScanOptions{Overrides: []pack.Override{{Pattern: "*.txt", Category: pack.Dataset}, {Pattern: "sub/c.txt", Category: pack.Code}, {Pattern: "unknown", Category: pack.Weight}}}
	got := map[string]pack.Category{}
	for _, f := range scan(t, directory(t, all), o).Files {
		got[f.Path] = f.Category
		if f.Untested {
			t.Errorf("%s is untested", f.Path)
		}
	}
	if got["sub/vocab.txt"] != pack.Dataset || got["sub/c.txt"] != pack.Code || got["unknown"] != pack.Weight {
		t.Errorf("%v", got)
	}
	for _, bad := range []string{"", "x", "=weight", "x=", "x=wait", "[=doc"} {
		if _, err := pack.ParseOverride(bad); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestScanSaysAllThatIsWrong(t *testing.T) {
	dir := directory(t, map[string]string{"a.md": "x", "sub/b.md": "y"})
	outside := directory(t, map[string]string{"o.md": "z"})
	for name, to := range map[string]string{"gone": "nowhere", "out": outside, "up": "..", "sub/round": "../sub", "ok": "a.md", "dir": "sub2"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "sub2"), 0o755), os.WriteFile(filepath.Join(dir, "sub2", "c.md"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "bad\xff.md"), nil, 0o644)); err != nil {
		t.Logf("%v (not every filesystem has such names)", err)
	}
	_, err := pack.Scan(dir, pack.ScanOptions{})
	if !errors.Is(err, model.ErrInvalid) {
		t.Fatal(err)
	}
	for _, want := range []string{"gone: the symbolic link leads nowhere", "out: the symbolic link leaves", "up: the symbolic link leaves", "sub/round: the symbolic link leads to a directory that it is in"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	for _, name := range []string{"gone", "up", "sub/round", "bad\xff.md"} {
		_ = os.Remove(filepath.Join(dir, name))
	}
	inv := scan(t, dir, pack.ScanOptions{FollowOutside: true})
	var got []string
	for _, f := range inv.Files {
		got = append(got, f.Path)
	}
	if want := []string{"a.md", "dir/c.md", "ok", "out/o.md", "sub/b.md", "sub2/c.md"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for name, text := range map[string]string{"bad pattern": "[", "a directory": ""} {
		bad := directory(t, map[string]string{"a.md": "x"})
		at := filepath.Join(bad, pack.IgnoreFile)
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if text == "" {
			if err := errors.Join(os.Remove(at), os.Mkdir(at, 0o755)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := pack.Scan(bad, pack.ScanOptions{}); err == nil || !strings.Contains(err.Error(), pack.IgnoreFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := pack.Scan(filepath.Join(dir, "a.md"), pack.ScanOptions{}); !errors.Is(err, model.ErrInvalid) {
		t.Errorf("a file: %v", err)
	}
}

func TestHiddenFiles(t *testing.T) {
	dir := directory(t, map[string]string{"a.md": "x", ".hidden": "x", ".dir/x.md": "x", ".keep.md": "x", ".git/config": "x", "__pycache__/a.pyc": "x", "b.pyc": "x", pack.IgnoreFile: "!.keep.md\n"})
	paths := func(o pack.ScanOptions) string {
		var out []string
		for _, f := range scan(t, dir, o).Files {
			out = append(out, f.Path)
		}
		return strings.Join(out, " ")
	}
	if got := paths(pack.ScanOptions{}); got != ".keep.md a.md" {
		t.Errorf("%q", got)
	}
	if got := paths(pack.ScanOptions{Hidden: true}); got != ".dir/x.md .hidden .keep.md a.md" {
		t.Errorf("with hidden files %q", got)
	}
}

func TestLargeManifest(t *testing.T) {
	o := pack.Options{Annotations: map[string]string{"note": strings.Repeat("x", 4<<20)}}
	_, err := pack.Push(t.Context(), scan(t, directory(t, files), pack.ScanOptions{}), pack.Config{}, newMemory(), o)
	if !errors.Is(err, model.ErrTooLarge) || !strings.Contains(err.Error(), pack.IgnoreFile) {
		t.Errorf("%v", err)
	}
}

func ExamplePush() {
	dir, err := os.MkdirTemp("", "model-")
	if err != nil {
		return
	}
	defer func() { _ = os.RemoveAll(dir) }()
	_ = os.WriteFile(filepath.Join(dir, "model.gguf"), []byte("weights"), 0o644)
	inventory, err := pack.Scan(dir, pack.ScanOptions{})
	if err != nil {
		return
	}
	layout, err := pack.NewLayout(filepath.Join(dir, ".layout"), "v1")
	if err != nil {
		return
	}
	r, err := pack.Push(context.Background(), inventory, pack.Config{}, layout, pack.Options{})
	fmt.Println(r.Files, r.Bytes, err)
	// Output: 1 7 <nil>
}
