package driver

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	// csiVersion is the version of the CSI protocol as kubelet compares it: it supports everything from 1.0 on.
	csiVersion = "1.0.0"
	// registrationPoll is how often the registration socket is looked at. A look is one system call.
	registrationPoll = 2 * time.Second
)

func registrationSocket(dir, driver string) string { return filepath.Join(dir, driver+"-reg.sock") }

// register keeps a registration socket in kubelet's directory until ctx ends. Kubelet finds it there, also when kubelet
// itself was restarted. When the socket disappears, because somebody emptied the directory, it is made again.
func (d *Driver) register(ctx context.Context) error {
	path := registrationSocket(d.opts.RegistrationDir, d.opts.Name)
	for ctx.Err() == nil {
		s, err := listen(path)
		if err != nil {
			return err
		}
		if err := d.serveRegistration(ctx, s); err != nil {
			return err
		}
		if ctx.Err() == nil {
			d.log.Warn("registration socket disappeared and is made again", "socket", path)
		}
	}
	return nil
}

// serveRegistration answers kubelet until ctx ends or the socket's file is not ours any more.
func (d *Driver) serveRegistration(ctx context.Context, s *socket) error {
	present, gone := context.WithCancel(ctx)
	defer gone()
	server := d.newServer(present)
	registerapi.RegisterRegistrationServer(server, &registration{driver: d})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		defer gone()
		ticker := time.NewTicker(registrationPoll)
		defer ticker.Stop()
		for s.present() {
			select {
			case <-present.Done():
				return
			case <-ticker.C:
			}
		}
	}()
	err := runServer(present, server, s, d.opts.StopTimeout)
	gone()
	<-watched
	d.registered.Store(false)
	return err
}

// registration answers kubelet's plugin manager.
type registration struct {
	registerapi.UnimplementedRegistrationServer
	driver *Driver
}

// GetInfo implements registerapi.RegistrationServer.
func (r *registration) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return &registerapi.PluginInfo{
		Type:              registerapi.CSIPlugin,
		Name:              r.driver.opts.Name,
		Endpoint:          r.driver.socket,
		SupportedVersions: []string{csiVersion},
	}, nil
}

// NotifyRegistrationStatus implements registerapi.RegistrationServer. Kubelet tries a failed registration again by
// itself.
func (r *registration) NotifyRegistrationStatus(ctx context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	r.driver.registered.Store(s.GetPluginRegistered())
	if s.GetPluginRegistered() {
		r.driver.log.InfoContext(ctx, "registered with kubelet", "driver", r.driver.opts.Name)
	} else {
		r.driver.log.LogAttrs(ctx, slog.LevelError, "kubelet refused the registration",
			slog.String("driver", r.driver.opts.Name), slog.String("error", message(s.GetError())))
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}
