// Package serve runs HTTP servers that end with a context.
package serve

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"
)

const (
	// stopTimeout is how long running requests may take when the server is stopped.
	stopTimeout = 5 * time.Second
	// headerTimeout is how long a client may take to say what it wants.
	headerTimeout = 5 * time.Second
)

// HTTP serves on the listener until ctx ends, then lets running requests finish for a moment. It closes the listener.
func HTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	server := &http.Server{Handler: h, ReadHeaderTimeout: headerTimeout}
	serving, end := context.WithCancel(ctx)
	stopped := make(chan error, 1)
	go func() {
		<-serving.Done()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		stopped <- server.Shutdown(stop)
	}()
	err := server.Serve(l)
	end() // also when serving failed, so that the goroutine ends
	if shutdown := <-stopped; errors.Is(err, http.ErrServerClosed) {
		return shutdown
	}
	return err
}
