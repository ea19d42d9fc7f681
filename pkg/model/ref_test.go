package model

import (
	"errors"
	"strings"
	"testing"
	"unicode"
)

const commit = "607a30d783dfa663caf39e06633721c8d4cfcd7e"

func TestParseRefSchemes(t *testing.T) {
	long := strings.Repeat("a", 80)
	for _, tt := range []struct {
		in, registry, repository, tag string
		out                           string // how it is written back; empty means as it was
	}{
		{in: "ollama://llama3.2", registry: "registry.ollama.ai", repository: "library/llama3.2", out: "ollama://registry.ollama.ai/library/llama3.2"},
		{in: "OLLAMA://llama3.2:3B", registry: "registry.ollama.ai", repository: "library/llama3.2", tag: "3B", out: "ollama://registry.ollama.ai/library/llama3.2:3B"},
		{in: "ollama://Mike/My_Model:q4_K_M", registry: "registry.ollama.ai", repository: "Mike/My_Model", tag: "q4_K_M", out: "ollama://registry.ollama.ai/Mike/My_Model:q4_K_M"},
		{in: "ollama://Hub.Example.com:5000/a/b:1", registry: "hub.example.com:5000", repository: "a/b", tag: "1", out: "ollama://hub.example.com:5000/a/b:1"},
		{in: "ollama://hub.example.com/b", registry: "hub.example.com", repository: "library/b", out: "ollama://hub.example.com/library/b"},
		{in: "ollama://hub/a/b", registry: "hub", repository: "a/b"},
		{in: "ollama://hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", registry: "hf.co", repository: "bartowski/Llama-3.2-1B-Instruct-GGUF", tag: "Q4_K_M"},
		{in: "ollama://hf.co/a/" + long, registry: "hf.co", repository: "a/" + long},

		{in: "hf://Qwen/Qwen3-0.6B", registry: HubHost, repository: "Qwen/Qwen3-0.6B"},
		{in: "hf://gpt2", registry: HubHost, repository: "gpt2"},
		{in: "hf://gpt2@" + commit, registry: HubHost, repository: "gpt2", tag: commit},
		{in: "hf://org/name@refs/pr/1", registry: HubHost, repository: "org/name", tag: "refs/pr/1", out: "hf://org/name@refs%2Fpr%2F1"},
		{in: "hf://org/name@refs%2Fpr%2F1", registry: HubHost, repository: "org/name", tag: "refs/pr/1"},
		{in: "hf://org/name@a@b%25", registry: HubHost, repository: "org/name", tag: "a@b%", out: "hf://org/name@a%40b%25"},
		{in: "hf://org/name@v1.0+x", registry: HubHost, repository: "org/name", tag: "v1.0+x", out: "hf://org/name@v1.0%2Bx"},
		{in: "hf://datasets/squad@main", registry: HubHost, repository: "datasets/squad", tag: "main"},
		{in: "hf://datasets/org/name", registry: HubHost, repository: "datasets/org/name"},
		{in: "hf://spaces/org/name@main", registry: HubHost, repository: "spaces/org/name", tag: "main"},
		{in: "hf://models/org/name", registry: HubHost, repository: "org/name", out: "hf://org/name"},

		{in: "model-registry://iris", repository: "iris"},
		{in: "model-registry://iris/v1", repository: "iris", tag: "v1"},
		{in: "model-registry://llama-3.1-8b/2", repository: "llama-3.1-8b", tag: "2"},
		{in: "model-registry:///llama.cpp/v1", repository: "llama.cpp", tag: "v1"},
		{in: "model-registry:///iris/v1", repository: "iris", tag: "v1", out: "model-registry://iris/v1"},
		{in: "model-registry://Registry.kubeflow.svc:8080/iris", registry: "registry.kubeflow.svc:8080", repository: "iris", out: "model-registry://registry.kubeflow.svc:8080/iris"},
		{in: "model-registry://registry.example.com/iris", registry: "registry.example.com", repository: "iris"},
		{in: "model-registry://registry/iris/v1", registry: "registry", repository: "iris", tag: "v1"},
		{in: "model-registry://10.0.0.1/iris", registry: "10.0.0.1", repository: "iris"},
		{in: "model-registry://org%2Fm%20x%40y/v%3A1", repository: "org/m x@y", tag: "v:1"},
		{in: "model-registry://m%C3%B6del", repository: "mödel"},
	} {
		got, err := ParseRef(tt.in)
		scheme, _, _ := strings.Cut(strings.ToLower(tt.in), "://")
		want := Ref{Scheme: scheme, Registry: tt.registry, Repository: tt.repository, Tag: tt.tag}
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", tt.in, got, err)
		}
		if tt.out == "" {
			tt.out = tt.in
		}
		if got.String() != tt.out {
			t.Errorf("%s is written back as %s", tt.in, got)
		}
	}
}

