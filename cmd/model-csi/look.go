package main

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/model"
)

func newLsCommand() *cobra.Command {
	var o lookOptions
	var long bool
	cmd := &cobra.Command{
		Use:   "ls REFERENCE [PATH]",
		Short: "List the files of an artifact, as a mount shows them",
		Long: `List the files that a volume of the reference would show, below PATH if it is given. For artifacts with archives the
archives are downloaded and verified, because nothing else says what is in them; nothing is kept.`,
		Example: `  model-csi ls registry.example.com/models/qwen3:8b
  model-csi ls -l hf://Qwen/Qwen3-8B`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.files(cmd, args, func(tree model.Tree) error {
				files := make([]fileOf, 0, len(tree))
				for _, f := range tree {
					files = append(files, fileText(f))
				}
				return printResult(cmd.OutOrStdout(), o.output, files, func(w io.Writer) error { return printFiles(w, tree, long) })
			})
		},
	}
	o.bind(cmd)
	bindOutput(cmd, &o.output)
	cmd.Flags().BoolVarP(&long, "long", "l", false, "show mode, size and digest")
	return cmd
}

func printFiles(w io.Writer, tree model.Tree, long bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range tree {
		name := f.Path
		if f.Link != "" {
			name += " -> " + f.Link
		}
		if long {
			_, _ = fmt.Fprintf(t, "%s\t%s\t%.19s\t", f.Mode, bytesText(f.Blob.Size), f.Blob.Digest)
		}
		_, _ = fmt.Fprintln(t, name)
	}
	return t.Flush()
}

func newTreeCommand() *cobra.Command {
	var o lookOptions
	cmd := &cobra.Command{
		Use:   "tree REFERENCE [PATH]",
		Short: "Draw the files of an artifact as a tree",
		Long: `Draw the files that a volume of the reference would show, below PATH if it is given, as a tree with sizes. Archives are
downloaded and verified for it, and not kept.`,
		Example:           `  model-csi tree registry.example.com/models/qwen3:8b`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.files(cmd, args, func(tree model.Tree) error {
				_, err := io.WriteString(plain{cmd.OutOrStdout()}, drawTree(args[0], tree))
				return err
			})
		},
	}
	o.bind(cmd)
	return cmd
}

// drawTree draws the tree as tree(1) does.
func drawTree(root string, tree model.Tree) string {
	children := map[string][]string{}
	files := map[string]model.File{}
	seen := map[string]bool{}
	for _, f := range tree {
		files[f.Path] = f
		for p := f.Path; p != "." && !seen[p]; p = path.Dir(p) {
			seen[p] = true
			children[path.Dir(p)] = append(children[path.Dir(p)], p)
		}
	}
	var b strings.Builder
	b.WriteString(root + "\n")
	var draw func(dir, indent string)
	draw = func(dir, indent string) {
		slices.Sort(children[dir])
		for i, p := range children[dir] {
			branch, next := "├── ", "│   "
			if i == len(children[dir])-1 {
				branch, next = "└── ", "    "
			}
			b.WriteString(indent + branch + path.Base(p))
			switch f := files[p]; {
			case f.Link != "":
				b.WriteString(" -> " + f.Link)
			case f.Mode.IsRegular() && f.Path != "":
				b.WriteString("  " + bytesText(f.Blob.Size))
			}
			b.WriteString("\n")
			draw(p, indent+next)
		}
	}
	draw(".", "")
	fmt.Fprintf(&b, "%d files, %s\n", regular(tree), bytesText(tree.Size()))
	return b.String()
}

func regular(tree model.Tree) (n int) {
	for _, f := range tree {
		if f.Mode.IsRegular() {
			n++
		}
	}
	return n
}
