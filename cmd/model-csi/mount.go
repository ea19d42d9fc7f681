//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/model-csi/model-csi/pkg/admin"
	"github.com/model-csi/model-csi/pkg/config"
	"github.com/model-csi/model-csi/pkg/model"
)

func newMountCommand() *cobra.Command {
	var t target
	var attributes map[string]string
	var configDir string
	var login, quiet bool
	cmd := &cobra.Command{
		Use:   "mount REFERENCE DIRECTORY",
		Short: "Mount a model at a directory, without Kubernetes",
		Long: `Mount a model read-only at a directory of this machine, out of the node's cache and into it: the same files, checks and
sharing as for pods. A daemon that has the state root does it; without one, the command does it by itself. The mount stays
until "model-csi unmount" or a reboot. --set gives the attributes of a volume, such as include, layout or subPath.

A daemon that runs in a container mounts where its mounts are propagated to: below kubelet's directory, and nowhere else.
It needs root.`,
		Example: `  model-csi mount registry.example.com/models/qwen3:8b /mnt/qwen3
  model-csi mount --set include='*.gguf' --set exec=true hf://Qwen/Qwen3-8B-GGUF /mnt/qwen3`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := readable(args[0], ""); err != nil {
				return err
			}
			directory, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			m := admin.Mount{Directory: directory, Attributes: map[string]string{"reference": args[0]}}
			for key, value := range attributes {
				m.Attributes[key] = value
			}
			if login {
				f := admin.Fetch{Reference: args[0]}
				if err := addLogin(cmd, &f); err != nil {
					return err
				}
				m.Username, m.Password = f.Username, f.Password
			}
			var at latest
			stop := showProgress(cmd.ErrOrStderr(), quiet, at.transfers)
			defer stop()
			return withDaemon(cmd.Context(), t.root, configDir, func(d mounts) error { return d.Mount(cmd.Context(), m, at.set) })
		},
	}
	bindMountFlags(cmd, &t, &configDir)
	cmd.Flags().StringToStringVar(&attributes, "set", nil, "`attributes` of the volume: key=value,...")
	cmd.Flags().BoolVar(&login, "login", false, "use your own login at the registry")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "show no progress")
	return cmd
}

func newUnmountCommand() *cobra.Command {
	var t target
	var configDir string
	cmd := &cobra.Command{
		Use:     "unmount DIRECTORY",
		Aliases: []string{"umount"},
		Short:   "Take away what mount has mounted",
		Long: `Unmount a model that "model-csi mount" has mounted, and remove the then empty directory. The model stays in the cache until
space is needed. It needs root.`,
		Example: `  model-csi unmount /mnt/qwen3`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			directory, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			return withDaemon(cmd.Context(), t.root, configDir, func(d mounts) error { return d.Unmount(cmd.Context(), directory) })
		},
	}
	bindMountFlags(cmd, &t, &configDir)
	return cmd
}

func bindMountFlags(cmd *cobra.Command, t *target, configDir *string) {
	cmd.Flags().StringVar(&t.root, "root", defaultRoot, "state `directory`, with the cache")
	cmd.Flags().StringVar(configDir, "registry-config-dir", "", "`directory` of hosts.toml directories, for when no daemon runs")
}

// mounts is who mounts: a daemon, or this process in its place.
type mounts interface {
	Mount(ctx context.Context, m admin.Mount, report func(admin.Progress)) error
	Unmount(ctx context.Context, directory string) error
}

// withDaemon calls do with the daemon that has the state root, or with one of its kind that lives as long as the call.
func withDaemon(ctx context.Context, root, configDir string, do func(mounts) error) error {
	client := admin.NewClient(root)
	if _, err := client.Status(ctx); !errors.Is(err, model.ErrUnavailable) {
		return errors.Join(err, do(client))
	}
	c, err := config.Default()
	if err != nil {
		return err
	}
	c.Root, c.RegistryConfigDir, c.RegistrationDir = root, configDir, ""
	n, err := openNode(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return fmt.Errorf("no daemon runs for state root %s, and without one: %w", root, err)
	}
	return errors.Join(do(n), n.Close())
}
