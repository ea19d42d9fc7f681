package driver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/model-csi/model-csi/pkg/model"
)

// run starts the driver and waits until it answers. stop ends it and returns what Run returned.
func (e *env) run() (conn *grpc.ClientConn, stop func() error) {
	e.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stopped := false
	stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		return <-done
	}
	e.t.Cleanup(func() { _ = stop() })
	conn = dial(e.t, e.socket)
	eventually(e.t, func() bool {
		r, err := csi.NewIdentityClient(conn).Probe(e.t.Context(), &csi.ProbeRequest{}, grpc.WaitForReady(true))
		return err == nil && r.GetReady().GetValue()
	})
	return conn, stop
}

func dial(t *testing.T, path string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func eventually(t *testing.T, what func() bool) {
	t.Helper()
	for range 6000 {
		if what() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("it does not come true")
}

func TestServe(t *testing.T) {
	e := newEnv(t)
	conn, stop := e.run()
	identity, node := csi.NewIdentityClient(conn), csi.NewNodeClient(conn)
	info, err := identity.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	if err != nil || info.GetName() != DefaultName || info.GetVendorVersion() != "v1.2.3" {
		t.Errorf("plugin info %v, %v", info, err)
	}
	if c, err := identity.GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{}); err != nil || len(c.GetCapabilities()) != 0 {
		t.Errorf("plugin capabilities %v, %v", c, err)
	}
	if n, err := node.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{}); err != nil || n.GetNodeId() != "node-1" || n.GetMaxVolumesPerNode() != 0 {
		t.Errorf("node info %v, %v", n, err)
	}
	if h, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || h.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health %v, %v", h, err)
	}
	r := e.request()
	r.Secrets = map[string]string{"username": "user", "password": canary}
	_, err = node.NodePublishVolume(t.Context(), r)
	must(t, err)
	r.VolumeContext["exec"] = "true"
	_, err = node.NodePublishVolume(t.Context(), r)
	wantCode(t, err, codes.AlreadyExists)
	_, err = node.NodeStageVolume(t.Context(), &csi.NodeStageVolumeRequest{Secrets: r.GetSecrets()})
	wantCode(t, err, codes.Unimplemented)
	must(t, stop())
	if !e.mounted().Mounted {
		t.Error("stopping took a mount away")
	}
	if _, err := os.Lstat(e.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	log := e.log.String()
	if strings.Contains(log, canary) {
		t.Error("the log shows a secret")
	}
	for _, want := range []string{"NodePublishVolume", "csi-0123", testReference, "AlreadyExists"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q", want)
		}
	}
}

func TestPanicIsAnsweredAndLogged(t *testing.T) {
	e := newEnv(t)
	e.puller.onPull(func(context.Context) error { panic("canary of a panic") })
	conn, _ := e.run()
	_, err := csi.NewNodeClient(conn).NodePublishVolume(t.Context(), e.request())
	wantCode(t, err, codes.Internal)
	if strings.Contains(fmt.Sprint(err), "canary") {
		t.Errorf("the answer shows the panic: %v", err)
	}
	if log := e.log.String(); !strings.Contains(log, "canary of a panic") || !strings.Contains(log, "publish.go") {
		t.Errorf("the log lacks the panic or its stack: %s", log)
	}
	e.checkNothingLeft()
	e.puller.onPull(nil)
	must(t, e.publish(e.request())) // no lock is left either
}

func TestStopTellsCallsToComeBack(t *testing.T) {
	e := newEnv(t)
	pulling := make(chan struct{})
	e.puller.onPull(func(ctx context.Context) error {
		close(pulling)
		<-ctx.Done()
		return context.Cause(ctx)
	})
	conn, stop := e.run()
	answer := make(chan error, 1)
	go func() {
		_, err := csi.NewNodeClient(conn).NodePublishVolume(context.Background(), e.request())
		answer <- err
	}()
	<-pulling
	must(t, stop())
	err := <-answer
	wantCode(t, err, codes.Unavailable)
	if !strings.Contains(status.Convert(err).Message(), "stopping") {
		t.Errorf("answer %v does not say why", err)
	}
	e.checkNothingLeft()
}

func TestStopDoesNotWaitForever(t *testing.T) {
	resume := make(chan struct{})
	e := newEnv(t, func(o *Options) { o.StopTimeout = 50 * time.Millisecond })
	pulling := make(chan struct{})
	e.puller.onPull(func(context.Context) error {
		close(pulling)
		<-resume // deaf to its context
		return nil
	})
	conn, stop := e.run()
	answer := make(chan error, 1)
	go func() {
		_, err := csi.NewNodeClient(conn).NodePublishVolume(context.Background(), e.request())
		answer <- err
	}()
	<-pulling
	start := time.Now()
	must(t, stop())
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("stopping took %s", took)
	}
	close(resume)
	if err := <-answer; err == nil {
		t.Error("a call was answered after the end")
	}
	eventually(t, func() bool { return !e.mounted().Mounted && len(e.store.Leases()) == 0 })
}

