package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/peer"
	"github.com/model-csi/model-csi/test/registry"
)

// pusher is a tool that pushes the files of a directory as an artifact of raw layers.
type pusher struct {
	*command
	// push is the command line after the program.
	push func(reference, dir string, files []string) []string
}

func newPushers(ctx context.Context, o options) ([]*pusher, error) {
	oras, err := peer.ORAS.Build(ctx)
	return []*pusher{
		{&command{title: "model-csi", path: o.binary, release: (&ours{binary: o.binary}).version()},
			func(reference, dir string, _ []string) []string { return []string{"push", "-q", dir, reference} }},
		{&command{title: "oras", path: oras, release: peer.ORAS.Version},
			func(reference, _ string, files []string) []string {
				return append([]string{"push", "--plain-http", "--no-tty", reference}, files...)
			}},
	}, err
}

// measurePush has the tools push the same files, which are in the page cache, each time to a new registry in RAM.
func measurePush(ctx context.Context, o options, j *job, r *shapeResult) error {
	tools, err := newPushers(ctx, o)
	if err != nil {
		return err
	}
	j.next()
	names, err := writeFiles(j.dir, j.files)
	if err != nil {
		return err
	}
	if err := syncFilesystem(j.dir); err != nil {
		return err
	}
	for round := range o.rounds {
		for i := range tools {
			t := tools[(i+round)%len(tools)]
			fmt.Fprintf(os.Stderr, "%s: round %d of %d: %s ...\n", r.Name, round+1, o.rounds, t.name())
			s, err := t.once(ctx, j.dir, names)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.add(t, s, err)
		}
		began := time.Now()
		u, err := hashing.pull(ctx, j)
		r.add(hashing, sample{Wall: time.Since(began), CPU: u.cpu}, err)
	}
	r.finish(false)
	return nil
}

// once measures one push.
func (p *pusher) once(ctx context.Context, dir string, files []string) (s sample, err error) {
	target, err := registry.Start(registry.Options{})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	cmd := exec.CommandContext(ctx, p.path, p.push(target.Host()+"/bench/pushed:v1", dir, files)...)
	cmd.Dir = dir
	began := time.Now()
	u, err := measured(cmd)
	s.Wall, s.CPU, s.Memory, s.Requests = time.Since(began), u.cpu, u.memory, target.Stats().Requests
	return s, err
}

// writeFiles makes a directory of the files, and returns their names.
func writeFiles(dir string, files []artifact.File) (names []string, err error) {
	for _, f := range files {
		if err := writeFile(filepath.Join(dir, filepath.FromSlash(f.Path)), f); err != nil {
			return nil, err
		}
		names = append(names, f.Path)
	}
	return names, nil
}

func writeFile(path string, f artifact.File) (err error) {
	if err := mkdir(filepath.Dir(path)); err != nil {
		return err
	}
	content, err := f.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, content)
	return err
}
