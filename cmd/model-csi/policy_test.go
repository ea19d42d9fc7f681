package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/model-csi/model-csi/pkg/config"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pull"
)

func TestRules(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	text := "defaults: {deny: [evil.io/**], maxModelSize: 1Ki, cacheShare: 25%}\nnamespaces: {a: {maxFiles: 3, cacheShare: 10}, b: {cacheShare: ''}}"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	r := rules{file: openPolicy(config.Config{PolicyFile: path}, log), capacity: func() (int64, error) { return 1000, nil }, log: log}
	for namespace, want := range map[string]pull.Limits{
		"": {ModelSize: 1024, Share: 250}, "a": {ModelSize: 1024, Files: 3, Share: 10}, "b": {ModelSize: 1024},
	} {
		if got := r.Limits(namespace); got != want {
			t.Errorf("limits of %q: %+v, want %+v", namespace, got, want)
		}
	}
	r.capacity = func() (int64, error) { return 0, errors.New("the disk is gone") }
	if got := r.Limits(""); got.Share != 1 {
		t.Errorf("the share of an unknown size is %d, which must not be none", got.Share)
	}
	for name, want := range map[string]error{"evil.io/x": model.ErrDenied, "good.io/x": nil} {
		ref, err := model.ParseRef(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Check("a", ref); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if openPolicy(config.Config{}, log) != nil {
		t.Error("there is a policy without a file")
	}
}
