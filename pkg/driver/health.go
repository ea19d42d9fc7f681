package driver

import (
	"errors"
	"fmt"
	"net/http"
)

// Healthy says whether the driver can be called: its socket is served, and is where kubelet looks for it. A driver that
// is not healthy has to be started again.
func (d *Driver) Healthy() error {
	s := d.serving.Load()
	if s == nil {
		return errors.New("the CSI socket is not served")
	}
	if !s.present() {
		return fmt.Errorf("the CSI socket %s was removed or replaced", d.socket)
	}
	return nil
}

// Ready says whether pods can be started: the driver is healthy, and registered with kubelet where it registers itself.
func (d *Driver) Ready() error {
	if err := d.Healthy(); err != nil {
		return err
	}
	if d.opts.RegistrationDir != "" && !d.registered.Load() {
		return fmt.Errorf("kubelet has not registered %s yet; it looks for sockets in %s", d.opts.Name, d.opts.RegistrationDir)
	}
	return nil
}

// HealthHandler serves /healthz (Healthy) and /readyz (Ready): 200 and "ok", or 503 and the reason.
func (d *Driver) HealthHandler() http.Handler {
	mux := http.NewServeMux()
	for path, check := range map[string]func() error{"/healthz": d.Healthy, "/readyz": d.Ready} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("Cache-Control", "no-store")
			if err := check(); err != nil {
				w.WriteHeader(http.StatusServiceUnavailable)
				fmt.Fprintln(w, err)
				return
			}
			fmt.Fprintln(w, "ok")
		})
	}
	return mux
}