func TestRunRefusesASecondDriver(t *testing.T) {
	e := newEnv(t)
	e.run()
	second, err := New(e.opts)
	must(t, err)
	if err := second.Run(t.Context()); !errors.Is(err, model.ErrConflict) {
		t.Errorf("second driver on one socket: %v", err)
	}
}

func TestRunRefusesARootBehindALink(t *testing.T) {
	e := newEnv(t)
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(e.store.root, link))
	e.store.root = link
	d, err := New(e.opts)
	must(t, err)
	if err := d.Run(t.Context()); !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), "symbolic links") {
		t.Errorf("state root behind a link: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	good := newEnv(t).opts
	for name, spoil := range map[string]func(*Options){
		"no node id":             func(o *Options) { o.NodeID = "" },
		"no endpoint":            func(o *Options) { o.Endpoint = "" },
		"tcp":                    func(o *Options) { o.Endpoint = "tcp://0.0.0.0:1" },
		"no puller":              func(o *Options) { o.Puller = nil },
		"no store":               func(o *Options) { o.Store = nil },
		"no mounter":             func(o *Options) { o.Mounter = nil },
		"name with slash":        func(o *Options) { o.Name = "a/b" },
		"long name":              func(o *Options) { o.Name = strings.Repeat("a", 64) },
		"relative registration":  func(o *Options) { o.RegistrationDir = "plugins_registry" },
		"registration too long ": func(o *Options) { o.RegistrationDir = "/" + strings.Repeat("x", 90) },
	} {
		o := good
		spoil(&o)
		if _, err := New(o); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func withRegistration(t *testing.T) (dir string, option func(*Options)) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "reg")
	return dir, func(o *Options) { o.RegistrationDir = dir }
}

func TestRegistration(t *testing.T) {
	dir, option := withRegistration(t)
	e := newEnv(t, option)
	_, stop := e.run()
	path := filepath.Join(dir, DefaultName+"-reg.sock")
	client := registerapi.NewRegistrationClient(dial(t, path))
	info, err := client.GetInfo(t.Context(), &registerapi.InfoRequest{}, grpc.WaitForReady(true))
	must(t, err)
	if info.GetType() != "CSIPlugin" || info.GetName() != DefaultName || info.GetEndpoint() != e.socket ||
		len(info.GetSupportedVersions()) != 1 || info.GetSupportedVersions()[0] != "1.0.0" {
		t.Errorf("info: %v", info)
	}
	if err := e.Ready(); err == nil {
		t.Error("ready before kubelet has registered the driver")
	}
	_, err = client.NotifyRegistrationStatus(t.Context(), &registerapi.RegistrationStatus{Error: "the cause\nof it"})
	must(t, err)
	eventually(t, func() bool { return strings.Contains(e.log.String(), "the cause of it") })
	if err := e.Ready(); err == nil {
		t.Error("ready after kubelet refused the driver")
	}
	_, err = client.NotifyRegistrationStatus(t.Context(), &registerapi.RegistrationStatus{PluginRegistered: true})
	must(t, err)
	must(t, e.Ready())
	must(t, stop())
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the registration socket is left: %v", err)
	}
}

func TestRegistrationSocketComesBack(t *testing.T) {
	dir, option := withRegistration(t)
	e := newEnv(t, option)
	e.run()
	path := filepath.Join(dir, DefaultName+"-reg.sock")
	eventually(t, func() bool { _, err := os.Lstat(path); return err == nil })
	for _, remove := range []func() error{
		func() error { return os.Remove(path) },
		func() error { return os.RemoveAll(dir) },
	} {
		must(t, remove())
		eventually(t, func() bool { _, err := os.Lstat(path); return err == nil })
		client := registerapi.NewRegistrationClient(dial(t, path))
		_, err := client.GetInfo(t.Context(), &registerapi.InfoRequest{}, grpc.WaitForReady(true))
		must(t, err)
	}
}

func TestHealthHandler(t *testing.T) {
	e := newEnv(t)
	get := func(path string) (int, string) {
		t.Helper()
		w := httptest.NewRecorder()
		e.HealthHandler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String()
	}
	check := func(want int, text string) {
		t.Helper()
		for _, path := range []string{"/healthz", "/readyz"} {
			if code, body := get(path); code != want || !strings.Contains(body, text) {
				t.Errorf("%s: %d %q, want %d %q", path, code, body, want, text)
			}
		}
	}
	check(http.StatusServiceUnavailable, "not served")
	_, stop := e.run()
	check(http.StatusOK, "ok")
	must(t, os.Remove(e.socket))
	check(http.StatusServiceUnavailable, "was removed")
	must(t, stop())
	check(http.StatusServiceUnavailable, "not served")
	if code, _ := get("/other"); code != http.StatusNotFound {
		t.Errorf("/other: %d", code)
	}
}
