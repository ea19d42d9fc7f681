package pull

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/grant"
	"github.com/model-csi/model-csi/pkg/ingest"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/store"
)

// fakeRegistry serves manifests and blobs from memory to those who may have them, and can be away.
type fakeRegistry struct {
	mu        sync.Mutex // guards what follows
	tags      map[string]digest.Digest
	manifests map[digest.Digest][]byte
	blobs     map[digest.Digest][]byte
	indexes   map[digest.Digest]map[string]digest.Digest // by what is wanted
	users     map[string]string                          // user to password; empty means that everybody may read
	away      bool
	spoil     func(d digest.Digest, data []byte) []byte
	configs   map[digest.Digest][]byte // of manifests

	hold     chan struct{} // when set, blobs wait for it to be closed
	resolves atomic.Int64
	checks   atomic.Int64
	reads    atomic.Int64
	sent     atomic.Int64
}

func newFakeRegistry() *fakeRegistry {
	return &fakeRegistry{tags: map[string]digest.Digest{}, manifests: map[digest.Digest][]byte{}, blobs: map[digest.Digest][]byte{}}
}

type layerSpec struct {
	path string
	data []byte
	tar  map[string]string // instead of path and data
}

// push makes a ModelPack artifact and tags it.
func (r *fakeRegistry) push(t testing.TB, name string, layers ...layerSpec) digest.Digest {
	t.Helper()
	type descriptor struct {
		MediaType   string            `json:"mediaType"`
		Digest      digest.Digest     `json:"digest"`
		Size        int               `json:"size"`
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	var list []descriptor
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range layers {
		d := descriptor{MediaType: "application/vnd.cncf.model.weight.v1.raw", Annotations: map[string]string{"org.cncf.model.filepath": l.path}}
		if l.tar != nil {
			d.MediaType, d.Annotations = "application/vnd.cncf.model.weight.v1.tar", nil
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for p, text := range l.tar {
				if err := errors.Join(w.WriteHeader(&tar.Header{Name: p, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))})); err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(w, text)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			l.data = b.Bytes()
		}
		d.Digest, d.Size = digest.FromBytes(l.data), len(l.data)
		r.blobs[d.Digest] = l.data
		list = append(list, d)
	}
	config := []byte("{}")
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"artifactType": "application/vnd.cncf.model.manifest.v1+json",
		"config":       descriptor{MediaType: "application/vnd.cncf.model.config.v1+json", Digest: digest.FromBytes(config), Size: len(config)},
		"layers":       list,
	})
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromBytes(manifest)
	r.manifests[d], r.tags[name] = manifest, d
	return d
}

func (r *fakeRegistry) Repository(ref model.Ref, c model.Credential) (source.Repository, error) {
	return &fakeRepository{r, ref, c}, nil
}

// byRegistry serves several registries.
type byRegistry map[string]*fakeRegistry

func (b byRegistry) Repository(ref model.Ref, c model.Credential) (source.Repository, error) {
	return b[ref.Registry].Repository(ref, c)
}

type fakeRepository struct {
	*fakeRegistry
	ref        model.Ref
	credential model.Credential
}

func (r *fakeRepository) allowed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.away:
		return fmt.Errorf("dial: %w", model.ErrUnavailable)
	case len(r.users) == 0:
		return nil
	case r.credential.IsAnonymous():
		return fmt.Errorf("as %s: %w", r.credential, model.ErrUnauthenticated)
	case r.users[r.credential.Username] != r.credential.Password.Reveal():
		return fmt.Errorf("as %s: %w", r.credential, model.ErrDenied)
	}
	return nil
}

func (r *fakeRepository) Resolve(_ context.Context, want model.Selection) (source.Snapshot, error) {
	r.resolves.Add(1)
	if err := r.allowed(); err != nil {
		return source.Snapshot{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.ref.Digest
	if d == "" {
		d = r.tags[r.ref.Repository+":"+r.ref.Reference()]
	}
	index := digest.Digest("")
	if entries := r.indexes[d]; entries != nil {
		index, d = d, entries[want.String()]
	}
	if r.manifests[d] == nil {
		return source.Snapshot{}, model.ErrNotFound
	}
	return source.Snapshot{Digest: d, Index: index, MediaType: mediaTypeOf(r.manifests[d]), Manifest: r.manifests[d], Config: r.configs[d]}, nil
}

func (r *fakeRepository) Check(_ context.Context, d digest.Digest) error {
	r.checks.Add(1)
	if err := r.allowed(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.manifests[d] == nil {
		return model.ErrNotFound
	}
	return nil
}

func (r *fakeRepository) ReadRange(ctx context.Context, b model.Blob, offset, length int64) (source.Body, error) {
	r.reads.Add(1)
	if err := r.allowed(); err != nil {
		return source.Body{}, err
	}
	r.mu.Lock()
	data, hold := r.blobs[b.Digest], r.hold
	if r.spoil != nil {
		data = r.spoil(b.Digest, bytes.Clone(data))
	}
	r.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return source.Body{}, ctx.Err()
		}
	}
	end := int64(len(data))
	if length >= 0 {
		end = min(end, offset+length)
	}
	r.sent.Add(end - offset)
	return source.Body{ReadCloser: io.NopCloser(bytes.NewReader(data[offset:end])), Offset: offset, Length: end - offset}, nil
}

// node is a puller with a real store, engine and ledger.
type node struct {
	*Puller
	registry *fakeRegistry
	now      time.Time
	root     string
	observed sync.Map // result of an authorisation to *atomic.Int64
}

func (n *node) Authorized(how string) {
	c, _ := n.observed.LoadOrStore(how, new(atomic.Int64))
	c.(*atomic.Int64).Add(1)
}

func (n *node) Refused(why string) { n.Authorized("refused: " + why) }

func (n *node) Pulled(int64, time.Duration, error) {}

func newNode(t *testing.T, r *fakeRegistry, change func(*Options)) *node {
	t.Helper()
	n := &node{registry: r, now: time.Now(), root: t.TempDir()}
	n.start(t, change)
	return n
}

// start opens everything on the node's root, as a new process does.
func (n *node) start(t *testing.T, change func(*Options)) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	s, err := store.Open(n.root, store.Options{Policy: store.Policy{ReserveBytes: 1}, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	grants, err := grant.Open(n.root, grant.Options{Now: func() time.Time { return n.now }})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Source: source.Mux{model.SchemeOCI: n.registry}, Store: s, Engine: ingest.New(ingest.Options{Logger: log}),
		Grants: grants, Logger: log, Observer: n,
	}
	if change != nil {
		change(&o)
	}
	n.Puller = New(o)
	t.Cleanup(func() { n.stop(t) })
}

func (n *node) stop(t *testing.T) {
	t.Helper()
	n.Close()
	if err := n.opts.Store.Close(); err != nil && !errors.Is(err, io.EOF) {
		t.Log(err) // closed before, by a test that restarts the node
	}
}

func (n *node) count(how string) int64 {
	c, ok := n.observed.Load(how)
	if !ok {
		return 0
	}
	return c.(*atomic.Int64).Load()
}

type user struct{ name, password string }

func (u user) Credentials(context.Context, model.Ref) ([]model.Credential, error) {
	return []model.Credential{{Name: "secret of " + u.name, Username: u.name, Password: model.NewSecret(u.password)}}, nil
}

func parse(t *testing.T, s string) model.Ref {
	t.Helper()
	ref, err := model.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// check reads every file of the result from the store.
func (n *node) check(t *testing.T, r *Result, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for _, f := range r.Tree {
		file, err := n.opts.Store.OpenBlob(f.Blob.Digest)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(file)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		got[f.Path] = string(data)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the tree shows %.200v, want %.200v", got, want)
	}
}
