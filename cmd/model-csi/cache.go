package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/admin"
	"github.com/model-csi/model-csi/pkg/config"
	"github.com/model-csi/model-csi/pkg/store"
)

// defaultRoot is the state root of a daemon that was not told another one.
const defaultRoot = "/var/lib/model-csi"

// target says which daemon a command asks and how it answers.
type target struct {
	root   string
	output string
}

func (t *target) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.root, "root", defaultRoot, "state `directory` of the daemon to ask")
	cmd.Flags().StringVarP(&t.output, "output", "o", "text", "`format` of the answer: text or json")
}

func (t *target) print(w io.Writer, value any, text func(io.Writer) error) error {
	return printResult(w, t.output, value, text)
}

// printResult writes value as JSON, or calls text.
func printResult(w io.Writer, output string, value any, text func(io.Writer) error) error {
	switch output {
	case "text":
		return text(plain{w})
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(value)
	}
	return usagef("--output %q must be text or json", output)
}

func newCacheCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cache",
		Short: "Manage the node's cache of models",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCacheListCommand(), newCacheRemoveCommand(), newPinCommand(), newUnpinCommand(), newVerifyCommand(), newGCCommand())
	return cmd
}

func newGCCommand() *cobra.Command {
	var t target
	var free string
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove cached models that no volume uses",
		Long: `Ask the daemon of this node to remove cached models and unfinished downloads that no volume uses, least recently used
first. What a volume has leased or mounted always stays. The daemon does the same by itself when free space falls under
its cache-reserve.`,
		Example: `  # remove everything that is not in use
  model-csi cache gc

  # remove just enough to free 50 GiB
  model-csi cache gc --free 50Gi`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			want := store.Everything
			if free != "" {
				b, err := config.ParseBytes(free)
				if err != nil {
					return usagef("--free: %w", err)
				}
				want = store.Room{Bytes: int64(b)}
			}
			e, err := admin.NewClient(t.root).Evict(cmd.Context(), want)
			if err != nil {
				return err
			}
			return t.print(cmd.OutOrStdout(), e, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "freed %s: %d models, %d files, %d unfinished downloads\n", bytesText(e.Bytes), e.Views, e.Blobs, e.Unfinished)
				return err
			})
		},
	}
	t.bind(cmd)
	cmd.Flags().StringVar(&free, "free", "", "stop when this `size` was freed (default: remove all that is unused)")
	return cmd
}

func newStatusCommand() *cobra.Command {
	var t target
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the node's daemon holds and does",
		Long: `Show the cache of this node, the pulls under way with their progress, the volumes that are mounted, and those that kubelet
asked for and that wait, with the last answer.`,
		Example: `  model-csi status
  kubectl exec -n model-csi daemonset/model-csi -- model-csi status`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := admin.NewClient(t.root).Status(cmd.Context())
			if err != nil {
				return err
			}
			return t.print(cmd.OutOrStdout(), s, func(w io.Writer) error { return printStatus(w, s) })
		},
	}
	t.bind(cmd)
	return cmd
}

func printStatus(w io.Writer, s admin.Status) error {
	c := s.Cache
	_, err := fmt.Fprintf(w, "node %s, model-csi %s\ncache: %s in %d files, %d models shown, %s unfinished; %s free of %s, %s kept in reserve\n",
		s.Node, s.Version, bytesText(c.BlobBytes), c.Blobs, c.Views, bytesText(c.Unfinished), bytesText(c.Free), bytesText(c.Total), bytesText(c.Reserve))
	if err != nil {
		return err
	}
	for _, p := range s.Pulls {
		if _, err := fmt.Fprintln(w, p); err != nil {
			return err
		}
	}
	for _, v := range s.Waiting {
		if _, err := fmt.Fprintln(w, strings.TrimRight(waits(v, s.Pulls, time.Now()).String(), "\n")); err != nil {
			return err
		}
	}
	if len(s.Volumes) == 0 {
		_, err := fmt.Fprintln(w, "no volumes")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "POD\tREFERENCE\tDIGEST\tFORMAT\tSIZE\tVOLUME")
	for _, l := range s.Volumes {
		pod := l.Pod
		if pod == "" {
			pod = "-"
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%.19s\t%s\t%s\t%s\n", pod, l.Reference, l.Digest, l.Format, bytesText(l.Bytes), path.Base(l.VolumeID))
	}
	return table.Flush()
}

func bytesText(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }
