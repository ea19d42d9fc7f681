package hub_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/hub"
	"github.com/model-csi/model-csi/pkg/source/hub/hubtest"
	"github.com/model-csi/model-csi/pkg/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newHub(t *testing.T) *hubtest.Server {
	t.Helper()
	h := hubtest.New()
	t.Cleanup(h.Close)
	return h
}

func newSource(t *testing.T, o hub.Options) *hub.Source {
	t.Helper()
	transport := &http.Transport{DisableCompression: true, Proxy: http.ProxyFromEnvironment}
	t.Cleanup(transport.CloseIdleConnections)
	o.Transport = func(string) (http.RoundTripper, error) { return transport, nil }
	s, err := hub.New(o)
	if err != nil {
		t.Fatal(err)
	}
	hub.SetFirstPause(s, time.Millisecond)
	return s
}

func parse(t *testing.T, reference string) model.Ref {
	t.Helper()
	ref, err := model.ParseRef(reference)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func open(t *testing.T, s *hub.Source, reference, token string) source.Repository {
	t.Helper()
	r, err := s.Repository(parse(t, reference), bearer(token))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func bearer(token string) model.Credential {
	if token == "" {
		return model.Credential{}
	}
	return model.Credential{Name: "nodePublishSecretRef", AccessToken: model.NewSecret(token)}
}

func resolve(t *testing.T, r source.Repository) (source.Snapshot, manifest) {
	t.Helper()
	s, err := r.Resolve(t.Context(), source.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	var m manifest
	if err := json.Unmarshal(s.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	return s, m
}

type manifest struct {
	MediaType, Repository, Commit string
	Files                         []struct {
		Path   string
		Size   int64
		SHA256 string
	}
}

func (m manifest) paths() (out []string) {
	for _, f := range m.Files {
		out = append(out, f.Path)
	}
	return out
}

func lfs(path, content string) hubtest.File {
	return hubtest.File{Path: path, Content: []byte(content), LFS: true}
}
func plain(path, content string) hubtest.File {
	return hubtest.File{Path: path, Content: []byte(content)}
}

// tiny is a model as people push them.
func tiny() []hubtest.File {
	return []hubtest.File{
		plain(".gitattributes", "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"),
		plain("README.md", "---\nlicense: apache-2.0\n---\n# Tiny\n"),
		plain("config.json", `{"architectures":["Tiny"]}`),
		plain("empty.txt", ""),
		plain("sub/dir/special token+map#1?.json", `{}`),
		plain("über/é.txt", "ü"),
		lfs("model.safetensors", strings.Repeat("weights ", 1<<12)),
		lfs("onnx/model.onnx", strings.Repeat("onnx ", 100)),
	}
}

// read reads a file as a whole.
func read(t *testing.T, r source.Repository, f hubtest.File) ([]byte, source.Body, error) {
	t.Helper()
	body, err := r.ReadRange(t.Context(), blob(f), 0, -1)
	if err != nil {
		return nil, source.Body{}, err
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	return data, body, err
}

func blob(f hubtest.File) model.Blob {
	return model.Blob{Digest: digest.FromBytes(f.Content), Size: int64(len(f.Content))}
}

// TestConformance runs against the hub in the process, or, with MODEL_CSI_LIVE set to a reference such as
// hf://openai-community/gpt2, against the real one; HF_TOKEN is sent there.
func TestConformance(t *testing.T) {
	live := os.Getenv("MODEL_CSI_LIVE")
	if live != "" {
		conforms(t, "https://"+model.HubHost, live, os.Getenv("HF_TOKEN"))
		return
	}
	h := newHub(t)
	for _, name := range []string{"org/name", "gpt2", "datasets/org/name", "datasets/squad", "spaces/org/name"} {
		t.Run(strings.ReplaceAll(name, "/", "-"), func(t *testing.T) {
			h.Commit(name, tiny(), "main", "refs/pr/1")
			conforms(t, h.URL(), "hf://"+name, "")
			conforms(t, h.URL(), "hf://"+name+"@refs/pr/1", "")
		})
	}
}

func conforms(t *testing.T, endpoint, reference, token string) {
	s := newSource(t, hub.Options{Endpoint: endpoint})
	_, m := resolve(t, open(t, s, reference, token))
	name := strings.TrimPrefix(m.Repository, "models/")
	i := slices.IndexFunc(m.Files, func(f struct {
		Path   string
		Size   int64
		SHA256 string
	}) bool {
		return f.Size >= 16 && f.Size < 1<<20 && !strings.ContainsAny(f.Path, " #?%")
	})
	if i < 0 {
		t.Fatalf("none of the files %q can be compared", m.paths())
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, endpoint+"/"+name+"/resolve/"+m.Commit+"/"+m.Files[i].Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close(); http.DefaultClient.CloseIdleConnections() }()
	content, err := io.ReadAll(resp.Body)
	if sum := sha256.Sum256(content); err != nil || hex.EncodeToString(sum[:]) != m.Files[i].SHA256 {
		t.Fatalf("%s as anybody downloads it is not what the manifest says: %v", m.Files[i].Path, err)
	}
	sourcetest.Run(t, sourcetest.Fixture{
		Source: s, Ref: parse(t, reference), Cred: bearer(token),
		Blob: model.Blob{Digest: digest.FromBytes(content), Size: int64(len(content))}, Content: content,
	})
}

func TestResolve(t *testing.T) {
	h := newHub(t)
	h.SetPageSize(3)
	commit := h.Commit("org/name", tiny(), "main", "v1.0", "refs/pr/2")
	s := newSource(t, hub.Options{Endpoint: h.URL()})
	first, m := resolve(t, open(t, s, "hf://org/name", ""))
	if first.MediaType != hub.MediaType || m.MediaType != hub.MediaType || m.Repository != "org/name" || m.Commit != commit {
		t.Errorf("%s, %+v", first.MediaType, m)
	}
	want := []string{".gitattributes", "README.md", "config.json", "empty.txt", "model.safetensors", "onnx/model.onnx", "sub/dir/special token+map#1?.json", "über/é.txt"}
	if got := m.paths(); !slices.Equal(got, want) {
		t.Errorf("files %q", got)
	}
	for i, f := range tiny() {
		j := slices.Index(m.paths(), f.Path)
		if m.Files[j].SHA256 != f.SHA256() || m.Files[j].Size != int64(len(f.Content)) {
			t.Errorf("file %d: %+v", i, m.Files[j])
		}
	}
	pages := h.AskedFor("/tree/")
	if pages < 4 {
		t.Errorf("the tree was read in %d pages", pages)
	}
	for _, reference := range []string{"hf://org/name", "hf://org/name@v1.0", "hf://org/name@refs/pr/2", "hf://org/name@" + commit} {
		again, _ := resolve(t, open(t, s, reference, ""))
		if again.Digest != first.Digest || !bytes.Equal(again.Manifest, first.Manifest) {
			t.Errorf("%s is another manifest of the same commit", reference)
		}
	}
	if now := h.AskedFor("/tree/"); now != pages {
		t.Errorf("the same commit was listed again: %d pages", now-pages)
	}
	// Another process comes to the same bytes.
	other, _ := resolve(t, open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/name@v1.0", ""))
	if !bytes.Equal(other.Manifest, first.Manifest) {
		t.Error("the manifest depends on the process")
	}
}

func TestNextCommitReadsOnlyWhatChanged(t *testing.T) {
	h := newHub(t)
	h.Commit("org/name", tiny())
	s := newSource(t, hub.Options{Endpoint: h.URL()})
	first, _ := resolve(t, open(t, s, "hf://org/name", ""))
	next := tiny()
	next[1].Content = []byte("# Tiny, better")
	h.Commit("org/name", next)
	h.Forget()
	second, _ := resolve(t, open(t, s, "hf://org/name", ""))
	if second.Digest == first.Digest {
		t.Error("the next commit has the same manifest")
	}
	if n := h.AskedFor("/resolve/"); n > 3 { // the changed file with its redirect, and the proof
		t.Errorf("%d requests for files: %q", n, h.Asked())
	}
}

func TestRead(t *testing.T) {
	h := newHub(t)
	h.Commit("datasets/org/name", tiny())
	s := newSource(t, hub.Options{Endpoint: h.URL()})
	r := open(t, s, "hf://datasets/org/name", "")
	resolve(t, r)
	h.Forget()
	for _, f := range tiny() {
		data, body, err := read(t, r, f)
		if err != nil || !bytes.Equal(data, f.Content) {
			t.Errorf("%s: %d bytes, %v", f.Path, len(data), err)
		}
		if f.LFS && body.Host != h.StorageHost() {
			t.Errorf("%s came from %s", f.Path, body.Host)
		}
	}
	if n := h.AskedFor("/resolve/"); n > 2 {
		t.Errorf("small files were asked for again: %q", h.Asked())
	}
	// A repository that was opened by itself knows nothing, and asks.
	fresh := open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://datasets/org/name", "")
	for _, f := range tiny() {
		if data, _, err := read(t, fresh, f); err != nil || !bytes.Equal(data, f.Content) {
			t.Errorf("%s, fresh: %d bytes, %v", f.Path, len(data), err)
		}
	}
}

// TestRecall: after a restart, the snapshot alone is enough, and the branch may have moved.
func TestRecall(t *testing.T) {
	h := newHub(t)
	h.Commit("org/name", tiny())
	snapshot, _ := resolve(t, open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/name", ""))
	moved := []hubtest.File{lfs("other.bin", "other")}
	h.Commit("org/name", moved)
	h.Forget()

	r := open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/name", "")
	source.Recall(r, snapshot)
	if err := r.Check(t.Context(), snapshot.Digest); err != nil {
		t.Errorf("Check of the recalled commit: %v", err)
	}
	for _, f := range tiny() {
		if data, _, err := read(t, r, f); err != nil || !bytes.Equal(data, f.Content) {
			t.Errorf("%s: %d bytes, %v", f.Path, len(data), err)
		}
	}
	if h.AskedFor("/api/models/") != 0 {
		t.Errorf("the API was asked: %q", h.Asked())
	}

	// Without the recall the old commit cannot be found by its digest, which has its own words.
	r = open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/name", "")
	wants(t, r.Check(t.Context(), snapshot.Digest), model.ErrNotFound, "name a commit instead")
	// What is no snapshot of this repository is passed over.
	forged := snapshot
	forged.Manifest = bytes.Replace(snapshot.Manifest, []byte("org/name"), []byte("org/else"), 1)
	source.Recall(r, forged)
	source.Recall(r, source.Snapshot{MediaType: hub.MediaType, Manifest: []byte("{")})
	if data, _, err := read(t, r, moved[0]); err != nil || !bytes.Equal(data, moved[0].Content) {
		t.Errorf("after nonsense: %q, %v", data, err)
	}
}

func TestRenamed(t *testing.T) {
	h := newHub(t)
	h.Commit("old/name", tiny())
	h.SetAccess("old/name", hubtest.Access{Private: true, Tokens: []string{"hf_token"}})
	before, _ := resolve(t, open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://old/name", "hf_token"))
	h.Rename("old/name", "new/name")
	r := open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://old/name", "hf_token")
	after, _ := resolve(t, r)
	if after.Digest != before.Digest {
		t.Error("the name that was asked for means another manifest after the move")
	}
	for _, f := range tiny() {
		if data, _, err := read(t, r, f); err != nil || !bytes.Equal(data, f.Content) {
			t.Errorf("%s: %d bytes, %v", f.Path, len(data), err)
		}
	}
}

func TestLinksExpire(t *testing.T) {
	h := newHub(t)
	h.Commit("org/name", tiny())
	r := open(t, newSource(t, hub.Options{Endpoint: h.URL()}), "hf://org/name", "")
	resolve(t, r)
	weights := tiny()[6]
	if _, _, err := read(t, r, weights); err != nil {
		t.Fatal(err)
	}
	h.Forget()
	if _, _, err := read(t, r, weights); err != nil || h.AskedFor("/resolve/") != 0 {
		t.Errorf("the link was not used again: %q, %v", h.Asked(), err)
	}
	h.ExpireLinks()
	data, _, err := read(t, r, weights)
	if err != nil || !bytes.Equal(data, weights.Content) || h.AskedFor("/resolve/") != 1 {
		t.Errorf("after the link expired: %d bytes, %q, %v", len(data), h.Asked(), err)
	}
}
