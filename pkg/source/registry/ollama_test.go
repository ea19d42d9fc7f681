package registry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/registry"
	"github.com/model-csi/model-csi/pkg/source/sourcetest"
)

// ollama answers as registry.ollama.ai does: manifests by tag alone and for those only who accept Docker's type, of no
// particular Content-Type and without a digest in the header; blobs by a redirect to a storage host; errors as a list.
// Names are compared without regard to the case of letters.
type ollama struct {
	*httptest.Server
	storage *httptest.Server

	mu        sync.Mutex        // guards what follows
	manifests map[string][]byte // by "namespace/name:tag" in lower case
	blobs     map[string][]byte // by "namespace/name@digest" in lower case
	private   []string          // namespaces
	before    func(w http.ResponseWriter, r *http.Request) bool
	asked     []string
	atStorage []*http.Request
	links     int
}

func newOllama(t *testing.T) *ollama {
	o := &ollama{manifests: map[string][]byte{}, blobs: map[string][]byte{}}
	o.storage = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.atStorage = append(o.atStorage, r.Clone(t.Context()))
		data, ok := o.blobs[r.URL.Query().Get("key")]
		if !ok || r.URL.Query().Get("signature") == "" {
			http.Error(w, `<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>`, http.StatusForbidden)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	o.Server = httptest.NewServer(http.HandlerFunc(o.serve))
	t.Cleanup(o.Close)
	t.Cleanup(o.storage.Close)
	return o
}

func (o *ollama) serve(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = append(o.asked, r.Method+" "+r.URL.Path)
	if o.before != nil && o.before(w, r) {
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
	if len(parts) != 4 {
		http.NotFound(w, r)
		return
	}
	name := strings.ToLower(parts[0] + "/" + parts[1])
	if slices.Contains(o.private, strings.ToLower(parts[0])) {
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="ollama.com",scope="repository:%s:pull"`, r.Host, name))
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return
	}
	manifest, found := o.manifests[name+":"+strings.ToLower(parts[3])]
	switch blob := name + "@" + parts[3]; {
	case parts[2] == "manifests" && found && strings.Contains(r.Header.Get("Accept"), "application/vnd.docker.distribution.manifest.v2+json"):
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write(manifest)
	case parts[2] == "blobs" && o.blobs[blob] != nil:
		o.links++
		http.Redirect(w, r, fmt.Sprintf("%s/o?key=%s&signature=%d", o.storage.URL, blob, o.links), http.StatusTemporaryRedirect)
	default:
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
	}
}

// push makes a model of blobs, as Ollama's own push does, and returns its manifest's digest.
func (o *ollama) push(t *testing.T, name string, config map[string]any, layers ...[2]string) digest.Digest {
	t.Helper()
	type layer struct {
		MediaType string        `json:"mediaType"`
		Digest    digest.Digest `json:"digest"`
		Size      int           `json:"size"`
	}
	repository, _, _ := strings.Cut(name, ":")
	put := func(data []byte) digest.Digest {
		d := digest.FromBytes(data)
		o.blobs[repository+"@"+d.String()] = data
		return d
	}
	c, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	list := []layer{}
	for _, l := range layers {
		list = append(list, layer{"application/vnd.ollama.image." + l[0], put([]byte(l[1])), len(l[1])})
	}
	m, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
		"config": layer{"application/vnd.docker.container.image.v1+json", put(c), len(c)}, "layers": list,
	})
	if err != nil {
		t.Fatal(err)
	}
	o.manifests[name] = m
	return put(m)
}

// as makes a configuration with which the server stands for a registry of the world.
func (o *ollama) as(t *testing.T, host string) registry.Options {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, host), 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("server = %q\n", o.URL)
	if err := os.WriteFile(filepath.Join(dir, host, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return registry.Options{ConfigDir: dir}
}

const gguf = "GGUF\x03\x00\x00\x00 and then the tensors of a small model"

func ollamaRef(t *testing.T, s string) model.Ref {
	t.Helper()
	ref, err := model.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// TestOllamaService speaks to the in-process server in the place of registry.ollama.ai, or to the real one with
// MODEL_CSI_LIVE=ollama://all-minilm:22m in the environment, or another model. Of that, it reads two kilobytes.
func TestOllamaService(t *testing.T) {
	options := registry.Options{}
	name := os.Getenv("MODEL_CSI_LIVE")
	if !strings.HasPrefix(name, "ollama://") {
		name = "ollama://all-minilm:22m"
		o := newOllama(t)
		o.push(t, "library/all-minilm:22m", map[string]any{"model_format": "gguf", "model_family": "bert"},
			[2]string{"model", gguf + strings.Repeat(" weights", 1000)}, [2]string{"license", "Apache"}, [2]string{"params", "{}"})
		options = o.as(t, "registry.ollama.ai")
	}
	ref := ollamaRef(t, name)
	repo := open(t, options, ref, model.Credential{})
	snap, err := repo.Resolve(t.Context(), model.Selection{Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := format.Parse(format.Input{MediaType: snap.MediaType, Manifest: snap.Manifest, Config: snap.Config})
	if err != nil {
		t.Fatal(err)
	}
	var weights model.Blob
	for _, l := range plan.Layers {
		if l.Path == "model.gguf" {
			weights = l.Blob
		}
	}
	if plan.Format != "ollama" || weights.Size == 0 {
		t.Fatalf("%s: %+v", plan.Format, plan.Layers)
	}
	for offset, want := range map[int64]string{0: "GGUF", 2048: ""} {
		body, data, err := readAll(t, repo, weights, offset, 1024)
		if err != nil || body.Offset != offset || len(data) != 1024 || !strings.HasPrefix(string(data), want) {
			t.Errorf("range at %d: from %d, %d bytes, %v", offset, body.Offset, len(data), err)
		}
	}
	if err := repo.Check(t.Context(), snap.Digest); err != nil {
		t.Errorf("check: %v", err)
	}
	pinned := open(t, options, ref.Pinned(snap.Digest), model.Credential{})
	if again, err := pinned.Resolve(t.Context(), model.Selection{}); err != nil || again.Digest != snap.Digest {
		t.Errorf("by digest: %s, %v", again.Digest, err)
	}
	for _, name := range []string{"ollama://" + ref.Name() + ":no-such-tag", "ollama://there-is-no-model-of-this-name"} {
		_, err := open(t, options, ollamaRef(t, name), model.Credential{}).Resolve(t.Context(), model.Selection{})
		if !errors.Is(err, model.ErrNotFound) || !strings.Contains(err.Error(), "ollama.com/library") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOllamaConformance(t *testing.T) {
	o := newOllama(t)
	o.push(t, "mike/m:1b", map[string]any{}, [2]string{"model", gguf})
	src, err := registry.New(o.as(t, "registry.ollama.ai"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(src.CloseIdleConnections)
	sourcetest.Run(t, sourcetest.Fixture{
		Source: src, Ref: ollamaRef(t, "ollama://Mike/M:1b"),
		Blob: model.Blob{Digest: digest.FromString(gguf), Size: int64(len(gguf))}, Content: []byte(gguf),
	})
}

func TestOllamaNames(t *testing.T) {
	o := newOllama(t)
	d := o.push(t, "mike/my_model:q4_k_m", map[string]any{}, [2]string{"model", gguf})
	o.push(t, "library/llama3.2:latest", map[string]any{}, [2]string{"model", gguf})
	options := o.as(t, "registry.ollama.ai")
	for name, path := range map[string]string{
		"ollama://Mike/My_Model:q4_K_M":                    "Mike/My_Model/manifests/q4_K_M",
		"ollama://Registry.Ollama.ai/mike/my_model:Q4_K_M": "mike/my_model/manifests/Q4_K_M",
		"ollama://llama3.2":                                "library/llama3.2/manifests/latest",
	} {
		if _, err := open(t, options, ollamaRef(t, name), model.Credential{}).Resolve(t.Context(), model.Selection{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !slices.Contains(o.asked, "GET /v2/"+path) {
			t.Errorf("%s: asked %q", name, o.asked)
		}
	}
	hub := o.as(t, "hf.co")
	snap, err := open(t, hub, ollamaRef(t, "ollama://hf.co/Mike/My_Model:Q4_K_M"), model.Credential{}).Resolve(t.Context(), model.Selection{})
	if err != nil || snap.Digest != d {
		t.Errorf("hf.co: %s, %v", snap.Digest, err)
	}
}

func TestOllamaRedirects(t *testing.T) {
	o := newOllama(t)
	data := gguf + strings.Repeat("x", 5000)
	o.push(t, "library/m:latest", map[string]any{}, [2]string{"model", data})
	blob := model.Blob{Digest: digest.FromString(data), Size: int64(len(data))}
	repo := open(t, o.as(t, "registry.ollama.ai"), ollamaRef(t, "ollama://m"), password("ann", canary))
	for _, offset := range []int64{0, 1000, 5000} {
		_, got, err := readAll(t, repo, blob, offset, 17)
		if err != nil || string(got) != data[offset:offset+17] {
			t.Errorf("at %d: %q, %v", offset, got, err)
		}
	}
	for _, r := range o.atStorage {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("the storage host got %q", r.Header.Get("Authorization"))
		}
	}
	if len(o.atStorage) != 3 {
		t.Errorf("%d requests to the storage host", len(o.atStorage))
	}
	// Who names a blob of another model is not given it here.
	if _, _, err := readAll(t, open(t, o.as(t, "registry.ollama.ai"), ollamaRef(t, "ollama://other"), model.Credential{}), blob, 0, 1); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("a blob of another model: %v", err)
	}
}

func TestOllamaPrivate(t *testing.T) {
	o := newOllama(t)
	o.push(t, "ann/secret:latest", map[string]any{}, [2]string{"model", gguf})
	o.private = []string{"ann"}
	o.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/token" {
			return false
		}
		http.Error(w, `{"error":"unauthorized"}`, http.StatusUnauthorized) // it wants a signature
		return true
	}
	for _, c := range []model.Credential{{}, password("ann", canary)} {
		_, err := open(t, o.as(t, "registry.ollama.ai"), ollamaRef(t, "ollama://ann/secret"), c).Resolve(t.Context(), model.Selection{})
		if !errors.Is(err, model.ErrUnauthenticated) || !strings.Contains(err.Error(), "key of an Ollama installation") {
			t.Errorf("%s: %v", c, err)
		}
	}
	// Another registry under the same protocol has accounts of the usual kind.
	_, err := open(t, o.as(t, "ollama.example.com"), ollamaRef(t, "ollama://ollama.example.com/ann/secret"), model.Credential{}).Resolve(t.Context(), model.Selection{})
	if !errors.Is(err, model.ErrUnauthenticated) || !strings.Contains(err.Error(), "nodePublishSecretRef") {
		t.Errorf("another host: %v", err)
	}
}

func TestOllamaRateLimit(t *testing.T) {
	o := newOllama(t)
	o.push(t, "library/m:latest", map[string]any{}, [2]string{"model", gguf})
	limited := 2
	o.before = func(w http.ResponseWriter, _ *http.Request) bool {
		if limited == 0 {
			return false
		}
		limited--
		if limited > 10 {
			w.Header().Set("Retry-After", "30")
		}
		refuse(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "slow down")
		return true
	}
	repo := open(t, o.as(t, "registry.ollama.ai"), ollamaRef(t, "ollama://m"), model.Credential{})
	if _, err := repo.Resolve(t.Context(), model.Selection{}); err != nil {
		t.Errorf("after two refusals: %v", err)
	}
	limited = 1000
	var later *model.RetryAfterError
	if _, err := repo.Resolve(t.Context(), model.Selection{}); !errors.As(err, &later) || later.After != 30*time.Second {
		t.Errorf("limited: %v", err)
	}
}

// TestOllamaCloud: a model that runs elsewhere is an error before anything is downloaded.
func TestOllamaCloud(t *testing.T) {
	o := newOllama(t)
	config := map[string]any{"remote_host": "https://ollama.com:443", "remote_model": "gpt-oss:120b"}
	o.push(t, "library/gpt-oss:120b-cloud", config, [2]string{"license", "Apache"}, [2]string{"template", "{{ .Prompt }}"})
	o.push(t, "library/bare:cloud", config)
	for _, name := range []string{"ollama://gpt-oss:120b-cloud", "ollama://bare:cloud"} {
		snap, err := open(t, o.as(t, "registry.ollama.ai"), ollamaRef(t, name), model.Credential{}).Resolve(t.Context(), model.Selection{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = format.Parse(format.Input{MediaType: snap.MediaType, Manifest: snap.Manifest, Config: snap.Config})
		if !errors.Is(err, model.ErrUnsupported) || !strings.Contains(err.Error(), "no weights to mount") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
