package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pull"
	"github.com/model-csi/model-csi/pkg/view"
)

// movingMark stands in partialDir while finished files are moved out of it.
const movingMark = "moving"

// partialDir holds what a pull has so far, in the directory that it fills.
const partialDir = ".model-csi-partial"

// pulled is the answer of pull.
type pulled struct {
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"`
	Format    string        `json:"format"`
	Directory string        `json:"directory"`
	Files     int           `json:"files"`
	Bytes     int64         `json:"bytes"`
}

func newPullCommand() *cobra.Command {
	var o lookOptions
	var include, exclude []string
	cmd := &cobra.Command{
		Use:   "pull REFERENCE DIRECTORY",
		Short: "Download a model into a directory",
		Long: `Download a model into a new or empty directory, with the files that a volume would show. Every byte is verified. Nothing is
stored twice; the files are yours to change. A pull that was interrupted goes on where it was when the same command is
given again.`,
		Example: `  model-csi pull registry.example.com/models/qwen3:8b ./qwen3
  model-csi pull --include '*.safetensors,*.json' hf://Qwen/Qwen3-8B ./qwen3`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := o.pull(cmd, args[0], args[1], include, exclude)
			if err != nil {
				return err
			}
			return printResult(cmd.OutOrStdout(), o.output, p, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%s: %d files, %s, %s\n", p.Directory, p.Files, bytesText(p.Bytes), p.Digest)
				return err
			})
		},
	}
	o.bind(cmd)
	bindOutput(cmd, &o.output)
	cmd.Flags().StringSliceVar(&include, "include", nil, "`patterns` of the files to download, as in .gitignore; default all")
	cmd.Flags().StringSliceVar(&exclude, "exclude", nil, "`patterns` of files to leave out")
	return cmd
}

func (o *lookOptions) pull(cmd *cobra.Command, reference, dir string, include, exclude []string) (_ *pulled, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	if err := emptyTarget(dir); err != nil {
		return nil, err
	}
	partial := filepath.Join(dir, partialDir)
	s, err := o.open(partial, quietLogger())
	if err != nil {
		return nil, err
	}
	closed := false
	defer func() {
		if !closed {
			err = errors.Join(err, s.Close())
		}
	}()
	r, err := s.request(reference)
	if err != nil {
		return nil, err
	}
	r.Include, r.Exclude = include, exclude
	stop := showProgress(cmd.ErrOrStderr(), o.quiet, s.transfers)
	result, err := s.puller.Pull(cmd.Context(), r)
	stop()
	if cmd.Context().Err() != nil {
		return nil, fmt.Errorf("interrupted; what was downloaded is kept in %s, and the same command goes on from there", partial)
	}
	if err != nil {
		return nil, err
	}
	defer result.Release()
	if err := export(dir, s, result.Tree); err != nil {
		return nil, err
	}
	closed = true
	if err := errors.Join(s.Close(), os.RemoveAll(partial)); err != nil {
		return nil, err
	}
	return &pulled{Reference: r.Ref.String(), Digest: result.Digest, Format: result.Format, Directory: dir,
		Files: regular(result.Tree), Bytes: result.Tree.Size()}, nil
}

// emptyTarget makes sure that a pull overwrites nothing: the directory is made, or holds at most an earlier pull's part.
func emptyTarget(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, partialDir, movingMark)); err == nil {
		return nil // an earlier pull was stopped while it moved its files here
	}
	for _, e := range entries {
		if e.Name() != partialDir {
			return fmt.Errorf("%s is not empty: it has %q; name a new directory: %w", dir, e.Name(), model.ErrConflict)
		}
	}
	return nil
}

// export puts the files together aside and moves them into place, so that an interrupted command leaves no half of them.
func export(dir string, s *session, tree model.Tree) error {
	aside := filepath.Join(dir, partialDir, "export")
	if err := errors.Join(os.RemoveAll(aside), os.Mkdir(aside, 0o755)); err != nil {
		return err
	}
	if err := view.Export(aside, tree, s.store.BlobPath); err != nil {
		return err
	}
	entries, err := os.ReadDir(aside)
	if err != nil {
		return err
	}
	mark := filepath.Join(dir, partialDir, movingMark)
	_, statErr := os.Lstat(mark)
	again := statErr == nil
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return err
	}
	for _, e := range entries {
		to := filepath.Join(dir, e.Name())
		if again { // what stands there was moved before the earlier pull was stopped
			if err := os.RemoveAll(to); err != nil {
				return err
			}
		}
		if err := os.Rename(filepath.Join(aside, e.Name()), to); err != nil {
			return err
		}
	}
	return nil
}

