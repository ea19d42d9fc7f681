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

func TestParseAttributesRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change map[string]string
		text   string
	}{
		"unknown":            {map[string]string{"pullpolicy": "Always"}, `did you mean "pullPolicy"?`},
		"unknown, far":       {map[string]string{"color": "red"}, `"color" is not known`},
		"unknown, prefixed":  {map[string]string{DefaultName + "/subpath": "x"}, `did you mean "subPath"?`},
		"other driver":       {map[string]string{"other.example.com/exec": "true"}, "is not known"},
		"twice":              {map[string]string{DefaultName + "/reference": testReference}, "given twice"},
		"policy":             {map[string]string{"pullPolicy": "always"}, "Always"},
		"exec":               {map[string]string{"exec": "yes"}, `write "true" or "false"`},
		"subPath up":         {map[string]string{"subPath": "../x"}, "subPath"},
		"subPath absolute":   {map[string]string{"subPath": "/x"}, "absolute"},
		"subPath is all":     {map[string]string{"subPath": "./"}, "itself"},
		"reference":          {map[string]string{"reference": "Not A Reference"}, "reference"},
		"empty reference":    {map[string]string{"reference": ""}, "empty"},
		"NUL":                {map[string]string{"include": "a\x00b"}, "NUL"},
		"too long":           {map[string]string{"include": strings.Repeat("a", 5000)}, "longer than 4096"},
		"tokens":             {map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": "canary"}, "nodePublishSecretRef"},
		"a secret in a name": {map[string]string{strings.Repeat("x", 9000): "v"}, "is not known"},
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
