package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/admin"
	"github.com/model-csi/model-csi/pkg/config"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/store"
)

func newCacheListCommand() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the models in the node's cache",
		Long: `List the models that the node's cache holds as a whole, most recently used first: the names under which they were pulled,
their size, how many volumes use them, and whether they are pinned. Models may share files: the sum of their sizes can be
more than the cache takes on disk, which "model-csi status" tells.`,
		Example: `  model-csi cache ls
  model-csi cache ls -o json | jq '.[] | select(.volumes == null) | .references'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			models, err := admin.NewClient(t.root).Models(cmd.Context())
			if err != nil {
				return err
			}
			return t.print(cmd.OutOrStdout(), models, func(w io.Writer) error { return printModels(w, models, time.Now()) })
		},
	}
	t.bind(cmd)
	return cmd
}

func printModels(w io.Writer, models []store.Model, now time.Time) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "REFERENCE\tDIGEST\tFORMAT\tSIZE\tFILES\tVOLUMES\tPINNED\tUSED")
	for _, m := range models {
		names := m.References
		if len(names) == 0 {
			names = []string{"-"}
		}
		pinned := ""
		if m.Kept {
			pinned = "yes"
		}
		d := m.Digest
		if d == "" {
			d = m.Tree
		}
		_, _ = fmt.Fprintf(table, "%s\t%.19s\t%s\t%s\t%d\t%d\t%s\t%s\n", strings.Join(names, ", "), d, m.Format, bytesText(m.Bytes), m.Files,
			len(m.Volumes), pinned, humanize.RelTime(m.Used, now, "ago", "from now"))
	}
	return table.Flush()
}

func newCacheRemoveCommand() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:     "rm REFERENCE|DIGEST...",
		Aliases: []string{"remove"},
		Short:   "Remove models from the node's cache that no volume uses",
		Long: `Remove cached models by a name under which they were pulled, or by the digest of their manifest. Files that other models
share stay. A model that a volume uses, or that is pinned, is not removed.`,
		Example: `  model-csi cache rm registry.example.com/models/qwen3:8b`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				e, err := admin.NewClient(t.root).Remove(cmd.Context(), canonical(name))
				if err != nil {
					return err
				}
				if err := t.print(cmd.OutOrStdout(), e, func(w io.Writer) error {
					_, err := fmt.Fprintf(w, "%s: freed %s in %d files\n", name, bytesText(e.Bytes), e.Blobs)
					return err
				}); err != nil {
					return err
				}
			}
			return nil
		},
	}
	t.bind(cmd)
	return cmd
}

// canonical is how the daemon writes a reference; what is none, such as a digest, stays as it is.
func canonical(name string) string {
	if ref, err := model.ParseRef(name); err == nil {
		return ref.String()
	}
	return name
}

func newPinCommand() *cobra.Command {
	cmd := newPrefetchCommand()
	cmd.Use, cmd.Short = "pin REFERENCE", "Protect a model from eviction, fetching it if it is not there"
	cmd.Long = `Bring a model into the node's cache, as "model-csi prefetch --pin" does, and protect it from eviction until
"model-csi cache unpin", also when the daemon is restarted. Pins are not counted against the disk: what is pinned cannot
be evicted for others.`
	cmd.Example = `  model-csi cache pin registry.example.com/models/qwen3:8b`
	if err := cmd.Flags().Set("pin", "true"); err != nil {
		panic(err) // the flag is defined by prefetch
	}
	if err := cmd.Flags().MarkHidden("pin"); err != nil {
		panic(err)
	}
	return cmd
}

func newUnpinCommand() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:     "unpin REFERENCE...",
		Short:   "Let eviction have a pinned model again",
		Long:    `End the protection of a model that was pinned. It stays in the cache until space is needed.`,
		Example: `  model-csi cache unpin registry.example.com/models/qwen3:8b`,
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				if err := admin.NewClient(t.root).GiveUp(cmd.Context(), canonical(name)); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&t.root, "root", defaultRoot, "state `directory` of the daemon to ask")
	return cmd
}

func newVerifyCommand() *cobra.Command {
	var t target
	var rate string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read every cached byte and compare it with its digest",
		Long: `Read the whole cache from disk and compare every file with its digest. It reads past the page cache, so that running pods
keep theirs. What is damaged is taken out of the cache: the next pod that asks has it fetched again; pods that have it
mounted keep what they have and should be restarted. The exit code is 3 when something was damaged.`,
		Example: `  model-csi cache verify
  model-csi cache verify --rate 200Mi`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var limit config.Bytes
			if rate != "" {
				var err error
				if limit, err = config.ParseBytes(rate); err != nil {
					return usagef("--rate: %w", err)
				}
			}
			var at latest
			stop := showProgress(cmd.ErrOrStderr(), quiet, at.transfers)
			v, err := admin.NewClient(t.root).Verify(cmd.Context(), int64(limit), at.set)
			stop()
			if err != nil {
				return err
			}
			if err := t.print(cmd.OutOrStdout(), v, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "%d files, %s read: %d damaged and taken out of the cache\n%s", v.Blobs, bytesText(v.Bytes), len(v.Damaged), lines(v.Damaged))
				return err
			}); err != nil {
				return err
			}
			if len(v.Damaged) > 0 {
				return errFindings
			}
			return nil
		},
	}
	t.bind(cmd)
	cmd.Flags().StringVar(&rate, "rate", "", "read at most this `size` a second (default: as fast as the disk)")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

func lines(list []digest.Digest) string {
	var b strings.Builder
	for _, d := range list {
		b.WriteString(d.String() + "\n")
	}
	return b.String()
}
