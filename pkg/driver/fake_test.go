package driver

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/mount"
	"github.com/model-csi/model-csi/pkg/mount/mounttest"
	"github.com/model-csi/model-csi/pkg/pull"
	"github.com/model-csi/model-csi/pkg/store"
)

// fakeStore keeps leases in memory and makes real views.
type fakeStore struct {
	root string

	mu     sync.Mutex
	leases map[[2]string]store.Lease
	fail   map[string]error // by name of the method
}

func newFakeStore(t *testing.T) *fakeStore {
	t.Helper()
	s := &fakeStore{root: filepath.Join(t.TempDir(), "state"), leases: map[[2]string]store.Lease{}, fail: map[string]error{}}
	for _, dir := range []string{"blobs", "views"} {
		must(t, os.MkdirAll(filepath.Join(s.root, dir), 0o700))
	}
	return s
}

func (s *fakeStore) failing(method string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail[method] = err
}

func (s *fakeStore) PutLease(l store.Lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail["PutLease"]; err != nil {
		return err
	}
	s.leases[[2]string{l.VolumeID, l.Target}] = l
	return nil
}

func (s *fakeStore) Lease(volumeID, target string) (store.Lease, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.leases[[2]string{volumeID, target}]
	return l, ok
}

func (s *fakeStore) Leases() []store.Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.leases), func(a, b store.Lease) int {
		return bytes.Compare([]byte(a.VolumeID+a.Target), []byte(b.VolumeID+b.Target))
	})
}

func (s *fakeStore) DropLease(volumeID, target string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail["DropLease"]; err != nil {
		return err
	}
	delete(s.leases, [2]string{volumeID, target})
	return nil
}

func (s *fakeStore) ViewPath(tree digest.Digest) string {
	return filepath.Join(s.root, "views", tree.Encoded())
}

func (s *fakeStore) BlobPath(f model.File) (string, error) {
	return filepath.Join(s.root, "blobs", f.Blob.Digest.Encoded()), nil
}

func (s *fakeStore) EnsureView(t model.Tree, build func(dir string) error) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail["EnsureView"]; err != nil {
		return "", err
	}
	path := s.ViewPath(t.Digest())
	if err := os.Mkdir(path, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return path, nil
		}
		return "", err
	}
	return path, build(path)
}

// fakePuller has one model, whatever the reference.
type fakePuller struct {
	tree model.Tree

	mu       sync.Mutex
	requests []pull.Request
	limits   []time.Duration // what was left until each call's deadline
	hook     func(ctx context.Context) error
}

// newFakePuller puts the files, by path, into the store.
func newFakePuller(t *testing.T, s *fakeStore, contents map[string]string, more ...model.File) *fakePuller {
	t.Helper()
	files := more
	for path, content := range contents {
		f := model.File{Path: path, Mode: 0o444, Blob: model.Blob{Digest: digest.FromString(content), Size: int64(len(content))}}
		name, _ := s.BlobPath(f)
		must(t, os.WriteFile(name, []byte(content), 0o644))
		files = append(files, f)
	}
	tree, err := model.NewTree(files)
	must(t, err)
	return &fakePuller{tree: tree}
}

func (p *fakePuller) Pull(ctx context.Context, r pull.Request) (*pull.Result, error) {
	p.mu.Lock()
	p.requests = append(p.requests, r)
	if deadline, ok := ctx.Deadline(); ok {
		p.limits = append(p.limits, time.Until(deadline))
	}
	hook := p.hook
	p.mu.Unlock()
	if hook != nil {
		if err := hook(ctx); err != nil {
			return nil, err
		}
	}
	return &pull.Result{Tree: p.tree, Digest: digest.FromString("manifest"), Format: "modelpack"}, nil
}

func (p *fakePuller) onPull(hook func(ctx context.Context) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hook = hook
}

func (p *fakePuller) pulls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.requests)
}

