package main

import (
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/store"
)

func TestNamed(t *testing.T) {
	one, two, tree := digest.FromString("one"), digest.FromString("two"), digest.FromString("tree")
	models := []store.Model{
		{Tree: tree, Digest: one, References: []string{"r.example.com/m:1", "r.example.com/m:latest"}},
		{Tree: digest.FromString("other"), Digest: two, References: []string{"r.example.com/m:2"}},
		{Tree: digest.FromString("nameless")},
	}
	for name, want := range map[string]int{
		"r.example.com/m:1": 1, "r.example.com/m:latest": 1, "r.example.com/m": 0, "r.example.com/m:3": 0,
		one.String(): 1, one.String()[:20]: 1, tree.String(): 1, "sha256:": 0, one.String()[:10]: 0, "": 0,
	} {
		if got := named(models, name); len(got) != want {
			t.Errorf("%q: %d models, want %d", name, len(got), want)
		}
	}
}
