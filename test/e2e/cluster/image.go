package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Image is a container image of one layer, made from files of this machine.
type Image struct {
	Name       string // with its tag; pods use it with imagePullPolicy Never
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
	WorkingDir string
	Files      []ImageFile
}

// ImageFile is a file, symlink or directory of an image. Its parents are made as needed.
type ImageFile struct {
	Path     string      // absolute
	Mode     os.FileMode // permission bits and os.ModeSticky; 0 is 0755
	Source   string      // a file of this machine
	Content  string      // instead of Source
	LinkTo   string      // a symlink instead
	Dir      bool
	UID, GID int
}

// BusyboxName is the name of the image of test pods: the one that the README's pod asks for.
const BusyboxName = "docker.io/library/busybox:1.37"

// Busybox is the image of test pods: a shell and the usual programs, sha256sum among them.
func Busybox(busybox string) Image {
	image := Image{
		Name: BusyboxName, Env: []string{"PATH=/bin"}, Cmd: []string{"sh"},
		Files: []ImageFile{
			{Path: "/bin/busybox", Source: busybox},
			{Path: "/tmp", Dir: true, Mode: 0o777 | os.ModeSticky},
			{Path: "/etc/passwd", Content: "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", Mode: 0o644},
		},
	}
	for name := range strings.FieldsSeq("sh ash cat chmod chown cp cut date dd df du echo env false find grep head id kill " +
		"ln ls mkdir mknod mount mv nc printf ps pwd readlink rm rmdir sed seq sha256sum sleep sort stat sync tail tee test " +
		"touch tr true umount uniq vi wc wget which xargs") {
		image.Files = append(image.Files, ImageFile{Path: "/bin/" + name, LinkTo: "busybox"})
	}
	return image
}

// pause is the sandbox image of pods. A program as first process ignores SIGTERM here; the runtime kills sandboxes.
func pause(busybox string) Image {
	return Image{
		Name: "model-csi.test/pause:e2e", Entrypoint: []string{"/busybox", "tail", "-f", "/dev/null"},
		Files: []ImageFile{{Path: "/busybox", Source: busybox}},
	}
}

// WriteTo writes the image in docker-archive form, as `docker save` does.
func (i Image) WriteTo(w io.Writer) (int64, error) {
	layer, err := i.layer()
	if err != nil {
		return 0, fmt.Errorf("assemble the image %s: %w", i.Name, err)
	}
	sum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": "2025-01-01T00:00:00Z",
		"config": map[string]any{
			"Entrypoint": i.Entrypoint, "Cmd": i.Cmd, "User": i.User, "Env": i.Env, "WorkingDir": i.WorkingDir,
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		return 0, err
	}
	id := sha256.Sum256(config)
	configName := hex.EncodeToString(id[:]) + ".json"
	manifest, err := json.Marshal([]map[string]any{
		{"Config": configName, "RepoTags": []string{i.Name}, "Layers": []string{"layer.tar"}},
	})
	if err != nil {
		return 0, err
	}
	counter := &countingWriter{w: w}
	out := tar.NewWriter(counter)
	for _, f := range []struct {
		name string
		data []byte
	}{{"layer.tar", layer}, {configName, config}, {"manifest.json", manifest}} {
		if err := writeTar(out, &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}, f.data); err != nil {
			return counter.n, err
		}
	}
	return counter.n, out.Close()
}

func (i Image) layer() ([]byte, error) {
	var buf bytes.Buffer
	out := tar.NewWriter(&buf)
	made := map[string]bool{"/": true}
	var parents func(string) error
	parents = func(dir string) error {
		if made[dir] {
			return nil
		}
		if err := parents(path.Dir(dir)); err != nil {
			return err
		}
		made[dir] = true
		return writeTar(out, &tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimPrefix(dir, "/") + "/", Mode: 0o755}, nil)
	}
	for _, f := range i.Files {
		if err := parents(path.Dir(f.Path)); err != nil {
			return nil, err
		}
		h := &tar.Header{Name: strings.TrimPrefix(f.Path, "/"), Mode: int64(f.Mode.Perm()), Uid: f.UID, Gid: f.GID}
		if f.Mode == 0 {
			h.Mode = 0o755
		}
		if f.Mode&os.ModeSticky != 0 {
			h.Mode |= 0o1000
		}
		data := []byte(f.Content)
		switch {
		case f.Dir:
			h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
			made[f.Path] = true
		case f.LinkTo != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f.LinkTo
		case f.Source != "":
			var err error
			if data, err = os.ReadFile(f.Source); err != nil {
				return nil, err
			}
		}
		h.Size = int64(len(data))
		if err := writeTar(out, h, data); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), out.Close()
}

func writeTar(out *tar.Writer, h *tar.Header, data []byte) error {
	h.ModTime = time.Unix(1735689600, 0) // the same bytes at every build
	if err := out.WriteHeader(h); err != nil {
		return err
	}
	_, err := out.Write(data)
	return err
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// LoadImage makes an image known to the node's container runtime and returns the size of its archive in bytes.
func (c *Cluster) LoadImage(ctx context.Context, i Image) (int64, error) {
	name := strings.NewReplacer("/", "_", ":", "_").Replace(i.Name) + ".tar"
	file := filepath.Join(c.run, name)
	f, err := os.Create(file)
	if err != nil {
		return 0, err
	}
	defer os.Remove(file)
	defer f.Close()
	size, err := i.WriteTo(f)
	if err != nil {
		return 0, err
	}
	_, err = c.node.exec(ctx, nodeBin+"/ctr", "-n", "k8s.io", "images", "import", filepath.Join(nodeRun, name))
	return size, err
}
