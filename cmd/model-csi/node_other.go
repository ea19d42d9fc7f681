//go:build !linux

package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/model"
)

// What mounts runs on Linux only; everything else works everywhere.

func newNodeCommand() *cobra.Command  { return linuxOnly("node", "Run the CSI node plugin") }
func newMountCommand() *cobra.Command { return linuxOnly("mount", "Mount a model without Kubernetes") }
func newUnmountCommand() *cobra.Command {
	return linuxOnly("unmount", "Unmount what mount has mounted")
}

// linuxOnly stands where a command is on Linux, and says why it is not here. Help does not list it.
func linuxOnly(name, short string) *cobra.Command {
	return &cobra.Command{
		Use:                name,
		Short:              short + " (Linux only)",
		Long:               short + ". It mounts, so it runs on Linux only.",
		Args:               cobra.ArbitraryArgs,
		DisableFlagParsing: true,
		Hidden:             true,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("%s mounts, which this program cannot do on %s: %w", name, runtime.GOOS, model.ErrUnsupported)
		},
	}
}