func TestParseRefPinned(t *testing.T) {
	for _, in := range []string{"ollama://h.io/a/b:1", "hf://org/name@refs%2Fpr%2F1", "hf://org/name", "r.io/a:1"} {
		ref, err := ParseRef(in)
		if err != nil {
			t.Fatal(err)
		}
		ref.Digest = "sha256:" + hex
		if again, err := ParseRef(ref.String()); err != nil || again != ref {
			t.Errorf("%s: %+v, %v", ref, again, err)
		}
	}
}

func TestParseRefRefused(t *testing.T) {
	for _, in := range []string{
		"ollama://", "ollama:///a/b", "ollama://a:", "ollama://a/b/c/d", "ollama://h.io/name.space/b", "ollama://a b", "ollama://a\x00",
		"ollama://../b", "ollama://h.io/../b", "ollama://h.io/a/..", "ollama://.a", "ollama://" + strings.Repeat("a", 81), "ollama://a:" + strings.Repeat("t", 81),
		"ollama://a@v1", "ollama://user@h.io/a/b", "ollama://h_x.io/a", "ollama://a:1:2",

		"hf://", "hf:///a", "hf://a/b/c", "hf://a/", "hf://a/b@", "hf://datasets", "hf://datasets/", "hf://models", "hf://spaces@main", "hf://models/datasets/x", "hf://datasets/a/b/c",
		"hf://a--b/c", "hf://a/b..c", "hf://../b", "hf://a/b.git", "hf://-a/b", "hf://a./b", "hf://a/b:main", "hf://" + strings.Repeat("a", 97),
		"hf://a/b@x..y", "hf://a/b@../x", "hf://a/b@x%2F..%2Fy", "hf://a/b@x y", "hf://a/b@x%00", "hf://a/b@x%0a", "hf://a/b@/x", "hf://a/b@x//y", "hf://a/b@%zz",
		"hf://a/b@.x", "hf://a/b@x.lock", "hf://a/b@x^", "hf://a/b@" + strings.Repeat("r", 256), "hf://a/b@sha256:abc", "hf://huggingface.co/a/b",

		"model-registry://", "model-registry:///", "model-registry://a/", "model-registry:///a/b/c", "model-registry://a/b/c/d", "model-registry://h_x/a/b",
		"model-registry://a/b@sha256:" + hex, "model-registry://a%2F..%2Fb", "model-registry://a%0ab", "model-registry://%20a", "model-registry://a%zz",
		"model-registry://a%ff", "model-registry://" + strings.Repeat("a", 256), "model-registry://a%E2%80%AEb", "model-registry://http://h/a",
	} {
		if got, err := ParseRef(in); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

func TestParseRefAdvice(t *testing.T) {
	for in, want := range map[string]string{
		"olama://x":            "did you mean ollama? Write " + ollamaGrammar,
		"hff://a/b":            "did you mean hf? Write " + hubGrammar,
		"modelregistry://a":    "did you mean model-registry? Write " + modelRegistryGrammar,
		"https://r.io/m":       "without https://",
		"docker://alpine":      "docker.io/library/name",
		"huggingface://a/b":    hubGrammar,
		"s3://bucket/model":    "push the model to a registry",
		"pvc://claim/model":    "volume of its own",
		"hf://a/b/config.json": "include attribute",
		"hf://a/b c":           hubGrammar,
		"hf://datasets":        hubGrammar,
		"ollama://":            ollamaGrammar,
		"ollama://a b":         ollamaGrammar,
		"model-registry://":    modelRegistryGrammar,
		"qwen3":                "names no registry",
		"hf.co/Qwen/Qwen3":     hubGrammar,
	} {
		if _, err := ParseRef(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}

func TestRefNames(t *testing.T) {
	same := [][]string{
		{"ollama://hf.co/a/b:1", "hf.co/a/b:2"},
		{"ollama://llama3", "registry.ollama.ai/library/llama3:8b"},
		{"hf://a/b", "hf://models/a/b@main"},
	}
	for _, refs := range same {
		a, b := mustParse(t, refs[0]), mustParse(t, refs[1])
		if a.Name() != b.Name() || a.Authority() != b.Authority() {
			t.Errorf("%s and %s lead to one repository, and are called %s and %s", a, b, a.Name(), b.Name())
		}
	}
	names := map[string]string{}
	for _, in := range []string{
		"huggingface.co/a/b", "hf://a/b", "hf://datasets/a/b", "hf://spaces/a/b", "hf.co/a/b", "model-registry://hf.co/a/b", "model-registry://a/b", "model-registry://r.io/a",
		"r.io/a",
	} {
		name := mustParse(t, in).Name()
		if other, taken := names[name]; taken {
			t.Errorf("%s and %s are both called %s", in, other, name)
		}
		names[name] = in
	}
}

func TestRefMoving(t *testing.T) {
	for in, want := range map[string]bool{
		"r.io/m": true, "r.io/m:latest": true, "r.io/m:1": false, "r.io/m:latest@sha256:" + hex: false,
		"ollama://m": true, "ollama://m:latest": true, "ollama://m:8b": false,
		"hf://a/b": true, "hf://a/b@main": true, "hf://a/b@v1.0": true, "hf://a/b@" + commit: false, "hf://a/b@" + commit[:39]: true, "hf://a/b@" + strings.ToUpper(commit): true,
		"model-registry://m": true, "model-registry://m/v1": false,
	} {
		if ref := mustParse(t, in); ref.Moving() != want {
			t.Errorf("%s: %v", in, ref.Moving())
		}
	}
}

func TestRefReference(t *testing.T) {
	for in, want := range map[string]string{
		"r.io/m": "latest", "r.io/m:1": "1", "r.io/m:1@sha256:" + hex: "sha256:" + hex, "ollama://m": "latest", "hf://m": "main",
		"hf://m@a%2Fb": "a/b", "model-registry://m": "", "model-registry://m/1": "1",
	} {
		if got := mustParse(t, in).Reference(); got != want {
			t.Errorf("%s: %q", in, got)
		}
	}
}

func mustParse(t *testing.T, s string) Ref {
	t.Helper()
	ref, err := ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{
		"registry.example.com/m/qwen3:8b@sha256:" + hex, "oci://[::1]:5000/a", "hf://datasets/org/name@refs%2Fpr%2F1", "hf://gpt2@" + commit,
		"hf://a/b@x@sha256:" + hex, "ollama://hf.co/Org/Name:Q4_K_M", "ollama://m", "model-registry://h:1/a%20b/1", "model-registry:///a.bc/1", "model-registry://a%2Fb",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseRef(s)
		if err != nil {
			return
		}
		again, err := ParseRef(ref.String())
		if err != nil || again != ref {
			t.Fatalf("%q: %+v is read back as %+v, %v", s, ref, again, err)
		}
		for _, field := range []string{ref.Registry, ref.Repository, ref.Tag, ref.String()} {
			if strings.Contains("/"+field+"/", "/../") || strings.Contains("/"+field+"/", "/./") {
				t.Fatalf("%q leaves the repository: %+v", s, ref)
			}
			if strings.ContainsFunc(field, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
				t.Fatalf("%q has what cannot be printed: %+v", s, ref)
			}
		}
		if ref.Repository == "" || len(ref.Repository) > maxRepositoryLength+len("library/") || len(ref.Tag) > maxRepositoryLength {
			t.Fatalf("%q: %+v", s, ref)
		}
	})
}
