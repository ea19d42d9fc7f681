package ingest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

func tarOf(t testing.TB, write func(w *tar.Writer)) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	write(w)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func addFile(t testing.TB, w *tar.Writer, name string, data []byte) {
	t.Helper()
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o4755, Size: int64(len(data)), Uid: 1234}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstded(t testing.TB, data []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(data, nil)
}

func extract(t testing.TB, e *Engine, s *server, shape Shape) ([]model.Member, *memberStore, error) {
	t.Helper()
	store := &memberStore{blobs: make(map[digest.Digest][]byte)}
	members, err := e.Archive(t.Context(), Job{Blob: blobOf(s.data), Host: "h", Open: s.open}, shape, store.create)
	if store.open != 0 {
		t.Errorf("%d members were neither committed nor closed", store.open)
	}
	if err != nil && members != nil {
		t.Error("members were returned with an error")
	}
	return members, store, err
}

func TestArchive(t *testing.T) {
	big := content(3*chunkSize+5, 11)
	plain := tarOf(t, func(w *tar.Writer) {
		for _, h := range []*tar.Header{
			{Name: "./dir/", Typeflag: tar.TypeDir, Mode: 0o700},
			{Name: "dir/link", Typeflag: tar.TypeSymlink, Linkname: "../big.bin"},
			{Name: "dir/device", Typeflag: tar.TypeChar, Devmajor: 1},
		} {
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
		}
		addFile(t, w, "big.bin", big)
		addFile(t, w, "empty", nil)
		for i := range 300 {
			addFile(t, w, fmt.Sprintf("small/%d", i), []byte(fmt.Sprint(i)))
		}
		if err := w.WriteHeader(&tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "big.bin"}); err != nil {
			t.Fatal(err)
		}
	})
	half := gzipped(t, plain[:len(plain)/2])
	frame := zstded(t, plain[:len(plain)/2])
	blobs := map[string][]byte{
		"tar":             plain,
		"gzip":            gzipped(t, plain),
		"zstd":            zstded(t, plain),
		"gzip members":    append(half, gzipped(t, plain[len(plain)/2:])...),
		"zstd frames":     append(frame, zstded(t, plain[len(plain)/2:])...),
		"zstd skippable":  append([]byte{0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}, zstded(t, plain)...),
		"padded tar":      append(bytes.Clone(plain), make([]byte, 1<<20)...),
		"gzip with noise": append(gzipped(t, plain), "noise"...),
	}
	for name, data := range blobs {
		for _, shape := range []Shape{Tar, TarOrFile} {
			t.Run(fmt.Sprintf("%s %d", name, shape), func(t *testing.T) {
				members, store, err := extract(t, testEngine(t), &server{data: data}, shape)
				if err != nil {
					t.Fatal(err)
				}
				if len(members) != 306 {
					t.Fatalf("%d members", len(members))
				}
				if m := members[0]; m.Name != "./dir/" || !m.Mode.IsDir() {
					t.Errorf("directory: %+v", m)
				}
				if m := members[1]; m.Link != "../big.bin" || m.Mode.Type() != fs.ModeSymlink {
					t.Errorf("link: %+v", m)
				}
				if m := members[2]; m.Mode.Type()&fs.ModeDevice == 0 {
					t.Errorf("device: %+v", m)
				}
				if m := members[3]; !bytes.Equal(store.blobs[m.Blob.Digest], big) || m.Mode != 0o755 {
					t.Errorf("big.bin: %+v", m)
				}
				if m := members[len(members)-1]; !m.Hard || m.Link != "big.bin" {
					t.Errorf("hard link: %+v", m)
				}
				for i, m := range members[5:305] {
					if string(store.blobs[m.Blob.Digest]) != fmt.Sprint(i) {
						t.Fatalf("%s: %+v", m.Name, m)
					}
				}
			})
		}
	}
}

func TestArchiveOfOneFile(t *testing.T) {
	data := content(2*chunkSize, 12) // ends at a chunk's end
	tests := []struct {
		name  string
		blob  []byte
		shape Shape
		want  []byte
		kind  error
	}{
		{"no tar", data, TarOrFile, data, nil},
		{"short", []byte("{}"), TarOrFile, []byte("{}"), nil},
		{"empty", nil, TarOrFile, nil, nil},
		{"compressed file", gzipped(t, data), CompressedFile, data, nil},
		{"compressed with zstd", zstded(t, data[:100]), CompressedFile, data[:100], nil},
		{"compressed, no tar", gzipped(t, data), TarOrFile, nil, model.ErrCorrupt},
		{"no tar where one must be", data, Tar, nil, model.ErrCorrupt},
		{"cut gzip", gzipped(t, data)[:1000], CompressedFile, nil, model.ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			members, store, err := extract(t, testEngine(t), &server{data: tt.blob}, tt.shape)
			if !errors.Is(err, tt.kind) {
				t.Fatalf("error %v, want %v", err, tt.kind)
			}
			if err != nil {
				return
			}
			if len(members) != 1 || members[0].Name != "" || !bytes.Equal(store.blobs[members[0].Blob.Digest], tt.want) {
				t.Fatalf("members %+v", members)
			}
		})
	}
}

