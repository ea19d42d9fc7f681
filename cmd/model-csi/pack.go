package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/pack"
)

func newPackCommand() *cobra.Command {
	var (
		p           packFlags
		layout, tag string
		output      string
		quiet       bool
	)
	cmd := &cobra.Command{
		Use:   "pack DIRECTORY --to-layout PATH",
		Short: "Pack a directory as a model into an OCI image layout",
		Long: `Pack a directory as a CNCF ModelPack artifact into an OCI image layout: a directory on disk that oras, skopeo and others
copy to registries. The artifact is the same, to the digest, as the one that push writes; see there for what is packed.`,
		Example: `  model-csi pack ./qwen3 --to-layout ./qwen3-layout --tag 8b
  oras copy --from-oci-layout ./qwen3-layout:8b registry.example.com/models/qwen3:8b`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if layout == "" {
				return usagef("--to-layout is required: it names the layout to write to")
			}
			in, err := p.read(args[0])
			if err != nil {
				return err
			}
			if err := p.announce(cmd.ErrOrStderr(), quiet, in); err != nil {
				return err
			}
			target, err := pack.NewLayout(layout, tag)
			if err != nil {
				return err
			}
			r, err := pushWithProgress(cmd, quiet, in, target)
			if err != nil {
				return err
			}
			return printResult(cmd.OutOrStdout(), output, packed{Layout: layout, Result: r, Skipped: in.inventory.Skipped}, func(w io.Writer) error {
				_, err := fmt.Fprintln(w, r.Digest)
				return err
			})
		},
	}
	p.bind(cmd)
	cmd.Flags().StringVar(&layout, "to-layout", "", "`directory` of the layout; it is made where there is none")
	cmd.Flags().StringVar(&tag, "tag", "", "`name` of the artifact in the layout")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	bindOutput(cmd, &output)
	return cmd
}
