package policy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
)

func ref(t testing.TB, s string) model.Ref {
	t.Helper()
	r, err := model.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func parse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPatterns(t *testing.T) {
	tests := []struct {
		pattern string
		yes, no []string
	}{
		{"**", []string{"r.io/a", "r.io:5000/a/b", "hf://a/b", "ollama://a", "model-registry://m/1"}, nil},
		{"r.io/**", []string{"r.io/a", "r.io/a/b:1", "r.io:443/a", "r.io:0443/a", "R.IO/a", "ollama://r.io/a/b"}, []string{"r.io:5000/a", "x.r.io/a", "r.iox/a", "hf://r.io/a"}},
		{"r.io/a/*", []string{"r.io/a/b", "r.io/a/b:tag", "r.io/a/b@sha256:" + strings.Repeat("0", 64)}, []string{"r.io/a", "r.io/a/b/c", "r.io/ab/c"}},
		{"r.io/a/**", []string{"r.io/a/b", "r.io/a/b/c"}, []string{"r.io/a", "r.io/ab"}},
		{"r.io/**/b", []string{"r.io/b", "r.io/a/b", "r.io/a/c/b"}, []string{"r.io/ab", "r.io/b/a"}},
		{"**/secret-*", []string{"r.io/secret-x", "q.io/a/secret-x"}, []string{"r.io/secret-x/y", "r.io/secret"}},
		{"r.io/team**", []string{"r.io/team", "r.io/team-a/x"}, []string{"r.io/a/team"}},
		{"*.example.com/*", []string{"a.example.com/x", "a.b.example.com/x"}, []string{"example.com/x", "a.example.com/x/y", "a.example.com:5000/x"}},
		{"*.example.com:*/**", []string{"a.example.com:5000/x/y"}, []string{"a.example.com/x"}},
		{"r.io:5000/**", []string{"r.io:5000/x", "r.io:05000/x"}, []string{"r.io/x"}},
		{"[fd00::1]:5000/**", []string{"[fd00::1]:5000/x", "[fd00:0:0::1]:5000/x"}, []string{"[fd00::2]:5000/x", "[fd00::1]/x"}},
		{"[::ffff:10.0.0.1]/**", []string{"10.0.0.1/x", "[::ffff:a00:1]/x"}, []string{"10.0.0.2/x"}},
		{"docker.io/busybox", []string{"docker.io/busybox", "docker.io/library/busybox:1", "index.docker.io/library/busybox", "registry-1.docker.io/library/busybox", "registry.hub.docker.com/library/busybox"}, []string{"docker.io/me/busybox"}},
		{"docker.io/**", []string{"docker.io/busybox", "index.docker.io/me/x"}, []string{"x.docker.io/y"}},
		{"oci://r.io/**", []string{"r.io/a", "ollama://r.io/a/b"}, []string{"hf://r.io/a"}},
		{"hf://org/*", []string{"hf://org/name", "hf://Org/Name@main"}, []string{"hf://organ/name", "org.io/name", "hf://datasets/org/name", "huggingface.co/org/name"}},
		{"hf://datasets/**", []string{"hf://datasets/org/name"}, []string{"hf://org/name"}},
		{"hf://gpt2", []string{"hf://gpt2"}, []string{"hf://org/gpt2"}},
		{"huggingface.co/**", []string{"hf://org/name", "huggingface.co/org/name"}, []string{"hf.co/org/name"}},
		{"ollama://gemma3", []string{"ollama://gemma3:4b", "ollama://library/gemma3", "registry.ollama.ai/library/gemma3", "registry.ollama.ai:443/library/gemma3"}, []string{"ollama://me/gemma3", "r.io/library/gemma3"}},
		{"ollama://me/*", []string{"ollama://me/x"}, []string{"ollama://x", "ollama://r.io/me/x"}},
		{"ollama://r.io:443/**", []string{"ollama://r.io/me/x"}, []string{"r.io/me/x", "ollama://x"}},
		{"registry.ollama.ai/**", []string{"ollama://x", "ollama://me/x"}, []string{"ollama://r.io/me/x"}},
		{"model-registry://m*", []string{"model-registry://model/1"}, []string{"model-registry://other/1", "r.io/m"}},
		{"model-registry://mr.io:8080/**", []string{"model-registry://mr.io:8080/model/1"}, []string{"model-registry://model/1"}},
	}
	for _, tt := range tests {
		p, err := ParsePattern(tt.pattern)
		if err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
			continue
		}
		for want, refs := range map[bool][]string{true: tt.yes, false: tt.no} {
			for _, r := range refs {
				if got := p.Match(ref(t, r)); got != want {
					t.Errorf("%s matches %s: %v", tt.pattern, r, got)
				}
			}
		}
	}
}

