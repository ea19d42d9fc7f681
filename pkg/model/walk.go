package model

import (
	"fmt"
	"strings"
)

// maxLinkHops bounds how many symbolic links one name leads through, as the kernel's own limit does.
const maxLinkHops = 40

// Step looks up one component of a path below the place at. It returns the place that is there, or, where a symbolic
// link stands there, its target, which is never empty. An error ends the walk.
type Step[P any] func(at P, name string) (next P, link string, err error)

// Walk follows a path component by component, as a process does whose root is the first place of from: "." and empty
// components stay where they are, ".." goes back one place and no further than the root, a symbolic link is followed, and
// an absolute one starts at the root. from are the places from the root down to where the path begins, one at least;
// it is not changed.
//
// Walk returns the places from the root down to the end of the path; beyond says that ".." was asked for at the root. It
// fails with the error of step, and with ErrInvalid after more symbolic links than a kernel follows.
func Walk[P any](from []P, path string, step Step[P]) (places []P, beyond bool, err error) {
	places = append(places, from...)
	todo := strings.Split(path, "/")
	start := func(path string) {
		if strings.HasPrefix(path, "/") {
			places = places[:1]
		}
	}
	start(path)
	for hops := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			beyond = beyond || len(places) == 1
			places = places[:max(1, len(places)-1)]
			continue
		}
		next, link, err := step(places[len(places)-1], name)
		switch {
		case err != nil:
			return nil, false, err
		case link == "":
			places = append(places, next)
			continue
		}
		if hops++; hops > maxLinkHops {
			return nil, false, fmt.Errorf("symbolic link %.100q -> %.100q runs in a circle: %w", name, link, ErrInvalid)
		}
		start(link)
		todo = append(strings.Split(link, "/"), todo...)
	}
	return places, beyond, nil
}