// transfers tells how far the session's pulls are.
func (s *session) transfers() []transfer { return transfersOf(s.puller) }

// difference is the answer of diff.
type difference struct {
	From    string   `json:"from"`
	To      string   `json:"to"`
	Added   []fileOf `json:"added"`
	Removed []fileOf `json:"removed"`
	Changed []fileOf `json:"changed"`
	// Bytes that a node which has From transfers to get To.
	Bytes int64 `json:"bytes"`
}

func newDiffCommand() *cobra.Command {
	var o lookOptions
	cmd := &cobra.Command{
		Use:   "diff REFERENCE REFERENCE",
		Short: "Compare two artifacts: files, and bytes that an update would move",
		Long: `Compare the files of two artifacts by path and digest, and say how many bytes a node that has the first would transfer to
get the second. Archives are downloaded for it, and not kept. The exit code does not depend on the result.`,
		Example:           `  model-csi diff registry.example.com/models/qwen3:8b-v1 registry.example.com/models/qwen3:8b-v2`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := o.diff(cmd, args[0], args[1])
			if err != nil {
				return err
			}
			return printResult(cmd.OutOrStdout(), o.output, d, d.print)
		},
	}
	o.bind(cmd)
	bindOutput(cmd, &o.output)
	return cmd
}

func (o *lookOptions) diff(cmd *cobra.Command, from, to string) (d *difference, err error) {
	dir, err := os.MkdirTemp("", "model-csi-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := o.open(dir, quietLogger())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var artifacts [2]*pull.Artifact
	var trees [2]model.Tree
	for i, reference := range []string{from, to} {
		r, err := s.request(reference)
		if err != nil {
			return nil, err
		}
		if artifacts[i], err = s.puller.Inspect(cmd.Context(), r); err != nil {
			return nil, err
		}
		if trees[i], err = artifacts[i].Tree(cmd.Context()); err != nil {
			return nil, err
		}
	}
	d = compare(trees[0], trees[1])
	d.From, d.To = artifacts[0].Ref.String(), artifacts[1].Ref.String()
	have := map[digest.Digest]bool{}
	for _, l := range artifacts[0].Layers() {
		have[l.Blob.Digest] = true
	}
	for _, l := range artifacts[1].Layers() {
		if !have[l.Blob.Digest] {
			have[l.Blob.Digest] = true
			d.Bytes += l.Blob.Size
		}
	}
	return d, nil
}

// compare lists what differs between two trees; directories are told by what is in them.
func compare(from, to model.Tree) *difference {
	d := &difference{Added: []fileOf{}, Removed: []fileOf{}, Changed: []fileOf{}}
	for _, f := range to {
		old, ok := from.Lookup(f.Path)
		switch {
		case f.Mode.IsDir():
		case !ok:
			d.Added = append(d.Added, fileText(f))
		case old.Blob != f.Blob || old.Link != f.Link || old.Mode != f.Mode:
			d.Changed = append(d.Changed, fileText(f))
		}
	}
	for _, f := range from {
		if _, ok := to.Lookup(f.Path); !ok && !f.Mode.IsDir() {
			d.Removed = append(d.Removed, fileText(f))
		}
	}
	return d
}

func (d *difference) print(w io.Writer) error {
	for _, part := range []struct {
		sign  string
		files []fileOf
	}{{"+", d.Added}, {"-", d.Removed}, {"~", d.Changed}} {
		for _, f := range part.files {
			if _, err := fmt.Fprintf(w, "%s %s  %s\n", part.sign, f.Path, bytesText(f.Size)); err != nil {
				return err
			}
		}
	}
	_, err := fmt.Fprintf(w, "%d added, %d removed, %d changed; %s to transfer\n", len(d.Added), len(d.Removed), len(d.Changed), bytesText(d.Bytes))
	return err
}