func TestBadPatterns(t *testing.T) {
	for pattern, says := range map[string]string{
		"": "empty", "hf://": "empty", "r.io": "r.io/**", "*": "*/**", "oci://r.io": "/**", "s3://b/**": "scheme", "hff://a/b": "hf://",
		"r.io/a:1": "tag", "r.io/a@sha256:x": "tag or digest", "ollama://gemma3:4b": "tag", "r.io//a": "empty component", "/a": "empty component", "r.io/": "empty component",
		"r.io/{a,b}": "special", "r.io/[ab]": "special", "[ab].io/x": "brackets", "r.io/a?": "special", `r.io/\*`: "special", "r.io/***": "special",
		"r.io/a b": "white space", strings.Repeat("a/", 300) + "b": "longer",
	} {
		_, err := ParsePattern(pattern)
		if !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want an error that says %q", pattern, err, says)
		}
	}
}

const example = `
defaults:
  allow: [registry.example.com/models/**, "hf://meta-llama/*"]
  deny: ["**/experimental/**"]
  maxModelSize: 200Gi
  maxFiles: 10000
  cacheShare: 30%
namespaces:
  research:
    allow: ["**"]
    deny: [evil.example.com/**]
    cacheShare: 60%
    maxFiles: ""
  small:
    maxModelSize: 10Gi
    maxFiles: 5
    cacheShare: 20Gi
  open:
    allow: []
`

func TestDecide(t *testing.T) {
	p := parse(t, example)
	tests := []struct {
		namespace, ref string
		reason         Reason // empty: allowed
		says           string
	}{
		{"team", "registry.example.com/models/a:1", "", ""},
		{"team", "hf://meta-llama/x", "", ""},
		{"", "hf://meta-llama/x", "", ""},
		{"team", "docker.io/x", NotAllowed, `allow "registry.example.com/models/**", "hf://meta-llama/*" of the defaults`},
		{"", "docker.io/x", NotAllowed, "whose namespace is not known"},
		{"team", "registry.example.com/models/experimental/a", Denied, `deny "**/experimental/**" of the defaults`},
		{"research", "docker.io/x", "", ""},
		{"research", "r.io/experimental/a", Denied, "of the defaults"},
		{"research", "evil.example.com/a", Denied, `deny "evil.example.com/**" of namespaces.research`},
		{"small", "docker.io/x", NotAllowed, "namespace small"},
		{"open", "docker.io/x", "", ""},
		{"open", "r.io/experimental/a", Denied, "namespace open"},
	}
	for _, tt := range tests {
		v := p.Decide(tt.namespace, ref(t, tt.ref))
		err := v.Err()
		if v.Allowed != (tt.reason == "") || v.Reason != tt.reason || (err == nil) != v.Allowed {
			t.Errorf("%s for %q: %+v", tt.ref, tt.namespace, v)
			continue
		}
		if err == nil {
			continue
		}
		var r interface{ Reason() string }
		if !errors.Is(err, model.ErrDenied) || !errors.As(err, &r) || r.Reason() != string(tt.reason) {
			t.Errorf("%s: the error is %v", tt.ref, err)
		}
		for _, s := range []string{ref(t, tt.ref).String(), tt.says, "operator"} {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%q does not say %q", err, s)
			}
		}
	}
	var none *Policy
	if v := none.Decide("x", ref(t, "r.io/x")); !v.Allowed {
		t.Error("no policy refuses something")
	}
}