// env is a driver with fakes around it and a pod directory.
type env struct {
	*Driver
	t       *testing.T
	store   *fakeStore
	puller  *fakePuller
	mounter *mounttest.Fake
	pod     string // directory that kubelet made for the volume
	target  string
	log     *logBuffer
}

func newEnv(t *testing.T, change ...func(*Options)) *env {
	t.Helper()
	e := &env{t: t, store: newFakeStore(t), mounter: mounttest.NewFake(), log: &logBuffer{}}
	e.puller = newFakePuller(t, e.store, map[string]string{
		"README.md": "read me", "config.json": "{}", "onnx/model.onnx": "onnx weights", "onnx/int8/model.onnx": "int8",
	}, model.File{Path: "latest", Mode: fs.ModeSymlink, Link: "onnx/int8"})
	e.pod = filepath.Join(t.TempDir(), "pods", "uid", "volumes", "kubernetes.io~csi", "model")
	must(t, os.MkdirAll(e.pod, 0o750))
	e.target = filepath.Join(e.pod, "mount")
	options := Options{
		NodeID: "node-1", Endpoint: "unix://" + filepath.Join(t.TempDir(), "csi.sock"), Version: "v1.2.3",
		Puller: e.puller, Store: e.store, Mounter: e.mounter,
		Logger: slog.New(slog.NewJSONHandler(e.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range change {
		f(&options)
	}
	d, err := New(options)
	must(t, err)
	e.Driver = d
	return e
}

// request is a publish request as kubelet sends it for an inline volume; attributes come in pairs.
func (e *env) request(attributes ...string) *csi.NodePublishVolumeRequest {
	values := map[string]string{
		"reference":                              "registry.example.com/models/qwen3:8b",
		"csi.storage.k8s.io/pod.name":            "pod",
		"csi.storage.k8s.io/pod.namespace":       "default",
		"csi.storage.k8s.io/pod.uid":             "uid",
		"csi.storage.k8s.io/ephemeral":           "true",
		"csi.storage.k8s.io/serviceAccount.name": "default",
	}
	for i := 0; i < len(attributes); i += 2 {
		values[attributes[i]] = attributes[i+1]
	}
	return &csi.NodePublishVolumeRequest{
		VolumeId: "csi-0123", TargetPath: e.target, VolumeContext: values,
		VolumeCapability: capability(csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER),
	}
}

func capability(mode csi.VolumeCapability_AccessMode_Mode) *csi.VolumeCapability {
	return &csi.VolumeCapability{
		AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
		AccessMode: &csi.VolumeCapability_AccessMode{Mode: mode},
	}
}

func (e *env) publish(r *csi.NodePublishVolumeRequest) error { return e.publishCtx(e.t.Context(), r) }

func (e *env) publishCtx(ctx context.Context, r *csi.NodePublishVolumeRequest) error {
	_, err := e.NodePublishVolume(ctx, r)
	return toStatus(err)
}

func (e *env) unpublish() error {
	_, err := e.NodeUnpublishVolume(e.t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "csi-0123", TargetPath: e.target})
	return toStatus(err)
}

// mounted says what is mounted at the target.
func (e *env) mounted() mount.State {
	e.t.Helper()
	state, err := e.opts.Mounter.State(e.target)
	must(e.t, err)
	return state
}

// checkNothingLeft is what a failed publish and every unpublish promise.
func (e *env) checkNothingLeft() {
	e.t.Helper()
	if state := e.mounted(); state.Mounted {
		e.t.Errorf("still mounted: %+v", state)
	}
	if leases := e.store.Leases(); len(leases) > 0 {
		e.t.Errorf("leases are left: %+v", leases)
	}
	if _, err := os.Lstat(e.target); !errors.Is(err, fs.ErrNotExist) {
		e.t.Errorf("target directory is left (%v)", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Errorf("code %s, want %s (%v)", got, want, err)
	}
}

// logBuffer collects a log. It is safe for concurrent use.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
