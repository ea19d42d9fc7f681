package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/model"
)

func newTagsCommand() *cobra.Command {
	var o lookOptions
	cmd := &cobra.Command{
		Use:     "tags REPOSITORY",
		Short:   "List the tags of a repository in a registry",
		Long:    `List the tags of a repository in an OCI registry, one a line, sorted by name.`,
		Example: `  model-csi tags registry.example.com/models/qwen3`,
		Args:    cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := model.ParseRef(args[0])
			if err != nil {
				return &usageError{err}
			}
			tags, err := o.tags(cmd.Context(), ref)
			if err != nil {
				return err
			}
			return printResult(cmd.OutOrStdout(), o.output, tags, func(w io.Writer) error {
				for _, t := range tags {
					if _, err := fmt.Fprintln(w, t); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	o.bind(cmd)
	bindOutput(cmd, &o.output)
	return cmd
}

// tags asks with one login after the other, and without any at last.
func (o *lookOptions) tags(ctx context.Context, ref model.Ref) ([]string, error) {
	from, err := newModelSources(o.sources(), quietLogger())
	if err != nil {
		return nil, err
	}
	lister, ok := from.mux[ref.Scheme].(interface {
		Tags(ctx context.Context, ref model.Ref, cred model.Credential) ([]string, error)
	})
	if !ok {
		return nil, usagef("%s: only registries list tags: %w", ref, model.ErrUnsupported)
	}
	keys, err := logins()
	if err != nil {
		return nil, err
	}
	credentials, err := keys.Credentials(ctx, ref)
	if err != nil {
		return nil, err
	}
	var first error
	for _, c := range append(credentials, model.Credential{}) {
		tags, err := lister.Tags(ctx, ref, c)
		if err == nil {
			return tags, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}
