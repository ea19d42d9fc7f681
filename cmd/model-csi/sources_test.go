package main

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
)

// TestEveryScheme: what can be written can be read.
func TestEveryScheme(t *testing.T) {
	from, err := newModelSources(sourceOptions{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(model.Schemes(), model.SchemeOCI) {
		t.Fatalf("the schemes are %q", model.Schemes())
	}
	for _, scheme := range model.Schemes() {
		_, holds := from.mux[scheme]
		_, names := from.resolvers[scheme]
		if holds == names {
			t.Errorf("scheme %s: a source is %v, a resolver is %v; one of them is needed", scheme, holds, names)
		}
	}
}