func TestArchiveRefuses(t *testing.T) {
	small := tarOf(t, func(w *tar.Writer) { addFile(t, w, "a", content(5000, 13)); addFile(t, w, "b", content(5000, 14)) })
	bomb := gzipped(t, tarOf(t, func(w *tar.Writer) { addFile(t, w, "zeros", make([]byte, 2*freeGrowth)) }))
	tail := gzipped(t, append(bytes.Clone(small), make([]byte, 2*freeGrowth)...))
	named := tarOf(t, func(w *tar.Writer) { addFile(t, w, strings.Repeat("long/", 2000)+"x", nil) })
	tests := []struct {
		name   string
		data   []byte
		limits Limits
		spoil  func(r, o int64, a *answer)
		kind   error
		says   string
	}{
		{name: "too many entries", data: small, limits: Limits{Members: 1}, kind: model.ErrTooLarge, says: "max-files"},
		{name: "too many bytes", data: small, limits: Limits{Bytes: 9000}, kind: model.ErrTooLarge},
		{name: "bomb", data: bomb, limits: Limits{Ratio: 100}, kind: model.ErrTooLarge, says: "times its size"},
		{name: "bomb behind the end", data: tail, limits: Limits{Ratio: 100}, kind: model.ErrTooLarge},
		{name: "endless name", data: named, kind: model.ErrTooLarge, says: "name"},
		{name: "no UTF-8", data: tarOf(t, func(w *tar.Writer) { addFile(t, w, "a\xff", nil) }), kind: model.ErrInvalid, says: "UTF-8"},
		{name: "cut off", data: small[:3000], kind: model.ErrCorrupt, says: `"a"`},
		{name: "damaged header", data: append(bytes.Repeat([]byte{1}, 512), small[512:]...), kind: model.ErrCorrupt},
		{name: "damaged gzip", data: append(gzipped(t, small)[:4000], make([]byte, 4000)...), kind: model.ErrCorrupt},
		{name: "other bytes in a file", data: small, kind: model.ErrCorrupt, says: "digest", spoil: func(_, o int64, a *answer) {
			if o == 0 {
				a.body = bytes.Clone(a.body)
				a.body[600] ^= 1
			}
		}},
		{name: "gone", data: small, kind: model.ErrNotFound, spoil: func(_, _ int64, a *answer) { a.err = model.ErrNotFound }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := testEngine(t)
			e.opts.Limits = tt.limits.withDefaults()
			_, _, err := extract(t, e, &server{data: tt.data, spoil: tt.spoil}, Tar)
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("error %v, want %v with %q", err, tt.kind, tt.says)
			}
		})
	}
}

// TestArchiveHugeClaim has a header that promises more than the archive holds.
func TestArchiveHugeClaim(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "huge", Typeflag: tar.TypeReg, Size: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	b.WriteString("little")
	s := &server{data: b.Bytes()}
	_, err := testEngine(t).Archive(t.Context(), Job{Blob: blobOf(s.data), Open: s.open}, Tar, func(size int64, _ bool) (Member, error) {
		return nil, fmt.Errorf("%d bytes were asked for", size)
	})
	if !errors.Is(err, model.ErrTooLarge) {
		t.Fatalf("error %v", err)
	}
}

func FuzzArchive(f *testing.F) {
	small := tarOf(f, func(w *tar.Writer) { addFile(f, w, "a", []byte("hello")); addFile(f, w, "b", nil) })
	f.Add(small, uint8(0))
	f.Add(gzipped(f, small), uint8(0))
	f.Add(zstded(f, small), uint8(1))
	f.Add(gzipped(f, []byte("text")), uint8(2))
	f.Fuzz(func(t *testing.T, data []byte, shape uint8) {
		e := New(Options{Limits: Limits{Bytes: 64 << 20, Members: 1000}})
		members, store, err := extract(t, e, &server{data: data}, Shape(shape%3))
		if err != nil {
			return
		}
		for _, m := range members {
			if _, ok := store.blobs[m.Blob.Digest]; !ok && m.Mode.IsRegular() && !m.Hard && m.Blob.Digest != "" {
				t.Fatalf("member %q has no bytes", m.Name)
			}
		}
		if out := len(e.buffers.owners); out != 0 {
			t.Fatalf("%d buffers were not given back", out)
		}
	})
}
