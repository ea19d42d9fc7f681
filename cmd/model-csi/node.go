package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/admin"
	"github.com/model-csi/model-csi/pkg/config"
	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/driver"
	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/grant"
	"github.com/model-csi/model-csi/pkg/ingest"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/mount"
	"github.com/model-csi/model-csi/pkg/pull"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/registry"
	"github.com/model-csi/model-csi/pkg/store"
	"github.com/model-csi/model-csi/pkg/telemetry"
)

func newNodeCommand() *cobra.Command {
	var flags *config.Flags
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run the CSI node plugin",
		Long: `Run the CSI node plugin in the foreground: it serves the Container Storage Interface on a socket, registers itself with
kubelet, pulls models and mounts them. It logs to standard error and ends on SIGTERM; mounts stay as they are, and pulls
go on when it is back. It needs root.`,
		Example: `  # as in the Helm chart
  model-csi node --config /etc/model-csi/config.yaml

  # by hand
  model-csi node --endpoint unix:///run/model-csi/csi.sock --root /var/lib/model-csi --node-id $(hostname)`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := flags.Config()
			if err != nil {
				return err
			}
			return runNode(cmd.Context(), c, cmd.ErrOrStderr())
		},
	}
	flags = config.Bind(cmd.Flags())
	return cmd
}

// node is the running daemon.
type node struct {
	config config.Config
	log    *slog.Logger
	store  *store.Store
	grants *grant.Ledger
	puller *pull.Puller
	driver *driver.Driver
}

func runNode(ctx context.Context, c config.Config, stderr io.Writer) (err error) {
	// Credentials pass through this process: no core file, and no other process may look into it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	n := &node{config: c, log: newLogger(c, stderr)}
	mounter := mount.New()
	n.store, err = store.Open(c.Root, store.Options{
		Policy: store.Policy{ReservePercent: c.CacheReserve.Percent, ReserveBytes: int64(c.CacheReserve.Bytes), MaxBytes: int64(c.CacheLimit)},
		InUse: func() (map[digest.Digest]bool, error) {
			return driver.MountedViews(mounter, filepath.Join(c.Root, store.ViewsDir))
		},
		Logger: n.log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.store.Close()) }()
	if n.grants, err = grant.Open(c.Root, grant.Options{TTL: c.GrantTTL, Grace: c.GrantGrace}); err != nil {
		return err
	}
	var puller *pull.Puller
	metrics := telemetry.NewMetrics(buildVersion(), telemetry.Sources{
		Pulls:   func() []pull.Progress { return puller.Running() },
		Volumes: func() int { return len(n.store.Leases()) },
	})
	if puller, err = n.newPuller(metrics); err != nil {
		return err
	}
	n.puller = puller
	defer puller.Close()
	n.driver, err = driver.New(driver.Options{
		Name: c.DriverName, Version: buildVersion(), NodeID: c.NodeID,
		Endpoint: c.Endpoint, RegistrationDir: c.RegistrationDir,
		Puller: puller, Store: n.store, Mounter: mounter,
		Keychain: keychain(c), Logger: n.log,
	})
	if err != nil {
		return err
	}
	return n.serve(ctx, metrics)
}

func (n *node) newPuller(o pull.Observer) (*pull.Puller, error) {
	registries, err := registry.New(registry.Options{
		ConfigDir: n.config.RegistryConfigDir, Select: selectManifest,
		UserAgent: "model-csi/" + buildVersion(), Logger: n.log,
	})
	if err != nil {
		return nil, err
	}
	engine := ingest.New(ingest.Options{
		Memory: int64(n.config.MemoryBudget), Connections: n.config.ConnectionsPerHost,
		Limits: ingest.Limits{Members: n.config.MaxFiles, Bytes: int64(n.config.MaxModelSize)},
		Logger: n.log,
	})
	return pull.New(pull.Options{
		Source: source.Mux{model.SchemeOCI: registries}, Store: n.store, Engine: engine, Grants: n.grants,
		Linger: n.config.PullLinger, MaxModelSize: int64(n.config.MaxModelSize), MaxFiles: n.config.MaxFiles,
		Logger: n.log, Observer: o,
	}), nil
}

// selectManifest lets the formats choose from an index on behalf of the registry.
func selectManifest(index []byte, platform string) (source.Choice, error) {
	c, err := format.Select(index, "", platform)
	return source.Choice{Digest: c.Digest, Size: c.Size, MediaType: c.MediaType}, err
}

// keychain asks the pod's secret first and the operator's file last.
func keychain(c config.Config) func(map[string]string) (model.Keychain, error) {
	return func(secrets map[string]string) (model.Keychain, error) {
		pod, err := credential.ForPod(secrets)
		if err != nil || c.DockerConfig == "" {
			return pod, err
		}
		return credential.Chain(pod, credential.FromDockerConfig(c.DockerConfig)), nil
	}
}

func newLogger(c config.Config, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == config.LogJSON {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// serve runs everything until ctx ends or something fails.
func (n *node) serve(ctx context.Context, metrics *telemetry.Metrics) error {
	n.log.Info("starting", "version", buildVersion(), "driver", n.config.DriverName, "node", n.config.NodeID,
		"root", n.config.Root, "endpoint", n.config.Endpoint)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.driver.Run(ctx) })
	group.Go(func() error { return admin.NewServer(n.config.Root, n, n.log).Run(ctx) })
	group.Go(func() error { return n.relieve(ctx) })
	if n.config.HTTPAddress != "" {
		group.Go(func() error { return metrics.Serve(ctx, n.config.HTTPAddress, n.driver.HealthHandler(), n.log) })
	}
	err := group.Wait()
	n.log.Info("stopped", "error", err)
	return err
}

// relieveEvery is how often the free space is looked at; a look is one system call.
const relieveEvery = 30 * time.Second

func (n *node) relieve(ctx context.Context) error {
	tick := time.NewTicker(relieveEvery)
	defer tick.Stop()
	for {
		if _, err := n.store.Relieve(ctx); err != nil && ctx.Err() == nil {
			n.log.Error("eviction failed", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Status implements admin.Daemon.
func (n *node) Status() (admin.Status, error) {
	usage, err := n.store.Usage()
	return admin.Status{
		Version: buildVersion(), Node: n.config.NodeID, Cache: usage,
		Volumes: n.store.Leases(), Pulls: n.puller.Running(), Grants: n.grants.Len(),
	}, err
}

// Evict implements admin.Daemon.
func (n *node) Evict(ctx context.Context, want store.Room) (store.Evicted, error) {
	return n.store.Evict(ctx, want)
}
