package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestCached(t *testing.T) {
	none := fmt.Errorf("no daemon answers: %w", model.ErrUnavailable)
	tests := map[string]struct {
		has  []bool
		err  error
		part *cachedPart
		text string
	}{
		"everything":                {[]bool{true, true, true}, nil, &cachedPart{7, 3}, "everything"},
		"some":                      {[]bool{true, false, true}, nil, &cachedPart{5, 2}, "5 B in 2 layers"},
		"nothing":                   {[]bool{false, false, false}, nil, &cachedPart{}, "nothing"},
		"no daemon":                 {nil, none, nil, ""},
		"a daemon for root alone":   {nil, fmt.Errorf("it talks to root only: %w", model.ErrDenied), nil, "unknown: it talks to root only: " + model.ErrDenied.Error()},
		"one that does not answer":  {nil, context.DeadlineExceeded, nil, "unknown: context deadline exceeded"},
		"one that knows no has yet": {nil, errors.New("the daemon says: 404 page not found"), nil, "unknown: the daemon says: 404 page not found"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			i := inspection{Layers: []layerOf{{Size: 1}, {Size: 2}, {Size: 4}}}
			i.addCached(tt.has, tt.err)
			if (i.Cached == nil) != (tt.part == nil) || tt.part != nil && *i.Cached != *tt.part {
				t.Errorf("%+v, want %+v", i.Cached, tt.part)
			}
			for n, has := range tt.has {
				if i.Layers[n].Cached != has {
					t.Errorf("layer %d: %v", n, i.Layers[n].Cached)
				}
			}
			if got := i.cachedText(); got != tt.text {
				t.Errorf("%q, want %q", got, tt.text)
			}
		})
	}
}
