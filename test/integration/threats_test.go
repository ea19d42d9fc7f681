package integration

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/node"
	"github.com/model-csi/model-csi/test/registry"
)

// TestThreatRequests has whoever can write a pod, or reach the socket, lead the plugin elsewhere: by volume ids, target
// paths and attributes.
func TestThreatRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registry.Options{})
	reference, _ := w.push("m/tiny", artifact.TinyModel(0), artifact.Options{})
	w.mustPublish(volume("csi-honest", reference))
	outside := filepath.Join(w.dir, "outside")
	if err := errors.Join(os.MkdirAll(outside, 0o755), os.Symlink(outside, filepath.Join(w.dir, "pods", "link")),
		os.MkdirAll(filepath.Join(w.dir, "pods", "odd"), 0o750)); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(w.dir, "pods", "odd", "mount")
	before := surroundings(t, w)
	client := csi.NewNodeClient(w.node.Conn())
	publish := func(id, target string, attributes map[string]string) error {
		if attributes["reference"] == "" {
			attributes["reference"] = reference
		}
		_, err := client.NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{
			VolumeId: id, TargetPath: target, VolumeContext: attributes,
			VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}},
		})
		return err
	}
	long := strings.Repeat("x", 5000)
	for _, bad := range []string{"/", "/etc/../" + target, target + "/", target + "/../../outside/mount", "./mount", "mount", w.dir + "/pods/link/mount", w.dir + "/pods/link",
		w.node.Root(), w.node.Root() + "/blobs", w.node.Root() + "/views/x", w.dir + "/pods/odd/mount\x00/etc", "/" + long, w.dir + "/pods/odd//mount", w.dir} {
		if err := publish("csi-x", bad, map[string]string{}); err == nil {
			t.Errorf("target %.100q was accepted", bad)
		} else if code := status.Code(err); code != codes.InvalidArgument && code != codes.Internal && code != codes.NotFound && code != codes.AlreadyExists {
			t.Errorf("target %.100q: %v", bad, err)
		}
		_, _ = client.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "csi-x", TargetPath: bad})
	}
	for _, id := range []string{"../../../../evil", "/etc/evil", "a/b/../..", "a\x00b", ".", "..", "", long, "csi-\n\x1b[31m", "csi-honest"} {
		err := publish(id, target, map[string]string{})
		if err != nil && status.Code(err) != codes.InvalidArgument {
			t.Errorf("volume id %.100q: %v", id, err)
		}
		if _, err := client.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target}); err != nil && status.Code(err) != codes.InvalidArgument {
			t.Errorf("unpublish %.100q: %v", id, err)
		}
	}
	for attribute, values := range map[string][]string{
		"subPath":   {"..", "../..", "/etc", "a/../..", "a\x00b", strings.Repeat("d/", 100) + "d", long, "config.json/.."},
		"reference": {"file:///etc/shadow", "/etc/shadow", "../../x", w.registry.Host() + "/../../x:v1", w.registry.Host() + "/m/..:v1", w.registry.Host() + "/m/tiny:../../x", "oci://u:p@" + w.registry.Host() + "/m/tiny", "h\x00st/m/tiny", "a b/c:d", long},
		"include":   {"../../*", "[", strings.Repeat("*", 3000)},
		"csi.storage.k8s.io/serviceAccount.tokens": {`{"":{"token":"x"}}`},
		"docker-config": {"/etc/shadow"}, "root": {"/"}, "../../x": {"y"}, "a\x00": {"b"},
	} {
		for _, value := range values {
			err := publish("csi-x", target, map[string]string{attribute: value})
			if code := status.Code(err); code != codes.InvalidArgument && code != codes.NotFound && code != codes.FailedPrecondition {
				t.Errorf("%.40q = %.60q: %v", attribute, value, err)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\x00\x1b\n") {
				t.Errorf("%.40q = %.60q: the message is not fit for an event: %q", attribute, value, err)
			}
		}
	}
	if after := surroundings(t, w); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("around the root there was\n%v\nnow\n%v", before, after)
	}
	shows(t, w.node.Target("csi-honest"), artifact.TinyModel(0))
	w.mustUnpublish("csi-honest")
}

