package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

func readFrom(t *testing.T, open func(context.Context, int64) (io.ReadCloser, error), offset int64) (string, error) {
	t.Helper()
	r, err := open(t.Context(), offset)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(r)
	return string(data), errors.Join(err, r.Close())
}

// What is looked at is not fetched before somebody reads it, and a layer that streams is stored nowhere.
func TestInspect(t *testing.T) {
	r := newFakeRegistry()
	d := pushFiles(t, r, "m:1")
	n := newNode(t, r, nil)
	a, err := n.Inspect(t.Context(), Request{Ref: parse(t, "r.io/m:1")})
	if err != nil {
		t.Fatal(err)
	}
	if a.Snapshot.Digest != d || len(a.Layers()) != 3 || !a.Opaque() || r.sent.Load() != 0 {
		t.Errorf("%s, %d layers, opaque %v, %d bytes sent", a.Snapshot.Digest, len(a.Layers()), a.Opaque(), r.sent.Load())
	}
	tree, err := a.Unpack(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	archive := r.sent.Load()
	got := map[string]string{}
	for _, f := range tree {
		text, err := readFrom(t, a.Stream(f), 0)
		if err != nil {
			t.Errorf("%s: %v", f.Path, err)
		}
		got[f.Path] = text
		if rest, err := readFrom(t, a.Stream(f), 1); err != nil || rest != text[1:] {
			t.Errorf("%s from its second byte: %q, %v", f.Path, rest, err)
		}
		at, err := a.ReaderAt(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		part := make([]byte, 1)
		if _, err := at.ReadAt(part, 1); err != nil || part[0] != text[1] {
			t.Errorf("%s: the second byte is %q, %v", f.Path, part, err)
		}
		if n, err := at.ReadAt(make([]byte, 100), 0); !errors.Is(err, io.EOF) || n != len(text) {
			t.Errorf("%s: %d bytes were read, %v", f.Path, n, err)
		}
		if c, ok := at.(io.Closer); ok {
			_ = c.Close()
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(files) {
		t.Errorf("got %v, want %v", got, files)
	}
	if n.opts.Store.Has(model.Blob{Digest: digest.FromString("aaaa"), Size: 4}) || !n.opts.Store.Has(model.Blob{Digest: digest.FromString("bbbb"), Size: 4}) {
		t.Error("a layer was stored, or a file of an archive was not")
	}
	if again := r.sent.Load() - archive; again > 100 {
		t.Errorf("the archive was fetched more than once: %d bytes", again)
	}
}

func TestStreamVerifies(t *testing.T) {
	r := newFakeRegistry()
	r.push(t, "m:1", layerSpec{path: "a", data: []byte(strings.Repeat("x", 100_000))})
	n := newNode(t, r, nil)
	a, err := n.Inspect(t.Context(), Request{Ref: parse(t, "r.io/m:1")})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := a.Tree(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.spoil = func(_ digest.Digest, data []byte) []byte {
		data[5] = 'y'
		return data
	}
	if text, err := readFrom(t, a.Stream(tree[0]), 0); !errors.Is(err, model.ErrCorrupt) || len(text) == 100_000 {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

// What is on its way has a name, and a size of its own.
func TestTransfers(t *testing.T) {
	r := newFakeRegistry()
	pushFiles(t, r, "m:1")
	r.hold = make(chan struct{})
	n := newNode(t, r, nil)
	ended := make(chan error, 1)
	go func() {
		result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1")})
		result.Release()
		ended <- err
	}()
	for len(n.Transfers()) < 3 {
		select {
		case err := <-ended:
			t.Fatalf("the pull ended: %v", err)
		default:
			time.Sleep(time.Millisecond)
		}
	}
	names := map[string]int64{}
	for _, tr := range n.Transfers() {
		names[tr.Name] = tr.Total
		if tr.Done != 0 {
			t.Errorf("%s: %d bytes came", tr.Name, tr.Done)
		}
	}
	if names["config.json"] != 2 || names["weights/a.bin"] != 4 || len(names) != 3 {
		t.Errorf("%v", names)
	}
	close(r.hold)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if left := n.Transfers(); len(left) > 0 {
		t.Errorf("%v", left)
	}
}
