package pull

import (
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
)

// A piece is there when all of it is: a file, or every file of an archive, which are known once it was pulled.
func TestHas(t *testing.T) {
	r := newFakeRegistry()
	pushFiles(t, r, "m:1")
	n := newNode(t, r, nil)
	a, err := n.Inspect(t.Context(), Request{Ref: parse(t, "r.io/m:1")})
	if err != nil {
		t.Fatal(err)
	}
	pieces := a.Pieces()
	if len(pieces) != len(a.Layers()) || pieces[0].Blob != a.Layers()[0].Blob {
		t.Fatalf("%+v of %+v", pieces, a.Layers())
	}
	check := func(when string, want ...bool) {
		t.Helper()
		if got := n.Has(pieces); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
	}
	check("before the pull", false, false, false)
	result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1")})
	if err != nil {
		t.Fatal(err)
	}
	result.Release()
	check("after it", true, true, true)
	for _, gone := range []string{"aaaa", "bbbb"} { // a file, and one out of the archive
		if err := n.opts.Store.Quarantine(digest.FromString(gone)); err != nil {
			t.Fatal(err)
		}
	}
	check("without two files", true, false, false)
	odd := slices.Clone(pieces)
	odd[0].Blob.Digest, odd[1].Blob.Size = "../../../etc/passwd", -1
	if got := n.Has(odd); slices.Contains(got, true) {
		t.Errorf("of digests that are none: %v", got)
	}
	if got := n.Has(nil); got == nil || len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}
