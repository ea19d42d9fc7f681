package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/mount"
	"github.com/model-csi/model-csi/pkg/pull"
	"github.com/model-csi/model-csi/pkg/store"
)

const (
	// DefaultName is the CSI driver's name in PersistentVolumes and pods.
	DefaultName = "model.csi.cnai.io"
	// defaultPublishTimeout stays below the two minutes that kubelet gives a call. Waiting nearly as long keeps
	// kubelet's retries, whose pauses double each time, close to the end of the pull.
	defaultPublishTimeout = 110 * time.Second
	// answerTime is what remains of the caller's deadline to undo things and answer.
	answerTime         = 2 * time.Second
	defaultStopTimeout = 10 * time.Second
	// reconcileEvery finds leases of pods whose directories were removed without telling the driver. Nothing waits
	// for it: such a lease only keeps a model from being evicted.
	reconcileEvery = 5 * time.Minute
)

// Puller gets models; *pull.Puller is one.
type Puller interface {
	// Pull returns the tree of the model, all of whose blobs are in the store and stay there until the result is
	// released. When ctx ends first, the error wraps model.ErrPulling, tells the progress, and the work goes on.
	Pull(ctx context.Context, r pull.Request) (*pull.Result, error)
}

// Leases are the durable notes of what is published. PutLease is durable when it returns; dropping a lease that does
// not exist is no error.
type Leases interface {
	PutLease(l store.Lease) error
	Lease(volumeID, target string) (store.Lease, bool)
	Leases() []store.Lease
	DropLease(volumeID, target string) error
}

// Views are directories that show trees.
type Views interface {
	ViewPath(tree digest.Digest) string
	BlobPath(f model.File) (string, error)
	EnsureView(t model.Tree, build func(dir string) error) (path string, err error)
}

// Store is the part of the store that the driver uses; *store.Store is one.
type Store interface {
	Leases
	Views
}

// Options of a Driver. NodeID, Endpoint, Puller, Store and Mounter are required.
type Options struct {
	// Name of the CSI driver; DefaultName when empty.
	Name string
	// Version that GetPluginInfo reports; "unknown" when empty.
	Version string
	// NodeID is the name of the Kubernetes node.
	NodeID string
	// Endpoint is the path of the CSI socket, with or without unix:// in front.
	Endpoint string
	// RegistrationDir is kubelet's plugins_registry directory. Empty means that somebody else registers the driver.
	RegistrationDir string

	Puller  Puller
	Store   Store
	Mounter mount.Mounter
	// Keychain makes the keychain of one publish; what credential.ForPod makes of the caller's secrets when nil.
	Keychain func(credential.Caller) (model.Keychain, error)

	// PublishTimeout bounds how long one publish waits for a pull; 110 s when zero.
	PublishTimeout time.Duration
	// StopTimeout is how long calls in flight have to end after the driver was stopped; 10 s when zero.
	StopTimeout time.Duration
	// Logger defaults to slog.Default.
	Logger *slog.Logger
}

// Driver serves one CSI driver on one node. It is safe for concurrent use.
type Driver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer

	opts     Options
	log      *slog.Logger
	socket   string // path of Endpoint
	viewsDir string
	targets  keyedLock
	attempts *attempts

	reconciled atomic.Bool
	serving    atomic.Pointer[socket]
	registered atomic.Bool
}

// New checks the options. It touches nothing: Run does.
func New(o Options) (*Driver, error) {
	for name, missing := range map[string]bool{
		"node id": o.NodeID == "", "endpoint": o.Endpoint == "",
		"puller": o.Puller == nil, "store": o.Store == nil, "mounter": o.Mounter == nil,
	} {
		if missing {
			return nil, fmt.Errorf("CSI driver: no %s given: %w", name, model.ErrInvalid)
		}
	}
	if o.Name == "" {
		o.Name = DefaultName
	}
	if err := checkName(o.Name); err != nil {
		return nil, err
	}
	if o.Version == "" {
		o.Version = "unknown"
	}
	if o.Keychain == nil {
		o.Keychain = func(c credential.Caller) (model.Keychain, error) { return credential.ForPod(c.Secrets) }
	}
	if o.PublishTimeout <= 0 {
		o.PublishTimeout = defaultPublishTimeout
	}
	if o.StopTimeout <= 0 {
		o.StopTimeout = defaultStopTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	path, err := socketPath(o.Endpoint)
	if err != nil {
		return nil, err
	}
	if o.RegistrationDir != "" {
		if _, err := socketPath(registrationSocket(o.RegistrationDir, o.Name)); err != nil {
			return nil, err
		}
	}
	// The directory of all views is the one above any of them.
	views := filepath.Dir(o.Store.ViewPath(model.Tree(nil).Digest()))
	return &Driver{opts: o, log: o.Logger, socket: path, viewsDir: views, attempts: newAttempts()}, nil
}

// Run compares what was published before with what is mounted, serves CSI, and registers the driver with kubelet, until
// ctx ends or one of them fails. Mounts outlive it: pods keep reading while the driver is away. Calls in flight are told
// to come back and have StopTimeout to end. A clean stop returns nil. Run is called once.
func (d *Driver) Run(ctx context.Context) error {
	if err := checkRoot(d.viewsDir); err != nil {
		return err
	}
	d.reconcile(ctx)
	listener, err := listen(d.socket)
	if err != nil {
		return err
	}
	d.serving.Store(listener)
	d.reconciled.Store(true)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.serve(ctx, listener) })
	group.Go(func() error { return d.reconcileRegularly(ctx) })
	if d.opts.RegistrationDir != "" {
		group.Go(func() error { return d.register(ctx) })
	}
	err = group.Wait()
	d.serving.Store(nil)
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// checkRoot finds out at the start what would otherwise fail with every publish.
func checkRoot(viewsDir string) error {
	real, err := filepath.EvalSymlinks(viewsDir)
	if err != nil {
		return fmt.Errorf("directory of views: %w", err)
	}
	if real != viewsDir {
		return fmt.Errorf("state root: %s is really %s, and mounts are not made through symbolic links; give the path without them: %w", viewsDir, real, model.ErrInvalid)
	}
	return nil
}

func (d *Driver) reconcileRegularly(ctx context.Context) error {
	ticker := time.NewTicker(reconcileEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			d.reconcile(ctx)
		}
	}
}
