package integration

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/node"
	"github.com/model-csi/model-csi/test/registry"
)

// world is a registry and a node that pulls from it.
type world struct {
	t        *testing.T
	dir      string
	options  node.Options
	registry *registry.Registry
	node     *node.Node
}

// newWorld starts both. When the test ends the node is stopped, and must not leave a mount.
func newWorld(t *testing.T, o registry.Options, args ...string) *world {
	t.Helper()
	return newWorldWith(t, o, func(string) {}, args...)
}

// newWorldWith calls prepare with the world's directory before the node starts.
func newWorldWith(t *testing.T, o registry.Options, prepare func(dir string), args ...string) *world {
	t.Helper()
	w := &world{t: t}
	var err error
	// t.TempDir makes paths that are too long for sockets.
	if w.dir, err = os.MkdirTemp("", "it-"); err != nil { //nolint:usetesting // see above
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(w.dir); err != nil {
			t.Error(err)
		}
	})
	w.options = node.Options{Binary: binary, Dir: w.dir, Args: append([]string{"--log-level", "debug"}, args...), Env: []string{"GORACE=halt_on_error=1 atexit_sleep_ms=0"}}
	if w.registry, err = registry.Start(o); err != nil {
		t.Fatal(err)
	}
	prepare(w.dir)
	t.Cleanup(w.end)
	w.start()
	return w
}

func (w *world) start() {
	w.t.Helper()
	n, err := node.Start(w.t.Context(), w.options)
	if err != nil {
		w.t.Fatal(err)
	}
	w.node = n
}

func (w *world) end() {
	if w.node != nil {
		if err := w.node.Stop(); err != nil {
			w.t.Error(err)
		}
	}
	mounts, err := node.Mounts(w.dir)
	if err != nil {
		w.t.Error(err)
	}
	slices.Reverse(mounts)
	for _, m := range mounts {
		if m == filepath.Join(w.dir, "root") {
			continue // the test's own small filesystem
		}
		if err := syscall.Unmount(m, syscall.MNT_DETACH); err != nil {
			w.t.Error(err)
		}
	}
	if err := w.registry.Close(); err != nil {
		w.t.Error(err)
	}
	if w.t.Failed() && w.node != nil {
		log := w.node.Log()
		const shown = 16 << 10
		w.t.Logf("the end of the daemon's log:\n%s", log[max(0, len(log)-shown):])
	}
}

// push makes a model and returns its reference.
func (w *world) push(repository string, files []artifact.File, o artifact.Options) (string, artifact.Artifact) {
	w.t.Helper()
	a, err := artifact.Push(w.t.Context(), w.registry.Host(), repository, "v1", files, o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.registry.ResetStats()
	return w.registry.Host() + "/" + repository + ":v1", a
}

// volume is a request for a reference and pairs of further attributes.
func volume(id, reference string, attributes ...string) node.Volume {
	v := node.Volume{ID: id, Attributes: map[string]string{"reference": reference}}
	for i := 0; i+1 < len(attributes); i += 2 {
		v.Attributes[attributes[i]] = attributes[i+1]
	}
	return v
}

// publish asks until the answer is final, as kubelet does.
func (w *world) publish(v node.Volume) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Minute)
	defer cancel()
	for {
		err := w.node.Publish(ctx, v)
		if err == nil || ctx.Err() != nil || !slices.Contains(uncertain, status.Code(err)) {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// uncertain are the codes after which kubelet asks again without tearing down.
var uncertain = []codes.Code{codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted, codes.Aborted}

func (w *world) mustPublish(v node.Volume) string {
	w.t.Helper()
	if err := w.publish(v); err != nil {
		w.t.Fatalf("publish %s: %v", v.ID, err)
	}
	return w.node.Target(v.ID)
}

func (w *world) mustUnpublish(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		if err := w.node.Unpublish(w.t.Context(), id); err != nil {
			w.t.Errorf("unpublish %s: %v", id, err)
		}
		if _, err := os.Lstat(w.node.Target(id)); !errors.Is(err, fs.ErrNotExist) {
			w.t.Errorf("unpublish %s: the target is left: %v", id, err)
		}
	}
}

// refused checks a failed publish: its code, the words that its message must have, and that nothing is left of it.
func (w *world) refused(v node.Volume, err error, code codes.Code, words ...string) {
	w.t.Helper()
	if status.Code(err) != code {
		w.t.Errorf("publish %q: code %s, want %s: %v", v.Attributes["reference"], status.Code(err), code, err)
	}
	for _, word := range words {
		if err != nil && !strings.Contains(err.Error(), word) {
			w.t.Errorf("publish %q: the message does not say %q: %v", v.Attributes["reference"], word, err)
		}
	}
	w.nothingOf(v.ID)
}

// nothingOf checks that a volume has neither a target nor a lease.
func (w *world) nothingOf(id string) {
	w.t.Helper()
	left, err := w.leftOf(id)
	if err != nil || len(left) > 0 {
		w.t.Errorf("left of %s: %q, %v", id, left, err)
	}
}

// leftOf lists what there is of a volume: its target and leases.
func (w *world) leftOf(id string) (left []string, err error) {
	if _, err := os.Lstat(w.node.Target(id)); !errors.Is(err, fs.ErrNotExist) {
		left = append(left, w.node.Target(id))
	}
	leases, err := os.ReadDir(filepath.Join(w.node.Root(), "leases"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, l := range leases {
		content, err := os.ReadFile(filepath.Join(w.node.Root(), "leases", l.Name()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // others come and go meanwhile
			return nil, err
		}
		if strings.Contains(string(content), `"`+id+`"`) {
			left = append(left, string(content))
		}
	}
	return left, nil
}

// shows checks that a directory has exactly these files, by content.
func shows(t *testing.T, dir string, files []artifact.File) {
	t.Helper()
	want := map[string]digest.Digest{}
	for _, f := range files {
		want[f.Path] = contentDigest(t, f)
	}
	got, err := artifact.FromDir(dir)
	if err != nil {
		t.Error(err)
	}
	for _, f := range got {
		if d := contentDigest(t, f); want[f.Path] != d {
			t.Errorf("%s in %s is %s, want %q", f.Path, dir, d, want[f.Path])
		}
		delete(want, f.Path)
	}
	for name := range want {
		t.Errorf("%s is missing in %s", name, dir)
	}
}

func contentDigest(t *testing.T, f artifact.File) digest.Digest {
	t.Helper()
	body, err := f.Open()
	if err != nil {
		t.Error(err)
		return ""
	}
	defer func() { _ = body.Close() }()
	d, err := digest.FromReader(io.Reader(body))
	if err != nil {
		t.Error(err)
	}
	return d
}

// blobs returns the digests of the committed blobs, after checking that every one of them is what its name says.
func (w *world) blobs() []digest.Digest {
	w.t.Helper()
	dir := filepath.Join(w.options.Dir, "root", "blobs", "sha256")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Error(err)
	}
	var out []digest.Digest
	for _, e := range entries {
		hex := strings.TrimSuffix(e.Name(), ".x")
		if len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
			continue // a temporary file of a commit
		}
		want := digest.NewDigestFromEncoded(digest.SHA256, hex)
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			w.t.Error(err)
			continue
		}
		got, err := digest.FromReader(f)
		_ = f.Close()
		if err != nil || got != want {
			w.t.Errorf("blob %s has the content of %s (%v)", e.Name(), got, err)
		}
		out = append(out, want)
	}
	return out
}

// has reports whether dir is a mount point now.
func has(t *testing.T, parent, dir string) bool {
	t.Helper()
	mounts, err := node.Mounts(parent)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(mounts, dir)
}
