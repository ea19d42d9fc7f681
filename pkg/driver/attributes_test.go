package driver

import (
	"errors"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pull"
)

const testReference = "registry.example.com/models/qwen3:8b"

func TestParseAttributes(t *testing.T) {
	all := map[string]string{
		"reference": testReference, "pullPolicy": "Never", "include": "*.safetensors\n*.json", "exclude": "old/,tmp/",
		"subPath": "./a//b/", "exec": "true",
		"csi.storage.k8s.io/pod.name": "p", "csi.storage.k8s.io/pod.namespace": "n", "csi.storage.k8s.io/pod.uid": "u",
		"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/serviceAccount.name": "s",
		"csi.storage.k8s.io/of.the.future": "x", "storage.kubernetes.io/csiProvisionerIdentity": "1234-x",
	}
	a, err := ParseAttributes(DefaultName, all)
	must(t, err)
	if a.Ref.String() != testReference || a.Policy != pull.PolicyNever || len(a.Include) != 2 || len(a.Exclude) != 2 ||
		a.SubPath != "a/b" || !a.Exec || a.Pod != "n/p" {
		t.Errorf("attributes: %+v", a)
	}
	prefixed := map[string]string{}
	for k, v := range all {
		if !strings.Contains(k, "/") {
			k = DefaultName + "/" + k
		}
		prefixed[k] = v
	}
	b, err := ParseAttributes(DefaultName, prefixed)
	must(t, err)
	if a.Fingerprint() != b.Fingerprint() {
		t.Errorf("the spelling changes the fingerprint: %s, %s", a.Fingerprint(), b.Fingerprint())
	}
}

func TestParseAttributesDefaults(t *testing.T) {
	a, err := ParseAttributes(DefaultName, map[string]string{"reference": testReference, "include": "", "subPath": "", "pullPolicy": ""})
	must(t, err)
	if a.Policy != "" || a.Include != nil || a.Exclude != nil || a.SubPath != "" || a.Exec || a.Pod != "" {
		t.Errorf("attributes: %+v", a)
	}
	// Stored by earlier releases: it must stay as it is.
	if want := `{"reference":"registry.example.com/models/qwen3:8b"}`; a.Fingerprint() != want {
		t.Errorf("fingerprint %s, want %s", a.Fingerprint(), want)
	}
}

// TestPresentationAttributes: what is selected and how it is shown is part of the fingerprint, in one spelling.
func TestPresentationAttributes(t *testing.T) {
	values := map[string]string{
		"reference": testReference, "variant": "image, b=2 ,linux/arm64,a=1\\,5", "layout": "hf", "layoutName": "org/name@v1",
		"mounts": "me/a = r.example.com/a:1,\n# second\nme/b=hf://org/b@main", "subPath": "hub",
	}
	a, err := ParseAttributes(DefaultName, values)
	must(t, err)
	r := a.request()
	if r.Want.Platform != "linux/arm64" || !r.Want.Image || r.Want.Labels["a"] != "1,5" || r.Want.Labels["b"] != "2" ||
		r.Layout != pull.LayoutHub || r.LayoutName != "org/name@v1" || len(r.Mounts) != 2 || r.Mounts[1].Path != "me/b" {
		t.Errorf("request: %+v", r)
	}
	want := `{"reference":"` + testReference + `","subPath":"hub","variant":"linux/arm64,image,a=1\\,5,b=2","layout":"hf",` +
		`"layoutName":"org/name@v1","mounts":["me/a=r.example.com/a:1","me/b=hf://org/b@main"]}`
	if a.Fingerprint() != want {
		t.Errorf("fingerprint\n%s, want\n%s", a.Fingerprint(), want)
	}
	for name := range values {
		if name == "reference" {
			continue
		}
		changed := maps.Clone(values)
		delete(changed, name)
		if name == "layout" {
			changed = map[string]string{"reference": testReference, "layout": "ollama"}
		}
		b, err := ParseAttributes(DefaultName, changed)
		must(t, err)
		if b.Fingerprint() == a.Fingerprint() {
			t.Errorf("%s is not in the fingerprint", name)
		}
	}
}

func TestParseAttributesRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change map[string]string
		text   string
	}{
		"unknown":             {map[string]string{"pullpolicy": "Always"}, `did you mean "pullPolicy"?`},
		"unknown, far":        {map[string]string{"color": "red"}, `"color" is not known`},
		"unknown, prefixed":   {map[string]string{DefaultName + "/subpath": "x"}, `did you mean "subPath"?`},
		"other driver":        {map[string]string{"other.example.com/exec": "true"}, "is not known"},
		"twice":               {map[string]string{DefaultName + "/reference": testReference}, "given twice"},
		"policy":              {map[string]string{"pullPolicy": "always"}, "Always"},
		"exec":                {map[string]string{"exec": "yes"}, `write "true" or "false"`},
		"subPath up":          {map[string]string{"subPath": "../x"}, "subPath"},
		"subPath absolute":    {map[string]string{"subPath": "/x"}, "absolute"},
		"subPath is all":      {map[string]string{"subPath": "./"}, "itself"},
		"variant":             {map[string]string{"variant": "arm64"}, "linux/arm64"},
		"variant, label":      {map[string]string{"variant": "=x"}, "no key"},
		"layout":              {map[string]string{"layout": "HF"}, `"hf"`},
		"name without layout": {map[string]string{"layoutName": "org/name"}, "layoutName"},
		"layoutName":          {map[string]string{"layout": "hf", "layoutName": "a b"}, "layout"},
		"part of Ollama's":    {map[string]string{"layout": "ollama", "exclude": "LICENSE"}, "all files"},
		"mounts":              {map[string]string{"mounts": "registry.example.com/a:1"}, "path=reference"},
		"mounts, path":        {map[string]string{"mounts": "../a=registry.example.com/a:1"}, "mount"},
		"mounts, overlap":     {map[string]string{"mounts": "a=registry.example.com/a:1\na/b=registry.example.com/b:1"}, "overlaps"},
		"reference":           {map[string]string{"reference": "Not A Reference"}, "reference"},
		"empty reference":     {map[string]string{"reference": ""}, "empty"},
		"NUL":                 {map[string]string{"include": "a\x00b"}, "NUL"},
		"too long":            {map[string]string{"include": strings.Repeat("a", 5000)}, "longer than 4096"},
		"tokens":              {map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": "canary"}, "nodePublishSecretRef"},
		"a secret in a name":  {map[string]string{strings.Repeat("x", 9000): "v"}, "is not known"},
	} {
		t.Run(name, func(t *testing.T) {
			values := map[string]string{"reference": testReference}
			maps.Copy(values, c.change)
			_, err := ParseAttributes(DefaultName, values)
			if !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %v lacks %q", err, c.text)
			}
			if err != nil && (strings.Contains(err.Error(), "canary") || len(err.Error()) > maxMessage) {
				t.Errorf("error shows too much: %v", err)
			}
		})
	}
	if _, err := ParseAttributes(DefaultName, nil); !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), "is required") {
		t.Errorf("no attributes at all: %v", err)
	}
}

func FuzzParseAttributes(f *testing.F) {
	f.Add("reference", testReference, "subPath", "a/b")
	f.Add("pullPolicy", "Always", "include", "*.json,!x\n#c")
	f.Add(DefaultName+"/exec", "true", "csi.storage.k8s.io/pod.name", "p")
	f.Add("subPath", "a/../../b", "exclude", "[")
	f.Add("layout", "hf", "mounts", "org/a=r.io/a,b=hf://c")
	f.Add("variant", "linux/arm64,a=b", "mounts", "a/b=r.io/a\n#x\n../c=r.io/c")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2 string) {
		a, err := ParseAttributes(DefaultName, map[string]string{"reference": testReference, k1: v1, k2: v2})
		if err != nil {
			if !errors.Is(err, model.ErrInvalid) {
				t.Errorf("error without its kind: %v", err)
			}
			return
		}
		if a.SubPath != "" && !filepath.IsLocal(a.SubPath) {
			t.Errorf("subPath %q leaves the model", a.SubPath)
		}
		if a.Ref.Registry == "" || a.Fingerprint() == "" {
			t.Errorf("incomplete: %+v", a)
		}
	})
}

func FuzzCheckVolume(f *testing.F) {
	const root = "/var/lib/model-csi"
	for _, target := range []string{
		"/var/lib/kubelet/pods/u/volumes/kubernetes.io~csi/v/mount", "/", "", "//", "/proc", "/proc/self/fd/1", "/procx",
		root, root + "/views/x", root + "x", "relative", "/a/../b", "/a/./b", "/a//b", "/a/", "/a\x00", "/..",
	} {
		f.Add("csi-0123", target)
	}
	f.Add("a\nb", "/a")
	f.Fuzz(func(t *testing.T, volumeID, target string) {
		err := checkVolume(volumeID, target, root)
		if err != nil {
			if !errors.Is(err, model.ErrInvalid) {
				t.Errorf("error without its kind: %v", err)
			}
			return
		}
		if !filepath.IsAbs(target) || filepath.Clean(target) != target || target == "/" || strings.Contains(target, "\x00") {
			t.Errorf("target %q was accepted", target)
		}
		for _, dir := range []string{root, "/proc", "/sys", "/dev"} {
			if rel, err := filepath.Rel(dir, target); err == nil && filepath.IsLocal(rel) {
				t.Errorf("target %q in %s was accepted", target, dir)
			}
		}
	})
}
