package cli

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/model-csi/model-csi/test/node"
	"github.com/model-csi/model-csi/test/peer"
	"github.com/model-csi/model-csi/test/registry"
)

var update = flag.Bool("update", false, "write golden files")

// path of a story: the directories of the binaries under test and of the peers.
var path string

func TestMain(m *testing.M) {
	os.Exit(node.Isolated(func() int {
		dir, err := os.MkdirTemp("", "model-csi-cli-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer func() { _ = os.RemoveAll(dir) }()
		if err := build(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}))
}

func build(dir string) error {
	cmd := exec.Command("go", "build", "-ldflags", "-X main.version=v0.0.0-test", "-o", filepath.Join(dir, "model-csi"), "./cmd/model-csi")
	cmd.Dir = "../.."
	cmd.Stderr = os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build model-csi: %w", err)
	}
	path = dir
	for _, p := range []peer.Peer{peer.ORAS, peer.Crane} {
		at, err := p.Build(context.Background())
		if err != nil {
			return err
		}
		path += string(filepath.ListSeparator) + filepath.Dir(at)
	}
	path += string(filepath.ListSeparator) + os.Getenv("PATH")
	return nil
}

// registryKey is where a story keeps its first registry, and seenKey how many of its requests were counted.
type (
	registryKey struct{}
	seenKey     struct{}
)

func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Setup: func(env *testscript.Env) error {
			r, err := start(env, registry.Options{})
			if err != nil {
				return err
			}
			env.Values[registryKey{}] = r
			env.Values[seenKey{}] = new(int)
			env.Values[slowKey{}] = new(*registry.Injection)
			env.Values[stallKey{}] = new(*registry.Injection)
			env.Values[nodeKey{}] = new(*node.Node)
			env.Setenv("REGISTRY", r.Host())
			env.Setenv("PATH", path)
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("DOCKER_CONFIG", filepath.Join(env.WorkDir, ".docker"))
			env.Setenv("ARCH", runtime.GOARCH)
			return nil
		},
		Cmds: withWorld(map[string]func(*testscript.TestScript, bool, []string){
			"model": makeModel, "random": makeRandom, "sametree": sameTree, "registry": startRegistry,
			"slow": slowDown, "awaitslow": awaitSlow, "fault": injectFault, "sent": countRequests, "stdout2env": stdoutToEnv,
		}),
	})
}

// withWorld adds the commands that need more than a registry.
func withWorld(cmds map[string]func(*testscript.TestScript, bool, []string)) map[string]func(*testscript.TestScript, bool, []string) {
	maps.Copy(cmds, worldCommands)
	return cmds
}

func start(env *testscript.Env, o registry.Options) (*registry.Registry, error) {
	r, err := registry.Start(o)
	if err == nil {
		env.Defer(func() { _ = r.Close() })
	}
	return r, err
}

func check(ts *testscript.TestScript, neg bool, args []string, want int, usage string) {
	if neg {
		ts.Fatalf("this command cannot be negated")
	}
	if len(args) < want {
		ts.Fatalf("usage: %s", usage)
	}
}

func number(ts *testscript.TestScript, s string) int {
	n, err := strconv.Atoi(s)
	ts.Check(err)
	return n
}

// makeModel gives every story a model of its own: stories run at the same time, and a node does not evict what is mounted
// on the machine, whosever volume it is.
func makeModel(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 1, "model DIR")
	dir := ts.MkAbs(args[0])
	shards := map[string]string{}
	for i := range 2 {
		file := fmt.Sprintf("model-0000%d-of-00002.safetensors", i+1)
		tensor := fmt.Sprintf("layers.%d.weight", i)
		header, err := json.Marshal(map[string]any{tensor: map[string]any{"dtype": "BF16", "shape": []int{600, 500}, "data_offsets": []int{0, 600_000}}})
		ts.Check(err)
		content := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
		write(ts, dir, file, append(append(content, header...), random(600_000, ts.Name()+file)...), 0o644)
		shards[tensor] = file
	}
	index, err := json.Marshal(map[string]any{"weight_map": shards})
	ts.Check(err)
	write(ts, dir, "model.safetensors.index.json", index, 0o644)
	write(ts, dir, "config.json", []byte(`{"model_type":"qwen2","architectures":["Qwen2ForCausalLM"],"torch_dtype":"bfloat16","max_position_embeddings":32768}`), 0o644)
	write(ts, dir, "tokenizer_config.json", []byte(`{"chat_template":"{%- if tools %}<tool_call>{% endif %}"}`), 0o644)
	write(ts, dir, "tokenizer/vocab.txt", []byte("a\nb\n"), 0o644)
	write(ts, dir, "README.md", []byte("---\nlicense: apache-2.0\nlanguage: [en, de]\n---\n# A model\n"), 0o644)
	write(ts, dir, "code/run.sh", []byte("#!/bin/sh\n"), 0o755)
	write(ts, dir, "code/__init__.py", nil, 0o644)
	write(ts, dir, ".cache/state", []byte("x"), 0o644)
}

