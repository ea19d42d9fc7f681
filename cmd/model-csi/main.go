// Command model-csi makes AI models ordinary Kubernetes volumes. "model-csi node" is the CSI node plugin; the other
// commands ask it, or help around it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// version is set by the build (-ldflags "-X main.version=...").
var version string

func main() {
	os.Exit(run(os.Args[0], os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program under one of its names.
func run(argv0 string, args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	cmd := newCommand()
	name, say := programName, func(text string) string { return text }
	if isPlugin(argv0) {
		name, say = pluginName, pluginText(cmd)
		namePlugin(cmd)
	}
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, errFindings) {
		_, _ = fmt.Fprintln(stderr, name+": "+say(err.Error()))
	}
	return exitCode(ctx, err)
}

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "model-csi",
		Short: "AI models as Kubernetes volumes",
		Long: `model-csi makes AI models ordinary Kubernetes volumes: a pod names a model by reference, the node pulls it once,
verifies it, keeps it in a cache shared by the node, and mounts it read-only into every pod that may have it.`,
		Version:       buildVersion(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		newInspectCommand(), newLsCommand(), newTreeCommand(), newCatCommand(), newPullCommand(), newPushCommand(), newPackCommand(), newCopyCommand(), newImportCommand(),
		newValidateCommand(), newDiffCommand(), newTagsCommand(),
		newNodeCommand(), newStatusCommand(), newWhyCommand(), newPrefetchCommand(), newMountCommand(), newUnmountCommand(), newCacheCommand(), newVersionCommand(),
	)
	markUsage(cmd)
	return cmd
}

// buildVersion is what the build says, else what the module system knows.
func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "model-csi %s (%s, %s/%s)\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
