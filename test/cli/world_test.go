package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/hubtest"
	"github.com/model-csi/model-csi/test/node"
	"github.com/model-csi/model-csi/test/registry"
)

// What a story needs besides a registry: a node, a Hub, artifacts of other producers.
var worldCommands = map[string]func(*testscript.TestScript, bool, []string){
	"daemon": startDaemon, "publish": publish, "publishing": publishing, "unpublish": unpublish, "hub": startHub, "artifact": pushArtifact,
	"ollama": pushOllama, "index": pushIndex, "stall": stallBlob, "unstall": endStall, "received": countBytes, "pace": setPace, "everybody": forEverybody,
	"discovering": startDiscovering,
}

// nodeKey is where a story keeps its node.
type nodeKey struct{}

func startDaemon(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 0, "daemon [FLAG...]")
	dir, err := os.MkdirTemp("", "mc") // the path of a socket is at most 107 bytes long
	ts.Check(err)
	ts.Defer(func() { _ = os.RemoveAll(dir) })
	binary := filepath.Join(filepath.SplitList(path)[0], "model-csi")
	n, err := node.Start(context.Background(), node.Options{Binary: binary, Dir: dir, Args: args})
	ts.Check(err)
	ts.Defer(n.Kill)
	*ts.Value(nodeKey{}).(**node.Node) = n
	ts.Setenv("ROOT", n.Root())
}

// publish asks as kubelet does, once, and waits for the answer.
func publish(ts *testscript.TestScript, neg bool, args []string) {
	err := ask(ts, args, time.Minute)
	if neg != (err != nil) {
		ts.Fatalf("publish: %v", err)
	}
}

// publishing asks again and again, as kubelet does for a volume that takes long, until its pull has come to where the
// registry stalls. There it is left.
func publishing(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 2, "publishing VOLUME REFERENCE [ATTRIBUTE=VALUE...]")
	stall := *ts.Value(stallKey{}).(**registry.Injection)
	for range 30 {
		if err := ask(ts, args, 2*time.Second); err == nil {
			ts.Fatalf("publishing: the volume is published")
		}
		if stall.Hits() > 0 {
			return
		}
	}
	ts.Fatalf("publishing: nobody asks for what stalls")
}

func ask(ts *testscript.TestScript, args []string, patience time.Duration) error {
	if len(args) < 2 {
		ts.Fatalf("usage: publish VOLUME REFERENCE [ATTRIBUTE=VALUE...]")
	}
	attributes := map[string]string{"reference": args[1]}
	for _, a := range args[2:] {
		key, value, _ := strings.Cut(a, "=")
		attributes[key] = value
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n := *ts.Value(nodeKey{}).(**node.Node)
	ts.Setenv("TARGET", n.Target(args[0]))
	return n.Publish(ctx, node.Volume{ID: args[0], Attributes: attributes})
}

func unpublish(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 1, "unpublish VOLUME")
	ts.Check((*ts.Value(nodeKey{}).(**node.Node)).Unpublish(context.Background(), args[0]))
}

func files(ts *testscript.TestScript, dir string) []artifact.File {
	list, err := artifact.FromDir(ts.MkAbs(dir))
	ts.Check(err)
	return list
}

func content(ts *testscript.TestScript, f artifact.File) []byte {
	body, err := f.Open()
	ts.Check(err)
	defer func() { _ = body.Close() }()
	var b bytes.Buffer
	_, err = b.ReadFrom(body)
	ts.Check(err)
	return b.Bytes()
}

func startHub(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 2, "hub DIR ORG/NAME [TOKEN]")
	h := hubtest.New()
	ts.Defer(h.Close)
	var commit []hubtest.File
	for _, f := range files(ts, args[0]) {
		commit = append(commit, hubtest.File{Path: f.Path, Content: content(ts, f), LFS: f.Size > 100_000})
	}
	h.Commit(args[1], commit)
	if len(args) > 2 {
		h.SetAccess(args[1], hubtest.Access{Private: true, Tokens: args[2:]})
	}
	ts.Setenv("HF_ENDPOINT", h.URL())
}

// split takes REPOSITORY:TAG apart.
func split(ts *testscript.TestScript, name string) (repository, tag string) {
	repository, tag, ok := strings.Cut(name, ":")
	if !ok {
		ts.Fatalf("%s has no tag", name)
	}
	return repository, tag
}

func pushArtifact(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 4, "artifact GENERATION PACKING DIR REPOSITORY:TAG")
	repository, tag := split(ts, args[3])
	_, err := artifact.Push(context.Background(), host(ts), repository, tag, files(ts, args[2]),
		artifact.Options{Generation: artifact.Generation(args[0]), Packing: artifact.Packing(args[1]), Together: args[0] == "image"})
	ts.Check(err)
}

