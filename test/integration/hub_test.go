package integration

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/hubtest"
	"github.com/model-csi/model-csi/test/node"
	"github.com/model-csi/model-csi/test/registry"
)

const hubToken = "hf_canary-token"

// hubWorld is a node whose Hugging Face Hub is a local one. Proofs of access are old at once.
func hubWorld(t *testing.T) (*world, *hubtest.Server) {
	t.Helper()
	h := hubtest.New()
	t.Cleanup(h.Close)
	w := newWorld(t, registry.Options{}, "--hub-endpoint", h.URL(), "--grant-ttl", "1ms")
	t.Cleanup(func() {
		if leaked := h.Leaked(); len(leaked) > 0 {
			t.Errorf("the storage host was sent %q", leaked)
		}
		if w.node != nil && strings.Contains(w.node.Log(), hubToken) {
			t.Error("the log shows the token")
		}
	})
	return w, h
}

// hubModel is a repository as people push it, and the same as the files of a volume.
func hubModel(parts int, partSize int64) (commit []hubtest.File, want []artifact.File) {
	add := func(f artifact.File, lfs bool) {
		body, err := f.Open()
		if err != nil {
			panic(err)
		}
		defer func() { _ = body.Close() }()
		var b strings.Builder
		buffer := make([]byte, 1<<20)
		for {
			n, err := body.Read(buffer)
			b.Write(buffer[:n])
			if err != nil {
				break
			}
		}
		commit = append(commit, hubtest.File{Path: f.Path, Content: []byte(b.String()), LFS: lfs})
		want = append(want, f)
	}
	add(artifact.Text(".gitattributes", "*.safetensors filter=lfs diff=lfs merge=lfs -text\n"), false)
	add(artifact.Text("README.md", "# Model\n"), false)
	add(artifact.Text("config.json", "{}"), false)
	add(artifact.Text("empty", ""), false)
	add(artifact.Text("sub dir/ü+#?%.json", "[]"), false)
	for i := range parts {
		add(artifact.Random(fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, parts), partSize, uint64(i+1)), true)
	}
	return commit, want
}

func withToken(v node.Volume, token string) node.Volume {
	if token != "" {
		v.Secrets = map[string]string{"HF_TOKEN": token}
	}
	return v
}

func TestHubPrivateRepository(t *testing.T) {
	w, h := hubWorld(t)
	commit, files := hubModel(2, 5<<20)
	name := h.Commit("org/model", commit)
	h.SetAccess("org/model", hubtest.Access{Private: true, Tokens: []string{hubToken}})
	h.AddToken("hf_stranger")
	keep := func(id string) node.Volume { return volume(id, "hf://org/model", "pullPolicy", "IfNotPresent") }

	shows(t, w.mustPublish(withToken(volume("csi-cold", "hf://org/model"), hubToken)), files)
	cold := sentBy(t, h)
	if total := int64(2 * (5 << 20)); cold < total || cold > total+total/50 {
		t.Errorf("%d bytes were sent for a model of %d", cold, total)
	}
	for _, reference := range []string{"hf://org/model", "hf://org/model@" + name} {
		id := fmt.Sprintf("csi-warm-%d", len(reference))
		shows(t, w.mustPublish(withToken(volume(id, reference), hubToken)), files)
		w.mustUnpublish(id)
	}
	if warm := sentBy(t, h) - cold; warm > 4096 {
		t.Errorf("warm volumes took %d bytes", warm)
	}

	// What the node has is for nobody who may not read the repository.
	for id, token := range map[string]string{"csi-anonymous": "", "csi-stranger": "hf_stranger", "csi-unknown": "hf_unknown"} {
		v := withToken(keep(id), token)
		code := codes.Unauthenticated
		if token == "hf_stranger" {
			code = codes.NotFound
		}
		w.refused(v, w.publish(v), code, "hf://org/model")
	}

	// After a restart the node still knows which commit it has, however far the branch has moved.
	next, newer := hubModel(1, 1<<20)
	h.Commit("org/model", next)
	w.node.Kill()
	w.start()
	shows(t, w.mustPublish(withToken(keep("csi-older"), hubToken)), files)
	shows(t, w.mustPublish(withToken(volume("csi-newer", "hf://org/model"), hubToken)), newer)
	shows(t, w.mustPublish(withToken(volume("csi-pinned", "hf://org/model@"+name), hubToken)), files)
	w.mustUnpublish("csi-older", "csi-newer", "csi-pinned")
	files = newer

	// After a restart, with the hub gone, an earlier proof is enough, and no proof is not.
	w.mustPublish(withToken(keep("csi-remembered"), hubToken))
	h.Close()
	if err := w.node.Stop(); err != nil {
		t.Error(err)
	}
	w.start()
	shows(t, w.mustPublish(withToken(keep("csi-grace"), hubToken)), files)
	v := keep("csi-unproven")
	if err := w.node.Publish(t.Context(), v); status.Code(err) != codes.Unavailable {
		t.Errorf("anonymous, while the hub is away: %v", err)
	}
	w.nothingOf(v.ID)
	w.mustUnpublish("csi-cold", "csi-remembered", "csi-grace")
}

