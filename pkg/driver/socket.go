package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/model"
)

const (
	// maxSocketPath is what fits into struct sockaddr_un, with the zero at its end.
	maxSocketPath = 107
	// socketDialTimeout is for finding out whether somebody listens on a socket.
	socketDialTimeout = time.Second
)

// socketPath reads an endpoint: unix:///path, unix:/path or a bare path.
func socketPath(endpoint string) (string, error) {
	path := endpoint
	if scheme, rest, ok := strings.Cut(endpoint, ":"); ok && !strings.HasPrefix(endpoint, "/") {
		if scheme != "unix" {
			return "", fmt.Errorf("endpoint %q: only unix sockets are served, write unix:///path/csi.sock: %w", endpoint, model.ErrInvalid)
		}
		path = strings.TrimPrefix(rest, "//")
	}
	switch {
	case !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" || strings.ContainsRune(path, 0):
		// This refuses abstract sockets too, which have no permissions.
		return "", fmt.Errorf("endpoint %q must be an absolute, clean path of a file, as in unix:///path/csi.sock: %w", endpoint, model.ErrInvalid)
	case len(path)+len(unfinished("")) > maxSocketPath:
		return "", fmt.Errorf("endpoint %q is longer than the %d bytes that a socket's path can have here: %w", endpoint, maxSocketPath-len(unfinished("")), model.ErrInvalid)
	}
	return path, nil
}

// unfinished is the name of a socket until it has its permissions. Kubelet ignores names that start with a dot.
func unfinished(path string) string {
	dir, base := filepath.Split(path)
	return dir + ".~" + base
}

// socket is a listening unix socket with a file.
type socket struct {
	net.Listener
	path string
	file os.FileInfo
}

// listen serves on the path: the socket has mode 0600 from the moment it is there, directories that are made for it have
// 0700, and what a process left behind that is gone is replaced. It fails with model.ErrConflict when somebody listens
// there, or when what is there is no socket.
func listen(path string) (*socket, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("directory of socket: %w", err)
	}
	aside := unfinished(path)
	for _, p := range []string{path, aside} {
		if err := checkStale(p); err != nil {
			return nil, err
		}
	}
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: aside, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	// Close must not remove what the next process put there in our place.
	l.SetUnlinkOnClose(false)
	s := &socket{Listener: l, path: path}
	if err = os.Chmod(aside, 0o600); err == nil {
		err = os.Rename(aside, path)
	}
	if err == nil {
		s.file, err = os.Lstat(path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("socket %s: %w", path, err), l.Close())
	}
	return s, nil
}

// checkStale accepts a path that is free, or holds a socket on which nobody listens.
func checkStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket; move it away: %w", path, model.ErrConflict)
	}
	conn, err := net.DialTimeout("unix", path, socketDialTimeout)
	if err == nil {
		return errors.Join(fmt.Errorf("another process serves on %s: %w", path, model.ErrConflict), conn.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("socket %s: %w", path, err)
	}
	return nil
}

// present reports whether the file is still there and ours.
func (s *socket) present() bool {
	info, err := os.Lstat(s.path)
	return err == nil && os.SameFile(info, s.file)
}

// Close stops listening and removes the file if it is ours.
func (s *socket) Close() error {
	err := s.Listener.Close()
	if s.present() {
		err = errors.Join(err, os.Remove(s.path))
	}
	return err
}
