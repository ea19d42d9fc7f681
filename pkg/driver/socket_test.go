package driver

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestSocketPath(t *testing.T) {
	for endpoint, want := range map[string]string{
		"unix:///run/csi.sock":         "/run/csi.sock",
		"unix:/run/csi.sock":           "/run/csi.sock",
		"/run/csi.sock":                "/run/csi.sock",
		"/run/with:colon.sock":         "/run/with:colon.sock",
		"":                             "",
		"csi.sock":                     "",
		"unix://csi.sock":              "",
		"unix://@abstract":             "",
		"@abstract":                    "",
		"unix:///run/../x":             "",
		"unix:////run/x":               "",
		"unix:///run/":                 "",
		"unix:///":                     "",
		"tcp://127.0.0.1:10000":        "",
		"/run/a\x00b":                  "",
		"/" + strings.Repeat("x", 107): "",
	} {
		got, err := socketPath(endpoint)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("socketPath(%q) = %q, %v; want %q", endpoint, got, err, want)
		}
		if err != nil && !errors.Is(err, model.ErrInvalid) {
			t.Errorf("socketPath(%q): %v is not of its kind", endpoint, err)
		}
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "dir", "csi.sock")
	s, err := listen(path)
	must(t, err)
	for p, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %s", p, info.Mode(), err, want)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("entries %v, %v; want the socket alone", entries, err)
	}
	if _, err := listen(path); !errors.Is(err, model.ErrConflict) {
		t.Errorf("listening where somebody listens: %v", err)
	}
	if !s.present() {
		t.Error("the refused attempt took the socket away")
	}
	must(t, s.Close())
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestListenReplacesStaleSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "csi.sock")
	for _, p := range []string{path, unfinished(path)} {
		old, err := net.ListenUnix("unix", &net.UnixAddr{Name: p})
		must(t, err)
		old.SetUnlinkOnClose(false) // as after kill -9
		must(t, old.Close())
	}
	s, err := listen(path)
	must(t, err)
	conn, err := net.Dial("unix", path)
	must(t, err)
	must(t, conn.Close())
	must(t, s.Close())
}

func TestListenLeavesOtherFilesAlone(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	must(t, os.WriteFile(file, []byte("precious"), 0o600))
	must(t, os.Symlink(file, link))
	must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o700))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	for _, name := range []string{"file", "link", "dir", "fifo"} {
		if _, err := listen(filepath.Join(dir, name)); !errors.Is(err, model.ErrConflict) {
			t.Errorf("listening on a %s: %v", name, err)
		}
	}
	if content, err := os.ReadFile(file); err != nil || string(content) != "precious" {
		t.Errorf("the file: %q, %v", content, err)
	}
}

// The next process has put its socket where ours was; ours must not remove it on the way out.
func TestCloseLeavesTheNextSocketAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "csi.sock")
	first, err := listen(path)
	must(t, err)
	must(t, os.Remove(path))
	second, err := listen(path)
	must(t, err)
	if first.present() {
		t.Error("the first takes the second's socket for its own")
	}
	must(t, first.Close())
	if !second.present() {
		t.Error("closing the first removed the second's socket")
	}
	must(t, second.Close())
}