// TestThreatSwappedTarget exchanges the directory above the target for a link to another one, again and again, while volumes
// are published there.
func TestThreatSwappedTarget(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registry.Options{})
	reference, _ := w.push("m/tiny", artifact.TinyModel(0), artifact.Options{})
	victim := filepath.Join(w.dir, "victim")
	pod, link := filepath.Join(w.dir, "pods", "csi-swap"), filepath.Join(w.dir, "pods", "link")
	if err := errors.Join(os.MkdirAll(filepath.Join(victim, "mount"), 0o755), os.MkdirAll(pod, 0o750), os.Symlink(victim, link),
		os.WriteFile(filepath.Join(victim, "mount", "file"), []byte("of the victim"), 0o600)); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, victim, nil)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, pod, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	made := 0
	for range 100 {
		if err := w.node.Publish(t.Context(), volume("csi-swap", reference)); err == nil {
			made++
		} else if code := status.Code(err); code != codes.InvalidArgument && code != codes.Internal && code != codes.AlreadyExists && code != codes.NotFound {
			t.Errorf("unexpected: %v", err)
		}
		mounts, err := node.Mounts(victim)
		if err != nil || len(mounts) > 0 {
			t.Fatalf("mounted at the victim's: %v, %v", mounts, err)
		}
		_ = w.node.Unpublish(t.Context(), "csi-swap")
	}
	close(stop)
	<-done
	if after := snapshot(t, victim, nil); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("the victim had %v, now %v", before, after)
	}
	t.Logf("%d of 100 were published", made)
	for _, dir := range []string{pod, link} {
		_ = syscall.Unmount(filepath.Join(dir, "mount"), syscall.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
}

// TestThreatPermissions: nobody else on the node may talk to the daemon, or read or change what it keeps.
func TestThreatPermissions(t *testing.T) {
	t.Parallel()
	old := syscall.Umask(0) // the daemon's own care counts, not its parent's
	defer syscall.Umask(old)
	w := newWorld(t, registry.Options{})
	reference, _ := w.push("m/tiny", artifact.TinyModel(0), artifact.Options{})
	w.mustPublish(volume("csi-1", reference))
	err := filepath.WalkDir(w.node.Root(), func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(w.node.Root(), name)
		// What pods see has modes for readers; the directories above are closed.
		shown := strings.HasPrefix(rel, "views/") || strings.HasPrefix(rel, "blobs/")
		mode := info.Mode().Perm()
		switch {
		case info.Sys().(*syscall.Stat_t).Uid != 0:
			t.Errorf("%s belongs to somebody else", rel)
		case shown && mode&0o222 != 0 && info.Mode().IsRegular(), !shown && mode&0o077 != 0:
			t.Errorf("%s has mode %v", rel, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	for name, want := range map[string]fs.FileMode{w.node.Socket(): 0o600 | fs.ModeSocket, filepath.Join(w.node.Root(), "admin.sock"): 0o600 | fs.ModeSocket} {
		if info, err := os.Lstat(name); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	checkSockets(t, w)
	w.mustUnpublish("csi-1")
}

// checkSockets looks at every socket of the daemon: none is abstract, and none listens for the network.
func checkSockets(t *testing.T, w *world) {
	t.Helper()
	open, err := w.node.OpenFiles()
	if err != nil {
		t.Fatal(err)
	}
	inodes := map[string]bool{}
	for _, name := range open {
		if rest, ok := strings.CutPrefix(name, "socket:["); ok {
			inodes[strings.TrimSuffix(rest, "]")] = true
		}
	}
	unixSockets, listening := 0, 0
	table := func(name string, look func(fields []string)) {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", w.node.PID(), name))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			look(strings.Fields(line))
		}
	}
	table("unix", func(f []string) {
		if len(f) < 7 || !inodes[f[6]] {
			return
		}
		unixSockets++
		if len(f) > 7 && strings.HasPrefix(f[7], "@") {
			t.Errorf("abstract socket %s", f[7])
		}
	})
	const listen = "0A" // the state LISTEN, as proc_pid_net_tcp(5) writes it
	for _, name := range []string{"tcp", "tcp6"} {
		table(name, func(f []string) {
			if len(f) > 9 && inodes[f[9]] && f[3] == listen {
				listening++
			}
		})
	}
	if unixSockets == 0 || listening > 0 {
		t.Errorf("%d unix sockets, %d sockets that listen for the network", unixSockets, listening)
	}
}

// TestThreatSHA512: the other digest that works is verified as the first one is.
func TestThreatSHA512(t *testing.T) {
	t.Parallel()
	w := newWorld(t, registry.Options{})
	content := []byte("named by its SHA-512")
	d := digest.SHA512.FromBytes(content)
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.cncf.model.manifest.v1+json", Config: ocispec.DescriptorEmptyJSON,
		Layers: []ocispec.Descriptor{{MediaType: "application/vnd.cncf.model.weight.v1.raw", Digest: d, Size: int64(len(content)),
			Annotations: map[string]string{"org.cncf.model.filepath": "f"}}}}
	// The wrong ones first: right ones in the cache would be good for both.
	for _, served := range [][]byte{[]byte("NAMED by its SHA-512"), content} {
		name := strings.ToLower(digest.FromBytes(served).Encoded()[:8])
		repository := "m/" + name
		w.registry.SetManifest(repository, "v1", m.MediaType, mustJSON(t, m))
		injection := w.registry.Inject(registry.Rule{Kind: registry.KindBlob, Repository: repository}, func(http.Handler) http.Handler {
			return http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
				http.ServeContent(rw, q, "", fixedTime, bytes.NewReader(served))
			})
		})
		v := volume("csi-"+name, w.registry.Host()+"/"+repository+":v1")
		err := w.publish(v)
		if bytes.Equal(served, content) {
			if err != nil {
				t.Error(err)
				continue
			}
			shows(t, w.node.Target(v.ID), []artifact.File{artifact.Text("f", string(content))})
			w.mustUnpublish(v.ID)
		} else {
			w.refused(v, err, codes.DataLoss, d.String())
		}
		injection.Remove()
	}
}

// TestThreatTableIsTested: each row of the tables in the documentation names tests, and they exist.
func TestThreatTableIsTested(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+|Fuzz\w+)\(`)
	err = filepath.WalkDir("../..", func(name string, e fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		content, err := os.ReadFile(name)
		for _, m := range declared.FindAllSubmatch(content, -1) {
			tests[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")
	for _, table := range []string{"threats", "faults"} {
		_, rest, ok := strings.Cut(string(text), "<!-- begin "+table+" -->")
		body, _, ended := strings.Cut(rest, "<!-- end "+table+" -->")
		if !ok || !ended {
			t.Fatalf("docs/security.md has no table of %s", table)
		}
		for i, line := range strings.Split(strings.TrimSpace(body), "\n") {
			if i < 2 { // the heading
				continue
			}
			rows++
			names := named.FindAllStringSubmatch(line, -1)
			if len(names) == 0 {
				t.Errorf("%s: no test is named: %s", table, line)
			}
			for _, n := range names {
				if !tests[n[1]] {
					t.Errorf("%s: there is no %s", table, n[1])
				}
			}
		}
	}
	if rows < 20 {
		t.Errorf("the tables have %d rows", rows)
	}
}