func TestHubGatedRepositoryAndRevokedToken(t *testing.T) {
	w, h := hubWorld(t)
	commit, files := hubModel(1, 3<<20)
	h.Commit("meta/gated", commit, "main", "v1")
	h.SetAccess("meta/gated", hubtest.Access{Gated: true, Tokens: []string{hubToken}})
	h.AddToken("hf_stranger")
	try := func(id, token string) node.Volume {
		return withToken(volume(id, "hf://meta/gated@v1", "pullPolicy", "IfNotPresent"), token)
	}
	refused := func(when string) {
		v := try("csi-anonymous-"+when, "")
		w.refused(v, w.publish(v), codes.Unauthenticated, "accept its terms at "+h.URL()+"/meta/gated", "nodePublishSecretRef")
		v = try("csi-stranger-"+when, "hf_stranger")
		w.refused(v, w.publish(v), codes.PermissionDenied, "accept its terms at "+h.URL()+"/meta/gated", "account of this token")
	}
	refused("cold")
	if sent := sentBy(t, h); sent > 4096 {
		t.Errorf("%d bytes were sent to those who may not", sent)
	}
	shows(t, w.mustPublish(try("csi-in", hubToken)), files)
	refused("warm")

	h.RevokeToken(hubToken)
	v := try("csi-revoked", hubToken)
	w.refused(v, w.publish(v), codes.Unauthenticated, "not been revoked")
	shows(t, w.node.Target("csi-in"), files)
	w.mustUnpublish("csi-in")
}

func TestHubSelectionAndKinds(t *testing.T) {
	w, h := hubWorld(t)
	commit, files := hubModel(1, 2<<20)
	for i, name := range []string{"datasets/org/data", "spaces/org/app", "gpt2"} {
		h.Commit(name, commit, "main", "refs/pr/3")
		id := fmt.Sprintf("csi-%d", i)
		shows(t, w.mustPublish(volume(id, "hf://"+name+"@refs/pr/3")), files)
		w.mustUnpublish(id)
	}
	h.Forget()
	next, _ := hubModel(3, 2<<20)
	h.Commit("gpt2", next)
	target := w.mustPublish(volume("csi-json", "hf://gpt2", "include", "*.json"))
	shows(t, target, []artifact.File{artifact.Text("config.json", "{}"), artifact.Text("sub dir/ü+#?%.json", "[]")})
	if sent := sentBy(t, h); sent > 64<<10 {
		t.Errorf("%d bytes were sent for small files", sent)
	}
	w.mustUnpublish("csi-json")
}

// TestHubPullIsKilledAndItsLinksExpire: what was finished before is not fetched again, and links that have become
// useless are replaced.
func TestHubPullIsKilledAndItsLinksExpire(t *testing.T) {
	w, h := hubWorld(t)
	const parts, size = 8, int64(4 << 20)
	commit, files := hubModel(parts, size)
	h.Commit("org/model", commit)
	h.SetAccess("org/model", hubtest.Access{Private: true, Tokens: []string{hubToken}})
	h.SetPace(2 << 20)
	// The last part does not come, so that the pull is under way whenever it is killed.
	last := fmt.Sprintf("model-%05d-of-", parts)
	h.Before(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, last) {
			return false
		}
		<-r.Context().Done()
		return true
	})
	v := withToken(volume("csi-1", "hf://org/model"), hubToken)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- w.node.Publish(ctx, v) }()
	for finished := 0; finished < 3; {
		select {
		case err := <-result:
			t.Fatalf("published too soon: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
		finished = 0
		for _, b := range w.blobs() {
			for _, f := range commit {
				if f.LFS && b.Encoded() == f.SHA256() {
					finished++
				}
			}
		}
	}
	w.node.Kill()
	cancel()
	if err := <-result; err != nil {
		t.Log("the call that was cut off:", err)
	}
	sentBy(t, h) // what comes from now on is new
	h.Before(nil)
	w.start()
	h.Forget()
	stop := during(size, h.Sent, h.ExpireLinks) // links do not live long
	shows(t, w.mustPublish(v), files)
	if times := stop(); times == 0 {
		t.Error("no link expired")
	}
	// Two that were finished are spared at the least: of one, the note where it came from may not have been written.
	if sent := sentBy(t, h); sent > (parts-2)*size+size/2 {
		t.Errorf("%d bytes of %d were sent after the kill", sent, parts*size)
	}
	w.mustUnpublish(v.ID)
}
