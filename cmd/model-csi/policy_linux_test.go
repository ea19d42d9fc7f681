package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/model-csi/model-csi/pkg/config"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/store"
)

// A rule about names at the operator's model registry is about them with and without its host.
func TestPolicyKnowsTheModelRegistry(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	c, err := config.Default()
	if err != nil {
		t.Fatal(err)
	}
	c.PolicyFile, c.ModelRegistryURL = filepath.Join(t.TempDir(), "policy.yaml"), "http://Names.example.com:8080"
	if err := os.WriteFile(c.PolicyFile, []byte("defaults: {deny: [model-registry://fraud-*]}"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.TempDir(), store.Options{Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{config: c, log: log, store: s, policy: openPolicy(c, log)}
	defer func() { _ = n.Close() }()
	if n.puller, err = n.newPuller(nil); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]error{
		"model-registry://names.example.com:8080/fraud-1/1": model.ErrDenied,
		"model-registry://fraud-1":                          model.ErrDenied,
		"model-registry://names.example.com:8080/iris/1":    nil,
	} {
		ref, err := model.ParseRef(text)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.policy.Check("team", ref); !errors.Is(err, want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
