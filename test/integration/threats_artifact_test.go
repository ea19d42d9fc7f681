package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

// The corpus holds artifacts of every kind that is meant to do harm: each is refused with the right code, or shows exactly
// the tree that is harmless, and nothing around the state root is created, changed or read.

func TestThreatTraversal(t *testing.T)         { t.Parallel(); hostileArtifacts(t, artifact.Traversal) }
func TestThreatLinks(t *testing.T)             { t.Parallel(); hostileArtifacts(t, artifact.Links) }
func TestThreatSpecialFiles(t *testing.T)      { t.Parallel(); hostileArtifacts(t, artifact.SpecialFiles) }
func TestThreatBombs(t *testing.T)             { t.Parallel(); hostileArtifacts(t, artifact.Bombs) }
func TestThreatDigests(t *testing.T)           { t.Parallel(); hostileArtifacts(t, artifact.Digests) }
func TestThreatManifestConfusion(t *testing.T) { t.Parallel(); hostileArtifacts(t, artifact.Confusion) }

func hostileArtifacts(t *testing.T, attack artifact.Attack) {
	t.Helper()
	w := newWorld(t, registry.Options{}, "--max-files", "2000", "--pull-linger", "1s")
	outside := filepath.Join(w.dir, "outside")
	sentinel := filepath.Join(outside, "secret")
	if err := os.MkdirAll(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sentinel, []byte("not for readers"), 0o600); err != nil {
		t.Fatal(err)
	}
	// A time of access before that of change is renewed by any reader, whatever the mount's options are but noatime.
	if err := os.Chtimes(sentinel, time.Now().Add(-time.Hour), time.Now()); err != nil {
		t.Fatal(err)
	}
	corpus := artifact.Corpus(outside)[attack]
	if len(corpus) == 0 {
		t.Fatal("there is no such attack")
	}
	tiny, _ := w.push("m/tiny", artifact.TinyModel(0), artifact.Options{})
	w.mustPublish(volume("csi-honest", tiny)) // from here on the root has all it will have
	w.mustUnpublish("csi-honest")
	if err := w.node.RemovePod("csi-honest"); err != nil {
		t.Fatal(err)
	}
	before := surroundings(t, w)
	hosts := func(name string) bool { return name == "/etc/hosts" } // another test covers it with its own
	etc := snapshot(t, "/etc", hosts)
	client := artifact.NewClient(w.registry.Host(), "m/hostile", "", "")
	for i, h := range corpus {
		reference := fmt.Sprintf("%s/m/hostile:v%d", w.registry.Host(), i)
		body, mediaType := hostileBody(t, client, h)
		w.registry.SetManifest("m/hostile", fmt.Sprintf("v%d", i), mediaType, body)
		id := fmt.Sprintf("csi-%d", i)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		began := time.Now()
		err := w.node.Publish(ctx, volume(id, reference))
		cancel()
		if took := time.Since(began); took > 2*time.Minute {
			t.Errorf("%s: the answer took %s", h.Name, took)
		}
		judgeArtifact(t, w, h, id, reference, err)
		if err := w.node.Unpublish(t.Context(), id); err != nil {
			t.Errorf("%s: %v", h.Name, err)
		}
		if err := w.node.RemovePod(id); err != nil {
			t.Error(err)
		}
		if after := surroundings(t, w); !maps.Equal(before, after) {
			t.Errorf("%s: around the root there was\n%v\nnow\n%v", h.Name, before, after)
			before = after
		}
	}
	if after := snapshot(t, "/etc", hosts); !maps.Equal(etc, after) {
		t.Error("something in /etc is not as it was")
	}
	t.Logf("%d hostile artifacts", len(corpus))
	w.blobs()
	w.ingested("*")
	if peak, err := w.node.PeakRSS(); err != nil || peak > 1<<30 {
		t.Errorf("the daemon had %d MiB resident (%v)", peak>>20, err)
	}
	shows(t, w.mustPublish(volume("csi-honest", tiny)), artifact.TinyModel(0))
	w.mustUnpublish("csi-honest")
}

// hostileBody pushes the layers, which have the right digests, and makes the manifest.
func hostileBody(t *testing.T, client *artifact.Client, h artifact.Hostile) (body []byte, mediaType string) {
	t.Helper()
	if h.Manifest != nil {
		return h.Manifest, ocispec.MediaTypeImageManifest
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.cncf.model.manifest.v1+json", Config: ocispec.DescriptorEmptyJSON}
	config := []byte("{}")
	if h.Image {
		m.ArtifactType, m.Config = "", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig}
		config = []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:x"]}}`)
	}
	d, err := client.Blob(t.Context(), bytes.NewReader(config))
	if err != nil {
		t.Fatal(err)
	}
	m.Config.Digest, m.Config.Size = d.Digest, d.Size
	for _, l := range h.Layers {
		d, err := client.Blob(t.Context(), bytes.NewReader(l.Content))
		if err != nil {
			t.Fatal(err)
		}
		d.MediaType = l.MediaType
		if l.Path != "" {
			d.Annotations = map[string]string{"org.cncf.model.filepath": l.Path}
		}
		if l.Spoil != nil {
			l.Spoil(&d)
		}
		m.Layers = append(m.Layers, d)
	}
	if body, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	if h.Edit != nil {
		edited := h.Edit(string(body))
		if edited == string(body) {
			t.Errorf("%s: the manifest has nothing to edit: %s", h.Name, body)
		}
		body = []byte(edited)
	}
	return body, m.MediaType
}

