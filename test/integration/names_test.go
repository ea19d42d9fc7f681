package integration

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/node"
	"github.com/model-csi/model-csi/test/registry"
)

// modelRegistry answers for one version "v1" of each of its models, as the REST API of the Kubeflow Model Registry does.
type modelRegistry struct {
	*httptest.Server
	mu    sync.Mutex // guards what follows
	uris  map[string]string
	token string
	asked int
}

func newModelRegistry(t *testing.T, token string) *modelRegistry {
	m := &modelRegistry{uris: map[string]string{}, token: token}
	m.Server = httptest.NewServer(http.HandlerFunc(m.serve))
	t.Cleanup(m.Close)
	return m
}

func (m *modelRegistry) register(name, uri string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.uris[name] = uri
}

func (m *modelRegistry) serve(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked++
	if r.Header.Get("Authorization") != "Bearer "+m.token {
		http.Error(w, `{"code":"401","message":"Unauthorized"}`, http.StatusUnauthorized)
		return
	}
	const api = "/api/model_registry/v1alpha3/"
	name := r.URL.Query().Get("name")
	var answer any
	switch path := strings.TrimPrefix(r.URL.Path, api); {
	case path == "registered_model" && m.uris[name] != "":
		id := 1
		for other := range m.uris {
			if other < name {
				id++
			}
		}
		answer = map[string]string{"id": fmt.Sprint(id), "name": name, "state": "LIVE"}
	case path == "model_version" && name == "v1":
		answer = map[string]string{"id": r.URL.Query().Get("parentResourceId"), "name": "v1", "state": "LIVE"}
	case strings.HasPrefix(path, "model_versions/"):
		var names []string
		for name := range m.uris {
			names = append(names, name)
		}
		for _, name := range names {
			id := 1
			for _, other := range names {
				if other < name {
					id++
				}
			}
			if path == fmt.Sprintf("model_versions/%d/artifacts", id) {
				answer = map[string]any{"items": []map[string]string{{"id": "9", "artifactType": "model-artifact", "uri": m.uris[name]}}, "size": 1}
			}
		}
	}
	if answer == nil {
		http.Error(w, `{"code":"404","message":"no entity found"}`, http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// namesWorld is a node with a model registry whose registries have names of the world.
func namesWorld(t *testing.T) (*world, *modelRegistry, string) {
	t.Helper()
	m := newModelRegistry(t, "canary-token-of-the-model-registry")
	hosts := t.TempDir()
	w := newWorld(t, registry.Options{}, "--registry-config-dir", hosts, "--model-registry-url", m.URL, "--grant-ttl", "1ms")
	for _, host := range []string{"models.example.com", "registry.ollama.ai"} {
		dir := filepath.Join(hosts, host)
		text := fmt.Sprintf("server = %q\n", w.registry.URL())
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return w, m, strings.TrimPrefix(m.URL, "http://")
}

// withLogins gives a volume a docker config: user and password by host.
func withLogins(v node.Volume, logins ...[3]string) node.Volume {
	auths := map[string]map[string]string{}
	for _, l := range logins {
		auths[l[0]] = map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(l[1] + ":" + l[2]))}
	}
	text, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		panic(err)
	}
	v.Secrets = map[string]string{".dockerconfigjson": string(text)}
	return v
}

var namedModel = []artifact.File{artifact.Text("config.json", "{}"), artifact.Random("weights.bin", 100<<10, 1)}

// TestModelRegistry: a name leads to a model, with each service's own credentials, also while the model registry is away.
func TestModelRegistry(t *testing.T) {
	w, m, host := namesWorld(t)
	w.push("ann/llm", namedModel, artifact.Options{})
	p := &permissions{passwords: map[string]string{"ann": "pw-of-ann"}, may: map[[2]string]bool{{"ann", "ann/llm"}: true}}
	w.registry.Inject(registry.Rule{}, p.fault)
	m.register("iris", "oci://models.example.com/ann/llm:v1")
	asker, reader := [3]string{host, "any", m.token}, [3]string{"models.example.com", "ann", "pw-of-ann"}
	name := func(id string) node.Volume { return volume(id, "model-registry://iris/v1") }

	shows(t, w.mustPublish(withLogins(name("csi-cold"), asker, reader)), namedModel)
	sent := w.stats().BlobBytes
	shows(t, w.mustPublish(withLogins(volume("csi-host", "model-registry://"+host+"/iris/v1"), asker, reader)), namedModel)
	if again := w.stats().BlobBytes; again > sent+10 {
		t.Errorf("%d bytes were sent for a model that the node has", again-sent)
	}
	v := withLogins(name("csi-no-token"), reader)
	w.refused(v, w.publish(v), codes.Unauthenticated, "model registry", "nodePublishSecretRef")
	v = withLogins(name("csi-no-login"), asker)
	w.refused(v, w.publish(v), codes.Unauthenticated, "iris/v1 stands for models.example.com/ann/llm:v1")
	v = withLogins(volume("csi-absent", "model-registry://iris/v2"), asker, reader)
	w.refused(v, w.publish(v), codes.NotFound, "check the names")

	m.Close()
	if err := w.node.Stop(); err != nil {
		t.Error(err)
	}
	w.start()
	shows(t, w.mustPublish(withLogins(name("csi-away"), asker, reader)), namedModel)
	if strings.Contains(w.node.Log(), m.token) {
		t.Error("the log shows the token")
	}
	w.mustUnpublish("csi-cold", "csi-host", "csi-away")
}

// TestModelRegistryLeadsAstray: whoever writes to a model registry cannot lead a node to itself.
func TestModelRegistryLeadsAstray(t *testing.T) {
	w, m, host := namesWorld(t)
	w.push("ann/llm", namedModel, artifact.Options{})
	for name, tt := range map[string]struct {
		uri  string
		code codes.Code
		says string
	}{
		"loop":   {"oci://" + w.registry.Host() + "/ann/llm:v1", codes.PermissionDenied, "address of the node itself"},
		"circle": {"model-registry://circle/v1", codes.FailedPrecondition, "a name in a model registry again"},
		"bucket": {"s3://key:hunter2@bucket/model", codes.FailedPrecondition, "push the model to a registry"},
		"none":   {"oci://models.example.com/ann/none:v1", codes.NotFound, "stands for models.example.com/ann/none:v1"},
	} {
		m.register(name, tt.uri)
		v := withLogins(volume("csi-"+name, "model-registry://"+name+"/v1"), [3]string{host, "any", m.token})
		err := w.publish(v)
		w.refused(v, err, tt.code, tt.says)
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	v := volume("csi-host", "model-registry://127.0.0.1:1/iris/v1")
	w.refused(v, w.publish(v), codes.PermissionDenied, "only model-registry-url can name it")
}

// TestOllamaReference: Ollama's names lead to repositories of a registry.
func TestOllamaReference(t *testing.T) {
	w, _, _ := namesWorld(t)
	w.push("library/llm", namedModel, artifact.Options{})
	for i, reference := range []string{"ollama://llm:v1", "ollama://models.example.com/library/llm:v1", "ollama://Registry.Ollama.ai/llm:v1"} {
		id := fmt.Sprintf("csi-%d", i)
		shows(t, w.mustPublish(volume(id, reference)), namedModel)
		w.mustUnpublish(id)
	}
	v := volume("csi-absent", "ollama://llm:v2")
	w.refused(v, w.publish(v), codes.NotFound, "ollama://registry.ollama.ai/library/llm:v2", "ollama.com/library")
}
