package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/pkg/config"
	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
)

func writeFile(t *testing.T, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// credentialSources is a configuration with everything but an API server.
func credentialSources(t *testing.T) config.Config {
	t.Helper()
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "cloud"), `#!/usr/bin/tail -n+2
{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","auth":{"*.example.com":{"username":"cloud","password":"canary"}}}`, 0o700)
	return config.Config{
		DockerConfig: writeFile(t, filepath.Join(dir, "config.json"),
			`{"auths":{"registry.example.com":{"username":"node","password":"canary"},"other.example.com":{"username":"node","password":"canary"}}}`, 0o600),
		DockerConfigRegistries:   "registry.example.com/team",
		CredentialProviderBinDir: dir,
		CredentialProviderConfig: writeFile(t, filepath.Join(dir, "providers.yaml"), `
kind: CredentialProviderConfig
apiVersion: kubelet.config.k8s.io/v1
providers:
- {name: cloud, apiVersion: credentialprovider.kubelet.k8s.io/v1, matchImages: [registry.example.com], defaultCacheDuration: 1h}`, 0o600),
	}
}

// TestOrderOfCredentials: what the pod brings comes first, what the node lends comes last, and only where it may.
func TestOrderOfCredentials(t *testing.T) {
	var log strings.Builder
	s, err := newSources(credentialSources(t), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "providers=[cloud]") {
		t.Errorf("log: %s", log.String())
	}
	keys, err := s.keychain(credential.Caller{Secrets: map[string]string{"username": "pod", "password": "canary"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"registry.example.com/team/m":  "[nodePublishSecretRef credential provider cloud node docker config]",
		"registry.example.com/other/m": "[nodePublishSecretRef credential provider cloud]",
		"other.example.com/team/m":     "[nodePublishSecretRef]",
	} {
		ref, err := model.ParseRef(name)
		if err != nil {
			t.Fatal(err)
		}
		creds, err := keys.Credentials(t.Context(), ref)
		if got := fmt.Sprint(creds); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", name, got, err, want)
		}
	}
	if _, err := s.keychain(credential.Caller{Secrets: map[string]string{"unknown": "canary"}}); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("a secret that is none: %v", err)
	}
}

// TestMistakesInSources are found at the start.
func TestMistakesInSources(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for want, change := range map[string]func(*config.Config){
		"automountServiceAccountToken": func(c *config.Config) { c.PullSecretNamespaces = config.AllNamespaces },
		"names no registry":            func(c *config.Config) { c.DockerConfigRegistries = "*" },
		"no such file":                 func(c *config.Config) { c.CredentialProviderConfig += ".missing" },
		"cloud is not in":              func(c *config.Config) { c.CredentialProviderBinDir = t.TempDir() },
	} {
		c := credentialSources(t)
		change(&c)
		if _, err := newSources(c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
