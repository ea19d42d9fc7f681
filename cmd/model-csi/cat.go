package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pull"
)

func newCatCommand() *cobra.Command {
	var o lookOptions
	cmd := &cobra.Command{
		Use:   "cat REFERENCE PATH...",
		Short: "Print files of an artifact",
		Long: `Print files of an artifact to standard output. A file that is a layer of its own is fetched alone; for one in an archive the
archive is downloaded. The bytes are verified while they pass: if they were wrong, the command fails at the end of the file.`,
		Example:           `  model-csi cat registry.example.com/models/qwen3:8b config.json | jq .model_type`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.look(cmd, args[0], func(ctx context.Context, a *pull.Artifact) error {
				tree, err := a.Tree(ctx)
				if err != nil {
					return err
				}
				for _, name := range args[1:] {
					if err := cat(ctx, cmd.OutOrStdout(), a, tree, name); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	o.bind(cmd)
	return cmd
}

func cat(ctx context.Context, w io.Writer, a *pull.Artifact, tree model.Tree, name string) error {
	f, err := lookup(tree, name)
	if err != nil {
		return fmt.Errorf("%s: %w", a.Ref, err)
	}
	body, err := a.Open(ctx, f)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, body)
	return errors.Join(err, body.Close())
}

// lookup finds a regular file by its path, through symbolic links.
func lookup(tree model.Tree, name string) (model.File, error) {
	clean := path.Clean(strings.TrimPrefix(name, "/"))
	for range 40 {
		f, ok := tree.Lookup(clean)
		switch {
		case !ok:
			return f, fmt.Errorf("there is no file %q in it; \"model-csi ls\" lists them: %w", name, model.ErrNotFound)
		case f.Mode&fs.ModeSymlink != 0:
			clean = path.Join(path.Dir(clean), f.Link)
		case f.Mode.IsDir():
			return f, fmt.Errorf("%q is a directory: %w", name, model.ErrInvalid)
		default:
			return f, nil
		}
	}
	return model.File{}, fmt.Errorf("%q is a link that leads nowhere: %w", name, model.ErrNotFound)
}
