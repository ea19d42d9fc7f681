package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	repoName    = "acme/llm"
)

// server is a registry whose answers a test can replace. It keeps what it was asked.
type server struct {
	*httptest.Server

	mu sync.Mutex
	// content by path below /v2/.
	content map[string]item
	// before may answer a request in place of the registry.
	before   func(w http.ResponseWriter, r *http.Request) (done bool)
	requests []*http.Request
}

type item struct {
	data []byte
	kind string
	// digest is said in Docker-Content-Digest; empty for the right one, "-" for none.
	digest string
}

func newServer(t *testing.T, tls bool) *server {
	t.Helper()
	s := &server{content: map[string]item{}}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if tls {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

func (s *server) host() string { return s.Listener.Addr().String() }

func (s *server) ref(tag string) model.Ref {
	return model.Ref{Scheme: model.SchemeOCI, Registry: s.host(), Repository: repoName, Tag: tag}
}

// on replaces answers; nil restores the registry's own.
func (s *server) on(before func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}

// asked lists "METHOD path" of the requests so far.
func (s *server) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, r := range s.requests {
		out = append(out, r.Method+" "+r.URL.Path)
	}
	return out
}

// header lists the values that a header had in the requests so far.
func (s *server) header(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, r := range s.requests {
		out = append(out, r.Header.Values(name)...)
	}
	return out
}

func (s *server) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}

func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Clone(r.Context()))
	before := s.before
	it, ok := s.content[strings.TrimPrefix(r.URL.Path, "/v2/"+repoName+"/")]
	s.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	if !ok {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	if it.kind != "" {
		w.Header().Set("Content-Type", it.kind)
	}
	switch it.digest {
	case "":
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(it.data).String())
	case "-":
	default:
		w.Header().Set("Docker-Content-Digest", it.digest)
	}
	if strings.Contains(r.URL.Path, "/blobs/") {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(it.data))
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(it.data)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(it.data)
	}
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

// put stores a manifest under its digest and under tags.
func (s *server) put(data []byte, kind string, tags ...string) digest.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := digest.FromBytes(data)
	for _, reference := range append(tags, d.String()) {
		s.content["manifests/"+reference] = item{data: data, kind: kind}
	}
	return d
}

func (s *server) blob(data []byte) model.Blob {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := digest.FromBytes(data)
	s.content["blobs/"+d.String()] = item{data: data, kind: "application/octet-stream"}
	return model.Blob{Digest: d, Size: int64(len(data))}
}

// model stores a manifest with a config and one layer under the tag "v1".
func (s *server) model() (manifest digest.Digest, layer model.Blob, content []byte) {
	content = bytes.Repeat([]byte("weights of a model "), 1000)
	layer = s.blob(content)
	config := s.blob([]byte(`{"descriptor":{"name":"llm"}}`))
	return s.put(manifestOf(config, layer), ociManifest, "v1"), layer, content
}

func manifestOf(config, layer model.Blob) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,
 "config":{"mediaType":"application/vnd.cncf.model.config.v1+json","digest":%q,"size":%d},
 "layers":[{"mediaType":"application/vnd.cncf.model.weight.v1.raw","digest":%q,"size":%d}]}`,
		ociManifest, config.Digest, config.Size, layer.Digest, layer.Size)
}

// open makes a source and opens a repository of the server.
func open(t *testing.T, o registry.Options, ref model.Ref, cred model.Credential) source.Repository {
	t.Helper()
	if o.Select == nil {
		o.Select = selectFirst
	}
	s, err := registry.New(o)
	if err != nil {
		t.Fatal(err)
	}
	registry.SetFirstPause(s, time.Millisecond)
	t.Cleanup(s.CloseIdleConnections)
	repo, err := s.Repository(ref, cred)
	if err != nil {
		t.Fatal(err)
	}
	return repo
}

// selectFirst takes the first manifest of an index.
func selectFirst(index []byte, _ model.Selection) (source.Choice, error) {
	var doc struct {
		Manifests []struct {
			MediaType string        `json:"mediaType"`
			Digest    digest.Digest `json:"digest"`
			Size      int64         `json:"size"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(index, &doc); err != nil || len(doc.Manifests) == 0 {
		return source.Choice{}, fmt.Errorf("index lists nothing: %w", model.ErrNotFound)
	}
	m := doc.Manifests[0]
	return source.Choice{Digest: m.Digest, Size: m.Size, MediaType: m.MediaType}, nil
}

func readAll(t *testing.T, repo source.Repository, blob model.Blob, offset, length int64) (source.Body, []byte, error) {
	t.Helper()
	body, err := repo.ReadRange(t.Context(), blob, offset, length)
	if err != nil {
		return source.Body{}, nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	return body, data, err
}

func password(user, pass string) model.Credential {
	return model.Credential{Name: "nodePublishSecretRef", Username: user, Password: model.NewSecret(pass)}
}
