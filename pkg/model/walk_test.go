package model

import (
	"errors"
	"path"
	"strings"
	"testing"
)

func TestWalk(t *testing.T) {
	links := map[string]string{"l": "a/b", "up": "..", "abs": "/a", "a/back": "../l/c", "loop": "loop", "far": "../../../x", "here": "."}
	missing := errors.New("missing")
	step := func(at, name string) (string, string, error) {
		p := path.Join(at, name)
		if name == "missing" {
			return "", "", missing
		}
		return p, links[p], nil
	}
	for _, c := range []struct {
		from, path, want string
		beyond           bool
	}{
		{"", "a/b", "a/b", false},
		{"", ".//a/./b/", "a/b", false},
		{"a/b", "..", "a", false},
		{"a/b", "../../c", "c", false},
		{"a/b", "../../../c", "c", true},
		{"", "l/c", "a/b/c", false},
		{"a", "back", "a/b/c", false},
		{"a/b", "/c", "c", false},
		{"a/b", "/abs/c", "a/c", false},
		{"", "up/x", "x", true},
		{"", "far", "x", true},
		{"", "here/here/a", "a", false},
	} {
		from := placesOf(c.from + "/x")
		if c.from == "" {
			from = placesOf("x")
		}
		before := strings.Join(from, "|")
		places, beyond, err := Walk(from, c.path, step)
		if err != nil || places[len(places)-1] != c.want || beyond != c.beyond {
			t.Errorf("%q from %q: %v, beyond %v, %v; want %q", c.path, c.from, places, beyond, err, c.want)
		}
		if strings.Join(from, "|") != before {
			t.Errorf("%q from %q changed its start", c.path, c.from)
		}
	}
	if _, _, err := Walk([]string{""}, "loop/x", step); !errors.Is(err, ErrInvalid) {
		t.Errorf("a circle: %v", err)
	}
	if _, _, err := Walk([]string{""}, "a/missing/b", step); !errors.Is(err, missing) {
		t.Errorf("the step's own error: %v", err)
	}
}