func host(ts *testscript.TestScript) string {
	return ts.Value(registryKey{}).(*registry.Registry).Host()
}

func marshal(ts *testscript.TestScript, v any) []byte {
	b, err := json.Marshal(v)
	ts.Check(err)
	return b
}

func pushOllama(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 2, "ollama GGUF REPOSITORY:TAG")
	repository, tag := split(ts, args[1])
	client := artifact.NewClient(host(ts), repository, "", "")
	blob := func(mediaType string, body []byte) ocispec.Descriptor {
		d, err := client.Blob(context.Background(), bytes.NewReader(body))
		ts.Check(err)
		d.MediaType = mediaType
		return d
	}
	const manifest = "application/vnd.docker.distribution.manifest.v2+json"
	_, err := client.Manifest(context.Background(), tag, manifest, marshal(ts, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: manifest,
		Config: blob("application/vnd.docker.container.image.v1+json", []byte(`{"model_format":"gguf","model_family":"llama"}`)),
		Layers: []ocispec.Descriptor{
			blob("application/vnd.ollama.image.model", []byte(ts.ReadFile(args[0]))),
			blob("application/vnd.ollama.image.template", []byte("{{ .Prompt }}")),
		},
	}))
	ts.Check(err)
}

func pushIndex(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 3, "index REPOSITORY TAG PLATFORM=TAG...")
	client := artifact.NewClient(host(ts), args[0], "", "")
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, entry := range args[2:] {
		platform, tag, _ := strings.Cut(entry, "=")
		ts.Check(ts.Exec("crane", "manifest", "--insecure", fmt.Sprintf("%s/%s:%s", host(ts), args[0], tag)))
		body := ts.ReadFile("stdout")
		system, architecture, _ := strings.Cut(platform, "/")
		index.Manifests = append(index.Manifests, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(body), Size: int64(len(body)),
			Platform: &ocispec.Platform{OS: system, Architecture: architecture},
		})
	}
	_, err := client.Manifest(context.Background(), args[1], index.MediaType, marshal(ts, index))
	ts.Check(err)
}

// stallKey is where a story keeps what holds its registry up.
type stallKey struct{}

func stallBlob(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 2, "stall FILE AFTER")
	r := ts.Value(registryKey{}).(*registry.Registry)
	*ts.Value(stallKey{}).(**registry.Injection) = r.Inject(registry.Rule{
		Method: "GET", Kind: registry.KindBlob, Reference: digest.FromString(ts.ReadFile(args[0])).String(),
	}, registry.Stall(int64(number(ts, args[1]))))
}

func setPace(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 1, "pace BYTES-A-SECOND")
	ts.Value(registryKey{}).(*registry.Registry).SetPace(number(ts, args[0]))
}

func endStall(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 0, "unstall")
	(*ts.Value(stallKey{}).(**registry.Injection)).Remove()
}

func countBytes(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 1, "received AT-MOST")
	r := ts.Value(registryKey{}).(*registry.Registry)
	// The registry notices a little later that a client is gone, and what it sent to that one must not count for the next.
	for deadline := time.Now().Add(time.Minute); r.Stats().Active > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("the registry still serves requests")
		}
	}
	all := r.Requests()
	seen := ts.Value(seenKey{}).(*int)
	var n int64
	for _, q := range all[*seen:] {
		if q.Method == "GET" && q.Kind == registry.KindBlob {
			n += q.Bytes
		}
	}
	if n > int64(number(ts, args[0])) {
		ts.Fatalf("%d bytes of blobs were sent", n)
	}
	*seen = len(all)
}

// startDiscovering runs what finds out by itself where a blob is that is to be mounted, in front of the story's registry,
// which has to be told: distribution-spec, "Mounting a blob from another repository", has it as automatic content discovery.
func startDiscovering(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 2, "discovering NAME REPOSITORY")
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", host(ts)
		if q := r.Out.URL.Query(); r.Out.Method == http.MethodPost && q.Has("mount") && !q.Has("from") {
			q.Set("from", args[1])
			r.Out.URL.RawQuery = q.Encode()
		}
	}}
	server := httptest.NewServer(proxy)
	ts.Defer(server.Close)
	ts.Setenv(args[0], server.Listener.Addr().String())
}

// forEverybody opens the story's directory and all above it to other users.
func forEverybody(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 0, "everybody")
	ts.Check(os.Chmod(ts.Getenv("WORK"), 0o777))
	for dir := filepath.Dir(ts.Getenv("WORK")); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		ts.Check(os.Chmod(dir, 0o755))
	}
	ts.Check(os.Chmod(filepath.SplitList(path)[0], 0o755))
}
