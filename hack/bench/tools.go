package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// makers of all tools, in the order of the report. The limits come last.
var makers = []struct {
	name string
	make func(ctx context.Context, o options) (tool, error)
}{
	{"model-csi", func(_ context.Context, o options) (tool, error) { return &ours{binary: o.binary}, nil }},
	{"oras", func(ctx context.Context, _ options) (tool, error) { return newOras(ctx) }},
	{"crane", func(ctx context.Context, _ options) (tool, error) { return newCrane(ctx) }},
	{"containerd", func(ctx context.Context, _ options) (tool, error) { return newContainerd(ctx) }},
	{"get", limitOf("get", get)},
	{"sha256", limitOf("sha256", hash)},
	{"write", limitOf("write", write)},
}

func limitOf(name string, run func(context.Context, *job) error) func(context.Context, options) (tool, error) {
	return func(context.Context, options) (tool, error) { return &limit{title: name, run: run}, nil }
}

func toolNames() (out []string) {
	for _, m := range makers {
		out = append(out, m.name)
	}
	return out
}

func newTools(ctx context.Context, o options, _ string) ([]tool, error) {
	for _, name := range o.tools {
		if !slices.Contains(toolNames(), name) {
			return nil, fmt.Errorf("tool %q is not known; there are %s", name, strings.Join(toolNames(), ", "))
		}
	}
	var out []tool
	for _, m := range makers {
		if !slices.Contains(o.tools, m.name) {
			continue
		}
		t, err := m.make(ctx, o)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}
