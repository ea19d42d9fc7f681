package provider

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
)

const head = "kind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\nproviders:\n"

// The configuration of EKS nodes, as it is on them, is JSON; those of GKE and AKS are YAML.
const (
	eks = `{"apiVersion":"kubelet.config.k8s.io/v1","kind":"CredentialProviderConfig","providers":[{"name":"ecr-credential-provider",
"matchImages":["*.dkr.ecr.*.amazonaws.com","*.dkr-ecr.*.on.aws","*.dkr.ecr.*.amazonaws.com.cn","public.ecr.aws"],
"defaultCacheDuration":"12h","apiVersion":"credentialprovider.kubelet.k8s.io/v1"}]}`
	gke = head + `
- name: auth-provider-gcp
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: [container.cloud.google.com, gcr.io, "*.gcr.io", "*.pkg.dev"]
  args: [get-credentials, --v=3]
  defaultCacheDuration: 1m
`
	aks = head + `
- name: acr-credential-provider
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  matchImages: ["*.azurecr.io", "*.azurecr.cn"]
  defaultCacheDuration: 10m
  args: [/etc/kubernetes/azure.json]
  tokenAttributes:
    serviceAccountTokenAudience: api://AzureADTokenExchange
    requireServiceAccount: false
    cacheType: ServiceAccount
    optionalServiceAccountAnnotationKeys: [kubernetes.azure.com/acr-client-id, kubernetes.azure.com/acr-tenant-id]
`
)

func TestClouds(t *testing.T) {
	for text, want := range map[string]map[string]bool{
		eks: {"123456789012.dkr.ecr.eu-west-1.amazonaws.com/models/a": true, "public.ecr.aws/x/y": true, "docker.io/library/a": false},
		gke: {"gcr.io/p/a": true, "eu.gcr.io/p/a": true, "europe-docker.pkg.dev/p/r/a": true, "gcr.io.example.com/a": false},
		aks: {"team.azurecr.io/a": true, "azurecr.io/a": false},
	} {
		list, err := parse([]byte(text))
		if err != nil || len(list) != 1 {
			t.Fatalf("%v\n%s", err, text)
		}
		for ref, match := range want {
			got := false
			for _, p := range list[0].images {
				got = got || p.MatchesPrefix(reference(t, ref))
			}
			if got != match {
				t.Errorf("%s for %s: %t", list[0].Name, ref, got)
			}
		}
	}
}

func TestConfigRefuses(t *testing.T) {
	good := func(change ...string) string {
		text := "- name: cloud\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  matchImages: [a.io]\n  defaultCacheDuration: 1h\n"
		return head + strings.NewReplacer(change...).Replace(text)
	}
	token := func(text string) string { return good() + "  tokenAttributes: {" + text + "}\n" }
	if _, err := parse([]byte(good())); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ text, says string }{
		"nothing":          {"", "CredentialProviderConfig"},
		"not YAML":         {"{" + canary, "not YAML"},
		"other kind":       {"kind: Secret\napiVersion: v1\n", "CredentialProviderConfig"},
		"old version":      {strings.Replace(good(), "io/v1", "io/v1alpha1", 1), "kubelet.config.k8s.io/v1"},
		"no providers":     {head + " []\n", "no providers"},
		"unknown field":    {good() + "  matchImage: [b.io]\n", `unknown field "matchImage"`},
		"twice a field":    {good() + "  name: x\n", "already set"},
		"wrong type":       {good() + "  env: [{name: A, value: [" + canary + "]}]\n", "wrong type of"},
		"no name":          {good("cloud", `""`), "name must be"},
		"a path":           {good("cloud", "../../bin/sh"), "name must be"},
		"the directory":    {good("cloud", "."), "name must be"},
		"the one above":    {good("cloud", ".."), "name must be"},
		"a command line":   {good("cloud", "sh -c"), "name must be"},
		"a NUL byte":       {good("cloud", `"a\0b"`), "name must be"},
		"request version":  {good("credentialprovider.kubelet.k8s.io/v1", "credentialprovider.kubelet.k8s.io/v1alpha1"), "credentialprovider.kubelet.k8s.io/v1"},
		"no images":        {good("[a.io]", "[]"), "matchImages"},
		"an empty image":   {good("[a.io]", `[""]`), "image pattern"},
		"no duration":      {good("  defaultCacheDuration: 1h\n", ""), "defaultCacheDuration"},
		"negative":         {good("1h", "-1h"), "defaultCacheDuration"},
		"env without name": {good() + "  env: [{name: '', value: x}]\n", "env"},
		"env with =":       {good() + "  env: [{name: A=B, value: " + canary + "}]\n", "env"},
		"args with NUL":    {good() + "  args: [\"a\\0\"]\n", "NUL"},
		"no audience":      {token("requireServiceAccount: true, cacheType: Token"), "serviceAccountTokenAudience"},
		"no require":       {token("serviceAccountTokenAudience: a, cacheType: Token"), "requireServiceAccount"},
		"no cacheType":     {token("serviceAccountTokenAudience: a, requireServiceAccount: true"), "cacheType"},
		"other cacheType":  {token("serviceAccountTokenAudience: a, requireServiceAccount: true, cacheType: Pod"), "cacheType"},
		"keys, no require": {token("serviceAccountTokenAudience: a, requireServiceAccount: false, cacheType: Token, requiredServiceAccountAnnotationKeys: [x]"), "requireServiceAccount: true"},
		"key twice":        {token("serviceAccountTokenAudience: a, requireServiceAccount: true, cacheType: Token, requiredServiceAccountAnnotationKeys: [x], optionalServiceAccountAnnotationKeys: [x]"), "annotation keys"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse([]byte(test.text))
			if !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), test.says) {
				t.Fatalf("got %v, want %q", err, test.says)
			}
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the error shows a value: %v", err)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	w := newWorld(t, "one", "two")
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fails := func(path string, want ...string) {
		t.Helper()
		_, err := Load(path, w.dir, Options{})
		for _, text := range want {
			if err == nil || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: got %v, want %q", path, err, text)
			}
		}
	}
	fails(filepath.Join(dir, "missing"), "no such file")
	fails(dir, "0 files")
	write("b.yml", head+w.provider("one", "answer", "", ""))
	write("a.json", strings.ReplaceAll(eks, "ecr-credential-provider", "two"))
	write("c.txt", "ignored")
	ps, err := Load(dir, w.dir, Options{})
	if err != nil || !slices.Equal(ps.Names(), []string{"two", "one"}) {
		t.Errorf("providers %v, %v", ps.Names(), err)
	}
	write("d.yaml", gke+w.provider("three", "answer", "", ""))
	fails(dir, "auth-provider-gcp is not in "+w.dir, "three is not in")
	write("d.yaml", head+w.provider("one", "answer", "", ""))
	fails(dir, `provider "one" is there twice`)
	write("d.yaml", strings.Repeat("#", maxConfig+1))
	fails(dir, "d.yaml has more than")
}
