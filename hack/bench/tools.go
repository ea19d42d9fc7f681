package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

type maker struct {
	name string
	make func(ctx context.Context, o options) (tool, error)
}

// makers of all tools, in the order of the report. The limits come last.
var makers = append([]maker{
	{"model-csi", func(_ context.Context, o options) (tool, error) { return &ours{binary: o.binary}, nil }},
	{"oras", func(ctx context.Context, _ options) (tool, error) { return newOras(ctx) }},
	{"crane", func(ctx context.Context, _ options) (tool, error) { return newCrane(ctx) }},
	{"containerd", func(ctx context.Context, _ options) (tool, error) { return newContainerd(ctx) }},
}, limitMakers()...)

func limitMakers() (out []maker) {
	for _, l := range limits {
		out = append(out, maker{l.title, func(context.Context, options) (tool, error) { return l, nil }})
	}
	return out
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