func TestLimits(t *testing.T) {
	p := parse(t, example)
	for namespace, want := range map[string]Limits{
		"team":     {ModelSize: 200 << 30, Files: 10000, Share: Share{Percent: 30}},
		"":         {ModelSize: 200 << 30, Files: 10000, Share: Share{Percent: 30}},
		"research": {ModelSize: 200 << 30, Share: Share{Percent: 60}},
		"small":    {ModelSize: 10 << 30, Files: 5, Share: Share{Bytes: 20 << 30}},
	} {
		if got := p.Limits(namespace); got != want {
			t.Errorf("%q: %+v, want %+v", namespace, got, want)
		}
	}
	// Helm writes large numbers so.
	if got := parse(t, "defaults: {maxFiles: 1e+06, maxModelSize: 1.5e+09}").Limits("x"); got.Files != 1_000_000 || got.ModelSize != 1_500_000_000 {
		t.Errorf("numbers of Helm: %+v", got)
	}
	var none *Policy
	if got := none.Limits("x"); got != (Limits{}) {
		t.Errorf("no policy limits: %+v", got)
	}
	for s, want := range map[Share]int64{{}: 0, {Bytes: 7}: 7, {Percent: 50}: 500, {Percent: 0.0001}: 1} {
		if got := s.Of(1000); got != want {
			t.Errorf("%s of 1000 is %d, want %d", s, got, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, says := range map[string][]string{
		"- a":                                  {"mapping"},
		"defaults: {allow: [}":                 {"YAML"},
		"default: {}":                          {`unknown key "default"`, `"defaults"`},
		"defaults: {allowed: []}":              {"defaults", `"allow"`},
		"defaults: {max-model-size: 1}":        {`"maxModelSize"`},
		"defaults:":                            {"defaults", "mapping"},
		"namespaces: [a]":                      {"namespaces", "mapping"},
		"namespaces: {a: }":                    {"namespaces.a", "mapping"},
		"namespaces: {\"team-*\": {}}":         {`"team-*"`, "patterns of names"},
		"namespaces: {A: {}}":                  {`"A"`},
		"namespaces: {a: {cacheshare: 1}}":     {"namespaces.a", `"cacheShare"`},
		"defaults: {allow: r.io/**}":           {"defaults.allow", "list"},
		"defaults: {allow: }":                  {"defaults.allow", "list"},
		"defaults: {deny: [1]}":                {"defaults.deny[0]", "quotes"},
		"defaults: {deny: [a/b, r.io]}":        {"defaults.deny[1]", "r.io/**"},
		"defaults: {maxModelSize: 10GB}":       {"defaults.maxModelSize", "50Gi"},
		"defaults: {maxModelSize: 0}":          {"more than 0"},
		"defaults: {maxModelSize: }":           {"single value"},
		"defaults: {maxFiles: 1.5}":            {"whole number"},
		"defaults: {maxFiles: 0}":              {"more than 0"},
		"defaults: {maxFiles: -1}":             {"whole number"},
		"defaults: {cacheShare: 0%}":           {"above 0"},
		"defaults: {cacheShare: 101%}":         {"100%"},
		"defaults: {cacheShare: x}":            {"30%"},
		"defaults: {cacheShare: [1]}":          {"single value"},
		"defaults: {deny: []}\ndefaults: {}":   {"already"},
		"defaults: {a: 1}\nnamespaces: {b: 2}": {"defaults", "namespaces.b"},
	} {
		_, err := Parse([]byte(text))
		if !errors.Is(err, model.ErrInvalid) {
			t.Errorf("%s: %v", text, err)
			continue
		}
		for _, s := range says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %q does not say %q", text, err, s)
			}
		}
	}
}

// Components from which random patterns, policies and references are made, so that they often meet.
var words = []string{"a", "b", "team", "secret"}

func someRef(r *rand.Rand) string {
	w := func() string { return words[r.IntN(len(words))] }
	switch r.IntN(4) {
	case 0:
		return "hf://" + w() + "/" + w()
	case 1:
		return "ollama://" + w()
	case 2:
		return w() + ".io/" + w() + "/" + w() + "/" + w()
	}
	return w() + ".io:5000/" + w()
}

func somePattern(r *rand.Rand) string {
	parts := strings.Split(strings.TrimPrefix(strings.TrimPrefix(someRef(r), "hf://"), "ollama://"), "/")
	for i := range parts {
		switch r.IntN(5) {
		case 0:
			parts[i] = "*"
		case 1:
			parts[i] = "**"
		case 2:
			parts[i] = parts[i][:1] + "*"
		}
	}
	return []string{"", "", "hf://", "ollama://", "oci://"}[r.IntN(5)] + strings.Join(parts, "/")
}

func someRules(r *rand.Rand) string {
	quoted := func(n int) string {
		var list []string
		for range n {
			list = append(list, fmt.Sprintf("%q", somePattern(r)))
		}
		return "[" + strings.Join(list, ", ") + "]"
	}
	return fmt.Sprintf("{allow: %s, deny: %s}", quoted(r.IntN(3)), quoted(r.IntN(3)))
}

// What a deny pattern matches stays refused whatever is allowed, and a rule that one namespace is given changes nothing
// for another one.
func TestProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var denied, widened int
	for range 300 {
		defaults, own := someRules(r), someRules(r)
		extra := somePattern(r)
		before, err := Parse([]byte(fmt.Sprintf("{defaults: %s, namespaces: {one: %s}}", defaults, own)))
		if err != nil {
			continue // somePattern makes some that have no repository
		}
		changed, err := Parse([]byte(fmt.Sprintf("{defaults: %s, namespaces: {one: %s, two: {allow: [%q]}}}", defaults, own, extra)))
		if err != nil {
			continue
		}
		for range 5 {
			ref := ref(t, someRef(r))
			for namespace, rs := range map[string][]Pattern{"one": append(before.defaults.deny[:len(before.defaults.deny):len(before.defaults.deny)], before.namespaces["one"].deny...), "three": before.defaults.deny} {
				v := before.Decide(namespace, ref)
				for _, p := range rs {
					if p.Match(ref) {
						denied++
						if v.Allowed || v.Reason != Denied {
							t.Fatalf("%s is %+v for %s though %s denies it: %s %s", ref, v, namespace, p, defaults, own)
						}
					}
				}
				if after := changed.Decide(namespace, ref); after.Allowed != v.Allowed || after.Rule != v.Rule {
					t.Fatalf("%s for %s: %+v became %+v when two was allowed %s: %s %s", ref, namespace, v, after, extra, defaults, own)
				}
			}
			if changed.Decide("two", ref).Allowed && !before.Decide("two", ref).Allowed {
				widened++
			}
		}
	}
	if denied < 30 || widened < 30 {
		t.Errorf("the cases are too rare: %d denied, %d widened", denied, widened)
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add(example, "research", "registry.example.com/models/a:1")
	f.Add("defaults: {deny: ['[::1]:5000/**', 'hf://a**/*b*']}", "", "hf://a/b")
	f.Add("namespaces: {a: {maxFiles: 1e3, cacheShare: 0.5%}}", "a", "ollama://x")
	f.Add("{a: &a [*a], ? {x: y} : 1}", "a", "[::1]:5000/x")
	f.Fuzz(func(t *testing.T, text, namespace, name string) {
		p, err := Parse([]byte(text))
		if err != nil {
			if !errors.Is(err, model.ErrInvalid) {
				t.Fatalf("the error has another kind: %v", err)
			}
			return
		}
		l := p.Limits(namespace)
		if l.ModelSize < 0 || l.Files < 0 || l.Share.Of(1<<40) < 0 {
			t.Fatalf("limits %+v", l)
		}
		if again, err := parseShare(l.Share.String()); !l.Share.IsZero() && (err != nil || again != l.Share) {
			t.Fatalf("share %+v is written %s: %+v, %v", l.Share, l.Share, again, err)
		}
		r, err := model.ParseRef(name)
		if err != nil {
			return
		}
		v := p.Decide(namespace, r)
		for _, deny := range append(p.defaults.deny[:len(p.defaults.deny):len(p.defaults.deny)], p.namespaces[namespace].deny...) {
			if deny.Match(r) && v.Allowed {
				t.Fatalf("%s is allowed though %s denies it", r, deny)
			}
		}
		r.Tag, r.Digest = "other", ""
		if other := p.Decide(namespace, r); other.Allowed != v.Allowed {
			t.Fatalf("a tag decides about %s: %+v, %+v", name, v, other)
		}
	})
}

func FuzzPattern(f *testing.F) {
	for _, s := range []string{"**", "r.io/a/*", "*.example.com:*/**", "hf://org/*", "ollama://gemma3", "[fd00::1]:5000/**", "docker.io/x"} {
		f.Add(s, "r.io/a/b:1")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		p, err := ParsePattern(text)
		if err != nil {
			if !errors.Is(err, model.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		r, err := model.ParseRef(name)
		if err != nil {
			return
		}
		other := func(r rune) bool { return r > 0x7e } // the cases of some letters are not each other's
		upper, err := ParsePattern(strings.ToUpper(text))
		if err == nil && !strings.ContainsFunc(text, other) && upper.Match(r) != p.Match(r) {
			t.Fatalf("case decides whether %s matches %s", text, name)
		}
		// The repository written out is a pattern of itself.
		if own, err := ParsePattern(r.Registry + "/" + r.Repository); err == nil && !strings.Contains(r.Repository, "*") && !own.Match(r) {
			t.Fatalf("%s does not match itself", r)
		}
	})
}