func judgeArtifact(t *testing.T, w *world, h artifact.Hostile, id, reference string, err error) {
	t.Helper()
	if h.Tree == nil {
		if code := status.Code(err).String(); !slices.Contains(h.Codes, code) {
			t.Errorf("%s: code %s, want one of %v: %v", h.Name, code, h.Codes, err)
		}
		if err != nil && (!strings.Contains(err.Error(), reference) || strings.ContainsAny(err.Error(), "\x00\x1b\n")) {
			t.Errorf("%s: the message is not fit for an event: %q", h.Name, err)
		}
		own := *w
		own.t = t
		own.nothingOf(id)
		return
	}
	if err != nil {
		t.Errorf("%s: %v", h.Name, err)
		return
	}
	got := shownTree(t, h, w.node.Target(id))
	want := map[string]string{}
	for name, what := range h.Tree {
		if want[name] = what; what == "?" {
			continue
		}
		for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
			want[dir] = "d"
		}
	}
	for name, what := range want {
		switch {
		case (what == "*" || what == "?") && got[name] != "":
			want[name] = got[name]
		case what == "?":
			delete(want, name)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("%s: shows %q, want %q", h.Name, got, want)
	}
}

// shownTree reads what is mounted, and refuses what no model may have.
func shownTree(t *testing.T, h artifact.Hostile, root string) map[string]string {
	t.Helper()
	// Everything is looked up below the root, links too: an escape is an error.
	beneath, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = beneath.Close() }()
	out := map[string]string{}
	err = fs.WalkDir(beneath.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		if stat.Uid != 0 || stat.Gid != 0 || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 || info.Mode().Perm()&0o222 != 0 && info.Mode().Type() != fs.ModeSymlink {
			t.Errorf("%s: %s is %v of %d:%d", h.Name, name, info.Mode(), stat.Uid, stat.Gid)
		}
		list := make([]byte, 4096)
		n, err := unix.Llistxattr(filepath.Join(root, name), list)
		if names := strings.TrimRight(strings.ReplaceAll(string(list[:max(n, 0)]), "security.selinux\x00", ""), "\x00"); err == nil && names != "" {
			t.Errorf("%s: %s has attributes %q", h.Name, name, names)
		}
		switch {
		case name == ".":
		case e.IsDir():
			out[name] = "d"
		case e.Type() == fs.ModeSymlink:
			to, err := beneath.Readlink(name)
			if err != nil {
				return err
			}
			out[name] = "l " + to
			if _, err := beneath.Stat(name); err != nil && strings.Contains(err.Error(), "escapes") {
				t.Errorf("%s: link %s -> %s leaves the model", h.Name, name, to)
			}
		case e.Type().IsRegular():
			content, err := beneath.ReadFile(name)
			if err != nil {
				return err
			}
			kind := "f "
			if info.Mode()&0o111 != 0 {
				kind = "x "
			}
			out[name] = kind + string(content)
		default:
			t.Errorf("%s: %s is %v", h.Name, name, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s: %v", h.Name, err)
	}
	return out
}

// surroundings are everything around the state root, and the first level in it.
func surroundings(t *testing.T, w *world) map[string]string {
	t.Helper()
	inside := func(name string) bool {
		rest, below := strings.CutPrefix(name, w.node.Root()+"/")
		return below && strings.Contains(rest, "/") || strings.HasPrefix(rest, ".tmp")
	}
	out := snapshot(t, w.dir, inside)
	for name := range out {
		// What the daemon writes in its root changes; that nothing is there besides is what counts.
		if strings.HasPrefix(name, w.node.Root()) || strings.HasPrefix(name, filepath.Join(w.dir, "pods")) {
			out[name] = "there"
		}
	}
	delete(out, w.dir)
	return out
}

// snapshot describes everything below dir: kind, owner, size and times. skip leaves names out.
func snapshot(t *testing.T, dir string, skip func(string) bool) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if skip != nil && skip(name) {
			if e.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		s := info.Sys().(*syscall.Stat_t)
		out[name] = fmt.Sprint(info.Mode(), s.Uid, s.Gid, s.Size, s.Nlink, s.Mtim, s.Ctim)
		if filepath.Base(name) == "secret" {
			out[name] += fmt.Sprint(s.Atim) // of reading
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return out
}
