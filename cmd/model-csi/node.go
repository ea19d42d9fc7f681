//go:build linux

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
	"github.com/model-csi/model-csi/pkg/grant"
	"github.com/model-csi/model-csi/pkg/ingest"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/mount"
	"github.com/model-csi/model-csi/pkg/policy"
	"github.com/model-csi/model-csi/pkg/pull"
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
	config  config.Config
	log     *slog.Logger
	store   *store.Store
	grants  *grant.Ledger
	puller  *pull.Puller
	driver  *driver.Driver
	metrics *telemetry.Metrics
	// keychain is what a caller may use, by who it is.
	keychain func(credential.Caller) (model.Keychain, error)
	// mirrors has the node's credentials for mirrors; nil means none.
	mirrors model.Keychain
	// policy is the operator's; nil without one.
	policy *policy.File
}

func runNode(ctx context.Context, c config.Config, stderr io.Writer) (err error) {
	n, err := openNode(c, newLogger(c, stderr))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	return n.serve(ctx)
}

// openNode puts together all that the daemon consists of, and serves nothing yet. Close ends it.
func openNode(c config.Config, log *slog.Logger) (_ *node, err error) {
	// Credentials pass through this process: no core file, and no other process may look into it.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("forbid core files: %w", err)
	}
	n := &node{config: c, log: log}
	credentials, err := newSources(c, n.log)
	if err != nil {
		return nil, err
	}
	n.keychain, n.mirrors = credentials.keychain, credentials.node
	n.policy = openPolicy(c, n.log)
	mounter := mount.New()
	n.store, err = store.Open(c.Root, store.Options{
		Policy: store.Policy{ReservePercent: c.CacheReserve.Percent, ReserveBytes: int64(c.CacheReserve.Bytes), MaxBytes: int64(c.CacheLimit)},
		InUse: func() (map[digest.Digest]bool, error) {
			return driver.MountedViews(mounter, filepath.Join(c.Root, store.ViewsDir))
		},
		Logger: n.log,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if n.grants, err = grant.Open(c.Root, grant.Options{TTL: c.GrantTTL, Grace: c.GrantGrace}); err != nil {
		return nil, err
	}
	sources := telemetry.Sources{
		Pulls:   func() []pull.Progress { return n.puller.Running() },
		Volumes: func() int { return len(n.store.Leases()) },
	}
	if n.policy != nil {
		sources.PolicyCurrent = func() bool { return n.policy.Err() == nil }
	}
	n.metrics = telemetry.NewMetrics(buildVersion(), sources)
	if n.puller, err = n.newPuller(n.metrics); err != nil {
		return nil, err
	}
	n.driver, err = driver.New(driver.Options{
		Name: c.DriverName, Version: buildVersion(), NodeID: c.NodeID,
		Endpoint: c.Endpoint, RegistrationDir: c.RegistrationDir,
		Puller: n.puller, Store: n.store, Mounter: mounter,
		Keychain: n.keychain, Logger: n.log,
	})
	return n, err
}

// Close ends the pulls and gives the state root back. What was mounted stays.
func (n *node) Close() error {
	if n.puller != nil {
		n.puller.Close()
	}
	return n.store.Close()
}

func (n *node) newPuller(o pull.Observer) (*pull.Puller, error) {
	from, err := newModelSources(sourceOptions{
		configDir: n.config.RegistryConfigDir, hubEndpoint: n.config.HubEndpoint, modelRegistryURL: n.config.ModelRegistryURL,
		blockedAddresses: n.config.BlockedAddresses, maxManifest: int64(n.config.MaxManifestSize), mirrors: n.mirrors,
		proxies: registry.Proxies{HTTPS: n.config.HTTPSProxy, HTTP: n.config.HTTPProxy, NoProxy: n.config.NoProxy},
	}, n.log)
	if err != nil {
		return nil, err
	}
	engine := ingest.New(ingest.Options{
		Memory: int64(n.config.MemoryBudget), Connections: n.config.ConnectionsPerHost,
		Limits: ingest.Limits{Members: n.config.MaxFiles, Bytes: int64(n.config.MaxModelSize), Ratio: int64(n.config.MaxArchiveRatio)},
		Logger: n.log,
	})
	var operator pull.Rules
	if n.policy != nil {
		// The operator's model registry, if there is one, can be named with and without its host.
		if own, err := from.resolvers[model.SchemeModelRegistry].Complete(model.Ref{Scheme: model.SchemeModelRegistry}); err == nil {
			n.policy.ShortNames(own.Registry)
		}
		operator = rules{file: n.policy, capacity: n.store.Capacity, log: n.log}
	}
	return pull.New(pull.Options{
		Source: from.mux, Resolvers: from.resolvers, Store: n.store, Engine: engine, Grants: n.grants,
		WriteMode: pull.WriteMode(n.config.WriteMode), Linger: n.config.PullLinger, MaxModelSize: int64(n.config.MaxModelSize), MaxFiles: n.config.MaxFiles,
		Logger: n.log, Observer: o, Rules: operator,
	}), nil
}

func newLogger(c config.Config, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == config.LogJSON {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// serve runs everything until ctx ends or something fails.
func (n *node) serve(ctx context.Context) error {
	n.log.Info("starting", "version", buildVersion(), "driver", n.config.DriverName, "node", n.config.NodeID,
		"root", n.config.Root, "endpoint", n.config.Endpoint)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.driver.Run(ctx) })
	group.Go(func() error { return admin.NewServer(n.config.Root, n, n.log).Run(ctx) })
	group.Go(func() error { return n.relieve(ctx) })
	if n.policy != nil {
		group.Go(func() error { return n.policy.Run(ctx) })
	}
	if n.config.HTTPAddress != "" {
		group.Go(func() error { return n.metrics.Serve(ctx, n.config.HTTPAddress, n.driver.HealthHandler(), n.log) })
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