func write(ts *testscript.TestScript, dir, name string, content []byte, mode fs.FileMode) {
	at := filepath.Join(dir, filepath.FromSlash(name))
	ts.Check(os.MkdirAll(filepath.Dir(at), 0o755))
	ts.Check(os.WriteFile(at, content, mode))
	ts.Check(os.Chmod(at, mode)) // whatever the umask is
}

func random(size int, seed string) []byte {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(content)
	return content
}

func makeRandom(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 3, "random FILE SIZE SEED")
	write(ts, "", ts.MkAbs(args[0]), random(number(ts, args[1]), args[2]), 0o644)
}

// tree describes the files of a directory, one a line.
func tree(ts *testscript.TestScript, dir string) string {
	var b strings.Builder
	ts.Check(filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		fmt.Fprintf(&b, "%s %x\n", filepath.ToSlash(rel), sha256.Sum256(content))
		return err
	}))
	return b.String()
}

func sameTree(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 2, "sametree DIR DIR")
	a, b := tree(ts, ts.MkAbs(args[0])), tree(ts, ts.MkAbs(args[1]))
	if a != b || a == "" {
		ts.Fatalf("%s has\n%s\n%s has\n%s", args[0], a, args[1], b)
	}
}

func startRegistry(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 1, "registry NAME [tokens]")
	var o registry.Options
	if len(args) > 1 && args[1] == "tokens" {
		o = registry.Options{Users: map[string]string{"user": "secret"}, TokenTTL: time.Hour}
	}
	r, err := registry.Start(o)
	ts.Check(err)
	ts.Defer(func() { _ = r.Close() })
	ts.Setenv(args[0], r.Host())
}

func injectFault(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 5, "fault METHOD KIND SKIP TIMES STATUS")
	r := ts.Value(registryKey{}).(*registry.Registry)
	r.Inject(registry.Rule{Method: args[0], Kind: registry.Kind(args[1]), Skip: number(ts, args[2]), Times: number(ts, args[3])},
		registry.Status(number(ts, args[4]), 0))
}

// slowKey is where a story keeps what slows its registry down.
type slowKey struct{}

func slowDown(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 2, "slow METHOD KIND")
	r := ts.Value(registryKey{}).(*registry.Registry)
	*ts.Value(slowKey{}).(**registry.Injection) = r.Inject(registry.Rule{Method: args[0], Kind: registry.Kind(args[1]), Times: 1}, registry.Latency(time.Hour))
}

func awaitSlow(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 0, "awaitslow")
	i := *ts.Value(slowKey{}).(**registry.Injection)
	for range 6000 {
		if i.Hits() > 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("no request was slowed down")
}

func countRequests(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 3, "sent METHOD KIND N")
	all := ts.Value(registryKey{}).(*registry.Registry).Requests()
	seen := ts.Value(seenKey{}).(*int)
	n := 0
	for _, q := range all[*seen:] {
		if q.Method == args[0] && q.Kind == registry.Kind(args[1]) {
			n++
		}
	}
	if n != number(ts, args[2]) {
		for _, q := range all[*seen:] {
			ts.Logf("%s %s %d", q.Method, q.Path, q.Status)
		}
		ts.Fatalf("%d requests %s %s", n, args[0], args[1])
	}
	*seen = len(all)
}

func stdoutToEnv(ts *testscript.TestScript, neg bool, args []string) {
	check(ts, neg, args, 1, "stdout2env VAR")
	lines := strings.Split(strings.TrimSpace(ts.ReadFile("stdout")), "\n")
	ts.Setenv(args[0], lines[len(lines)-1])
}
