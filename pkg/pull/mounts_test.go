package pull

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
)

func mustMounts(t *testing.T, s string) []Mount {
	t.Helper()
	m, err := ParseMounts(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestParseMounts(t *testing.T) {
	got := mustMounts(t, " adapters/a = r.io/a:1 ,\n# a comment\nb=hf://org/b@main\r\n,")
	if len(got) != 2 || got[0].Path != "adapters/a" || got[0].Ref.String() != "r.io/a:1" || got[1].Ref.String() != "hf://org/b@main" {
		t.Errorf("got %v", got)
	}
	for _, bad := range []string{"a", "r.io/a:1", "a=", "a=nothing", strings.Repeat("a=r.io/a,", maxMounts+1)} {
		if _, err := ParseMounts(bad); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("%.30q: %v", bad, err)
		}
	}
}

func TestRequestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		layout       Layout
		text, mounts string
		include      []string
		want         string // in the error; empty for none
	}{
		"nothing special":       {},
		"mounts":                {mounts: "a=r.io/a,b/c=r.io/a"},
		"same path":             {mounts: "a=r.io/a,a=r.io/b", want: "overlaps"},
		"one in another":        {mounts: "a=r.io/a,a/b=r.io/b", want: "overlaps"},
		"one above another":     {mounts: "a/b=r.io/a,a=r.io/b", want: "overlaps"},
		"alike and apart":       {mounts: "a=r.io/a,ab=r.io/b"},
		"upwards":               {mounts: "../a=r.io/a", want: "leaves"},
		"absolute":              {mounts: "/a=r.io/a", want: "absolute"},
		"unclean":               {mounts: "a//b=r.io/a", want: "clean form"},
		"the root":              {mounts: ".=r.io/a", want: "itself"},
		"no name":               {mounts: "=r.io/a", want: "empty"},
		"name of a flat volume": {text: "org/name", want: "no name"},
		"hub":                   {layout: LayoutHub},
		"hub, named":            {layout: LayoutHub, text: "datasets/org/name@v1"},
		"hub, misnamed":         {layout: LayoutHub, text: "a/b/c", want: "layout"},
		"hub, mounts":           {layout: LayoutHub, mounts: "org/a=r.io/a"},
		"hub, mount misnamed":   {layout: LayoutHub, mounts: "a--b=r.io/a", want: `mount "a--b"`},
		"hub, digest":           {layout: LayoutHub, text: "org/name@" + digest.FromString("x").String(), want: "digest"},
		"ollama":                {layout: LayoutOllama, text: "llama3.2:3b"},
		"ollama, part of it":    {layout: LayoutOllama, include: []string{"*.gguf"}, want: "all files"},
		"ollama, misnamed":      {layout: LayoutOllama, text: "a b", want: "layout"},
		"a bad pattern":         {include: []string{"["}, want: "pattern"},
	} {
		t.Run(name, func(t *testing.T) {
			r := Request{Ref: parse(t, "r.io/org/m:1"), Layout: c.layout, LayoutName: c.text, Mounts: mustMounts(t, c.mounts), Include: c.include}
			err := r.Check()
			if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	if err := (Request{Ref: parse(t, "model-registry://some model/v1"), Layout: LayoutHub}).Check(); err != nil {
		t.Errorf("a name whose meaning is not known yet: %v", err)
	}
}

// TestMounts: a base and two adapters are one tree, a blob that two of them hold comes once, and all is warm then.
func TestMounts(t *testing.T) {
	r := newFakeRegistry()
	shared := strings.Repeat("s", 5000)
	r.push(t, "base:1", layerSpec{path: "model.bin", data: []byte(shared)}, layerSpec{path: "adapters/README", data: []byte("x")})
	r.push(t, "lora/a:1", layerSpec{path: "adapter.bin", data: []byte("aaa")}, layerSpec{path: "base.bin", data: []byte(shared)})
	r.push(t, "lora/b:1", layerSpec{tar: map[string]string{"deep/adapter.bin": "bbb"}})
	n := newNode(t, r, nil)
	request := Request{Ref: parse(t, "r.io/base:1"), Exclude: []string{"adapter.bin"}, Mounts: mustMounts(t, "adapters/a=r.io/lora/a:1,adapters/b=r.io/lora/b:1")}
	for i := range 2 {
		result, err := n.Pull(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		n.check(t, result, map[string]string{
			"model.bin": shared, "adapters/README": "x",
			"adapters/a/adapter.bin": "aaa", "adapters/a/base.bin": shared, "adapters/b/deep/adapter.bin": "bbb",
		})
		if len(result.Mounts) != 2 || result.Mounts[1].Path != "adapters/b" || result.Mounts[1].Ref.Digest != r.tags["lora/b:1"] {
			t.Errorf("mounts %v", result.Mounts)
		}
		if result.Warm != (i > 0) || result.Digest != r.tags["base:1"] {
			t.Errorf("pull %d: warm %v, digest %s", i, result.Warm, result.Digest)
		}
		result.Release()
	}
	if sent := r.sent.Load(); sent > int64(len(shared))+4096 {
		t.Errorf("%d bytes came for %d that two of the models share", sent, len(shared))
	}
	if n.count("proven") != 3 || n.count("valid") != 3 {
		t.Errorf("proven %d, valid %d: each reference is proven on its own, once", n.count("proven"), n.count("valid"))
	}

	// Elsewhere in the tree it is another tree of the same blobs.
	request.Mounts = mustMounts(t, "x=r.io/lora/a:1")
	request.Policy = PolicyNever
	result, err := n.Pull(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	defer result.Release()
	if _, ok := result.Tree.Lookup("x/adapter.bin"); !ok || !result.Warm {
		t.Errorf("tree %v", result.Tree)
	}
}

func TestMountConflicts(t *testing.T) {
	r := newFakeRegistry()
	r.push(t, "base:1", layerSpec{path: "a/model.bin", data: []byte("m")}, layerSpec{path: "file", data: []byte("f")})
	r.push(t, "lora:1", layerSpec{path: "adapter.bin", data: []byte("aaa")})
	r.push(t, "archive:1", layerSpec{tar: map[string]string{"x/y": "bbb"}})
	for name, c := range map[string]struct {
		base, mounts string
		max          int
		kind         error
		words        []string
	}{
		"a directory of the base":     {"base:1", "a=r.io/lora:1", 0, model.ErrInvalid, []string{"r.io/base:1", "mount a=r.io/lora:1", `"a" is there already`}},
		"a file of the base":          {"base:1", "file=r.io/lora:1", 0, model.ErrInvalid, []string{"r.io/base:1", `"file" is there already`}},
		"below a file of the base":    {"base:1", "file/x=r.io/lora:1", 0, model.ErrInvalid, []string{`"file" is a directory in one`}},
		"what an archive of it holds": {"archive:1", "x=r.io/lora:1", 0, model.ErrInvalid, []string{`"x" is there already`}},
		"not there":                   {"base:1", "b=r.io/lora:2", 0, model.ErrNotFound, []string{"mount b"}},
		"too many files together":     {"base:1", "b=r.io/lora:1", 2, model.ErrTooLarge, []string{"max-files"}},
	} {
		t.Run(name, func(t *testing.T) {
			before := r.sent.Load()
			n := newNode(t, r, func(o *Options) { o.MaxFiles = c.max })
			_, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/"+c.base), Mounts: mustMounts(t, c.mounts)})
			if !errors.Is(err, c.kind) {
				t.Fatalf("got %v", err)
			}
			for _, w := range c.words {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q is not in %v", w, err)
				}
			}
			if sent := r.sent.Load() - before; c.base == "base:1" && sent > 0 {
				t.Errorf("%d bytes were fetched for a tree that cannot be", sent)
			}
		})
	}
	n := newNode(t, r, func(o *Options) { o.MaxModelSize = 4 })
	if _, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/base:1"), Mounts: mustMounts(t, "b=r.io/lora:1")}); !errors.Is(err, model.ErrTooLarge) {
		t.Errorf("larger together than allowed: %v", err)
	}
}

// asked notes for which references credentials were asked, and which of them a repository saw.
type asked struct {
	source.Source
	seen func(ref model.Ref, c model.Credential)
}

func (a asked) Repository(ref model.Ref, c model.Credential) (source.Repository, error) {
	a.seen(ref, c)
	return a.Source.Repository(ref, c)
}

// TestMountCredentials: every reference is proven on its own, and what names no registry is for that of the root alone.
func TestMountCredentials(t *testing.T) {
	open, closed := newFakeRegistry(), newFakeRegistry()
	open.push(t, "base:1", layerSpec{path: "model.bin", data: []byte("m")})
	open.push(t, "other:1", layerSpec{path: "x", data: []byte("x")})
	closed.push(t, "lora:1", layerSpec{path: "adapter.bin", data: []byte("secret")})
	closed.users = map[string]string{"alice": "a"}
	named := model.Credential{Name: "named", Username: "alice", Password: model.NewSecret("a")}
	loose := model.Credential{Name: "loose", Username: "alice", Password: model.NewSecret("a"), AnyRegistry: true}
	request := Request{Ref: parse(t, "open.io/base:1"), Mounts: mustMounts(t, "a=closed.io/lora:1,b=open.io/other:1")}
	n := newNode(t, open, func(o *Options) {
		o.Source = asked{byRegistry{"open.io": open, "closed.io": closed}, func(ref model.Ref, c model.Credential) {
			if c.AnyRegistry && ref.Registry != "open.io" {
				t.Errorf("%s saw a credential that was meant for the registry of the reference", ref)
			}
		}}
	})
	for _, who := range []keychain{{named}, {loose}, nil, {named}} {
		request.Keychain = who
		result, err := n.Pull(t.Context(), request)
		if allowed := len(who) > 0 && !who[0].AnyRegistry; allowed != (err == nil) {
			t.Errorf("as %v: %v", who, err)
		}
		if err != nil && (!errors.Is(err, model.ErrUnauthenticated) || !strings.Contains(err.Error(), "mount a")) {
			t.Errorf("as %v: %v", who, err)
		}
		result.Release()
	}
	// The other way round the loose one is for the registry that the mount is in as well.
	request = Request{Ref: parse(t, "closed.io/lora:1"), Mounts: mustMounts(t, "again=closed.io/lora:1"), Keychain: keychain{loose}}
	n = newNode(t, open, func(o *Options) { o.Source = byRegistry{"closed.io": closed} })
	result, err := n.Pull(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	result.Release()
}

func TestMountProgress(t *testing.T) {
	r := newFakeRegistry()
	r.push(t, "base:1", layerSpec{path: "model.bin", data: []byte("m")})
	r.push(t, "lora:1", layerSpec{path: "adapter.bin", data: []byte("aaa")})
	r.hold = make(chan struct{})
	n := newNode(t, r, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := n.Pull(ctx, Request{Ref: parse(t, "r.io/base:1"), Mounts: mustMounts(t, "a=r.io/lora:1,b=r.io/lora:1")})
		done <- err
	}()
	for len(n.Running()) == 0 {
		if t.Context().Err() != nil {
			t.Fatal("the pull never began")
		}
	}
	cancel()
	err := <-done
	if !errors.Is(err, model.ErrPulling) || !strings.Contains(err.Error(), "pulling r.io/base:1 and its 2 mounts: 0% (0 B of 4 B") {
		t.Errorf("got %v", err)
	}
	close(r.hold)
}

// TestVariants: what was selected from an index decides which manifest is remembered for it.
func TestVariants(t *testing.T) {
	r := newFakeRegistry()
	q4 := r.push(t, "q4", layerSpec{path: "q4.gguf", data: []byte("4")})
	q8 := r.push(t, "q8", layerSpec{path: "q8.gguf", data: []byte("8")})
	index := digest.FromString("index")
	r.tags["m:1"] = index
	n := newNode(t, r, func(o *Options) { o.Platform = "linux/s390x" })
	r.indexes = map[digest.Digest]map[string]digest.Digest{index: {"": q4, "linux/s390x": q4, "quant=q8": q8}}
	for range 2 {
		for text, want := range map[string]string{"": "q4.gguf", "quant=q8": "q8.gguf", "linux/s390x": "q4.gguf"} {
			selection, err := model.ParseSelection(text)
			if err != nil {
				t.Fatal(err)
			}
			result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1"), Want: selection})
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			if _, ok := result.Tree.Lookup(want); !ok {
				t.Errorf("%q: %v", text, result.Tree)
			}
			result.Release()
		}
	}
	if asked := r.resolves.Load(); asked != 3 {
		t.Errorf("the registry was asked %d times for three selections of one tag", asked)
	}
	if _, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1"), Want: model.Selection{Labels: map[string]string{"quant": "q2"}}}); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("nothing fits: %v", err)
	}
}

// TestHubLayout: any model is a cache of the Hugging Face libraries, and several are one.
func TestHubLayout(t *testing.T) {
	r := newFakeRegistry()
	d := r.push(t, "org/name:v1", layerSpec{path: "config.json", data: []byte("{}")}, layerSpec{path: "sub/x", data: []byte("x")})
	other := r.push(t, "lora:1", layerSpec{path: "adapter.bin", data: []byte("aaa")})
	n := newNode(t, r, nil)
	// The bytes are there before anybody asks for the layout; what the layout adds is not a reason to ask the registry.
	if result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/org/name:v1"), Mounts: mustMounts(t, "x=r.io/lora:1")}); err != nil {
		t.Fatal(err)
	} else {
		result.Release()
	}
	result, err := n.Pull(t.Context(), Request{
		Ref: parse(t, "r.io/org/name:v1"), Layout: LayoutHub, Mounts: mustMounts(t, "me/lora=r.io/lora:1"), Policy: PolicyNever,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer result.Release()
	commit, otherCommit := d.Encoded()[:40], other.Encoded()[:40]
	n.check(t, result, map[string]string{
		"hub/models--org--name/refs/main": commit, "hub/models--org--name/refs/v1": commit,
		"hub/models--org--name/snapshots/" + commit + "/config.json":     "{}",
		"hub/models--org--name/snapshots/" + commit + "/sub/x":           "x",
		"hub/models--me--lora/refs/1":                                    otherCommit,
		"hub/models--me--lora/refs/main":                                 otherCommit,
		"hub/models--me--lora/snapshots/" + otherCommit + "/adapter.bin": "aaa",
	})
	if !result.Warm {
		t.Error("it is not warm")
	}
	_, err = n.Pull(t.Context(), Request{Ref: parse(t, "r.io/org/name:v1"), Layout: LayoutHub, Mounts: mustMounts(t, "org/name=r.io/lora:1")})
	if !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), "cannot be in one volume") {
		t.Errorf("two models of one name: %v", err)
	}
}

func TestOllamaLayout(t *testing.T) {
	r := newFakeRegistry()
	r.push(t, "org/name:v1", layerSpec{path: "config.json", data: []byte("{}")})
	n := newNode(t, r, nil)
	_, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/org/name:v1"), Layout: LayoutOllama})
	if !errors.Is(err, model.ErrUnsupported) || r.sent.Load() != 0 {
		t.Errorf("no Ollama artifact: %v after %d bytes", err, r.sent.Load())
	}
	weights := []byte("GGUF")
	manifest := []byte(`{"schemaVersion":2,"layers":[{"mediaType":"application/vnd.ollama.image.model","digest":"` +
		digest.FromBytes(weights).String() + `","size":4}]}`)
	d := digest.FromBytes(manifest)
	r.blobs[digest.FromBytes(weights)], r.manifests[d], r.tags["org/llama:3b"], r.tags["org/copy:3b"] = weights, manifest, d, d
	result, err := n.Pull(t.Context(), Request{
		Ref: parse(t, "r.io/org/llama:3b"), Layout: LayoutOllama, LayoutName: "llama3.2:3b", Mounts: mustMounts(t, "me/copy=r.io/org/copy:3b"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer result.Release()
	n.check(t, result, map[string]string{
		"blobs/sha256-" + digest.FromBytes(weights).Encoded(): "GGUF",
		"manifests/registry.ollama.ai/library/llama3.2/3b":    string(manifest),
		"manifests/registry.ollama.ai/me/copy/latest":         string(manifest),
	})
	if result.Format != "ollama" {
		t.Errorf("format %q", result.Format)
	}
}
