package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/node"
	"github.com/model-csi/model-csi/test/registry"
)

// permissions say who may read which repository of a registry.
type permissions struct {
	mu        sync.Mutex
	passwords map[string]string
	// may lists user and repository.
	may    map[[2]string]bool
	public map[string]bool
	// hides answers 404 in place of 403, by user.
	hides map[string]bool
}

var anyRepository = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs)/`)

// fault makes a registry of everybody one of these permissions.
func (p *permissions) fault(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		m := anyRepository.FindStringSubmatch(q.URL.Path)
		if m == nil {
			next.ServeHTTP(w, q)
			return
		}
		user, password, given := q.BasicAuth()
		p.mu.Lock()
		known := given && p.passwords[user] != "" && p.passwords[user] == password
		allowed := p.public[m[1]] || known && p.may[[2]string{user, m[1]}]
		hides := p.hides[user]
		p.mu.Unlock()
		switch {
		case allowed:
			next.ServeHTTP(w, q)
		case !known:
			w.Header().Set("WWW-Authenticate", `Basic realm="models"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`, http.StatusUnauthorized)
		case hides:
			http.Error(w, `{"errors":[{"code":"NAME_UNKNOWN","message":"never heard of it"}]}`, http.StatusNotFound)
		default:
			http.Error(w, `{"errors":[{"code":"DENIED","message":"not for you"}]}`, http.StatusForbidden)
		}
	})
}

func (p *permissions) revoke(user, repository string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.may, [2]string{user, repository})
}

// tenants is a registry of several tenants with one node, and one private model that is in the node's cache.
type tenants struct {
	*world
	permissions *permissions
	model       []artifact.File
	digest      string
	// names of the repositories.
	private, copied, bobs, eves, public, slow string
}

func newTenants(t *testing.T, args ...string) *tenants {
	t.Helper()
	w := newWorld(t, registry.Options{}, args...)
	x := &tenants{world: w, model: artifact.TinyModel(0), permissions: &permissions{
		passwords: map[string]string{"alice": "alice-password", "bob": "bob-password", "carol": "carol-password", "dave": "dave-password", "eve": "eve-password", "hidden": "hidden-password"},
		may: map[[2]string]bool{
			{"alice", "m/private"}: true, {"dave", "m/private"}: true, {"alice", "m/slow"}: true,
			{"carol", "m/copy"}: true, {"bob", "m/bob"}: true, {"eve", "m/eve"}: true, {"hidden", "m/bob"}: true,
		},
		public: map[string]bool{"m/public": true}, hides: map[string]bool{"hidden": true},
	}}
	var a artifact.Artifact
	x.private, a = w.push("m/private", x.model, artifact.Options{})
	x.digest = a.Digest.String()
	x.copied, _ = w.push("m/copy", x.model, artifact.Options{})
	x.bobs, _ = w.push("m/bob", []artifact.File{artifact.Text("bob.txt", "of bob")}, artifact.Options{})
	x.public, _ = w.push("m/public", []artifact.File{artifact.Text("public.txt", "for all")}, artifact.Options{})
	x.slow, _ = w.push("m/slow", []artifact.File{artifact.Random("slow.bin", 3<<20, 7)}, artifact.Options{})
	// Eve may push what she likes into her repository, also a manifest that names the blobs of others.
	w.registry.SetManifest("m/eve", "v1", a.MediaType, a.Manifest)
	x.eves = w.registry.Host() + "/m/eve:v1"
	w.registry.Inject(registry.Rule{}, x.permissions.fault)
	return x
}

// attempt is a publish that must not succeed.
type attempt struct {
	name      string
	reference string
	secrets   map[string]string
	// more are further attributes.
	more []string
	// codes while the registry answers.
	codes []string
}

// patience is how long an attempt waits for its answer, beside hundreds of others.
const patience = time.Minute

func basic(user, password string) map[string]string {
	return map[string]string{"username": user, "password": password}
}

func dockerConfig(host, user, password string) map[string]string {
	return map[string]string{".dockerconfigjson": fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%q}}}`, host, user, password)}
}

// attempts lists everything that somebody without permission could try.
func (x *tenants) attempts() []attempt {
	host := x.registry.Host()
	at := func(reference string) string { return reference[:strings.LastIndex(reference, ":")] + "@" + x.digest }
	unauthenticated, forbidden, absent := []string{"Unauthenticated"}, []string{"PermissionDenied"}, []string{"NotFound"}
	bob, carol, hidden, eve := basic("bob", "bob-password"), basic("carol", "carol-password"), basic("hidden", "hidden-password"), basic("eve", "eve-password")
	return []attempt{
		{"nobody", x.private, nil, nil, unauthenticated},
		{"nobody, by digest", at(x.private), nil, nil, unauthenticated},
		{"nobody, never pulling", x.private, nil, []string{"pullPolicy", "Never"}, unauthenticated},
		{"nobody, always pulling", x.private, nil, []string{"pullPolicy", "Always"}, unauthenticated},
		{"nobody, one file", x.private, nil, []string{"include", "config.json"}, unauthenticated},
		{"wrong password", x.private, basic("alice", "bob-password"), nil, unauthenticated},
		{"wrong password, by digest", at(x.private), basic("alice", "wrong"), nil, unauthenticated},
		{"right password in capitals", x.private, basic("alice", "ALICE-PASSWORD"), nil, unauthenticated},
		{"user and password divided elsewhere", x.private, basic("alic", "ealice-password"), nil, unauthenticated},
		{"unknown user", x.private, basic("mallory", "alice-password"), nil, unauthenticated},
		{"a token", x.private, map[string]string{"token": "alice-password"}, nil, unauthenticated},
		{"the right credential, for another registry", x.private, dockerConfig("other.example.com", "alice", "alice-password"), nil, unauthenticated},
		{"the right credential, for another repository", x.private, dockerConfig(host+"/m/other", "alice", "alice-password"), nil, unauthenticated},
		{"bob", x.private, bob, nil, forbidden},
		{"bob, by digest", at(x.private), bob, nil, forbidden},
		{"bob, never pulling", x.private, bob, []string{"pullPolicy", "Never"}, forbidden},
		{"bob, always pulling", x.private, bob, []string{"pullPolicy", "Always"}, forbidden},
		{"bob, one file by digest", at(x.private), bob, []string{"exclude", "*.md"}, forbidden},
		{"somebody whom the registry tells nothing", x.private, hidden, nil, absent},
		{"somebody whom the registry tells nothing, by digest", at(x.private), hidden, nil, absent},
		{"carol, who has the same digest elsewhere", x.private, carol, nil, forbidden},
		{"carol, by the same digest", at(x.private), carol, nil, forbidden},
		{"the digest in bob's repository", at(x.bobs), bob, nil, absent},
		{"the digest in a public repository", at(x.public), nil, nil, absent},
		{"the digest in a public repository, by bob", at(x.public), bob, nil, absent},
		{"eve, whose manifest names the blobs", x.eves, eve, nil, absent},
		{"eve, by digest", at(x.eves), eve, nil, absent},
		{"eve, one file", x.eves, eve, []string{"include", "config.json"}, absent},
		{"nobody, at eve's", x.eves, nil, nil, unauthenticated},
		{"carol, at eve's", x.eves, carol, nil, forbidden},
	}
}

// storm makes n attempts at once, in turn of the list, and checks that none of them leaves anything. codes replaces the
// codes of the attempts where it is not nil.
func (x *tenants) storm(t *testing.T, phase string, n int, list []attempt, patience time.Duration, codes []string) {
	t.Helper()
	var group sync.WaitGroup
	room := make(chan struct{}, 250)
	for i := range n {
		a := list[i%len(list)]
		v := volume(fmt.Sprintf("csi-%s-%d", phase, i), a.reference, a.more...)
		v.Secrets = a.secrets
		want := a.codes
		if codes != nil {
			want = codes
		}
		group.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err := x.node.Publish(ctx, v)
			if got := status.Code(err).String(); !slices.Contains(want, got) {
				t.Errorf("%s: %s: code %s, want one of %v: %v", phase, a.name, got, want, err)
			}
			if err != nil && (strings.Contains(err.Error(), "-password") || strings.Contains(err.Error(), "PASSWORD")) {
				t.Errorf("%s: %s: the message shows a password: %v", phase, a.name, err)
			}
			if _, err := os.Lstat(x.node.Target(v.ID)); err == nil {
				t.Errorf("%s: %s: the target is left", phase, a.name)
			}
		})
	}
	group.Wait()
}

// only checks that nothing is mounted or leased but these volumes.
func (x *tenants) only(t *testing.T, phase string, ids ...string) {
	t.Helper()
	mounts, err := node.Mounts(x.dir)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, id := range ids {
		want = append(want, x.node.Target(id))
	}
	slices.Sort(mounts)
	slices.Sort(want)
	if !slices.Equal(mounts, want) {
		t.Errorf("%s: mounted are %v, want %v", phase, mounts, want)
	}
	leases, err := filepath.Glob(filepath.Join(x.node.Root(), "leases", "*.json"))
	if err != nil || len(leases) != len(ids) {
		t.Errorf("%s: %d leases for %d volumes (%v)", phase, len(leases), len(ids), err)
	}
}

// welcome publishes for those who may, and returns the volumes.
func (x *tenants) welcome(t *testing.T, phase string, n int) (ids []string) {
	t.Helper()
	alice, carol := basic("alice", "alice-password"), basic("carol", "carol-password")
	byDigest := strings.TrimSuffix(x.private, ":v1") + "@" + x.digest
	who := []node.Volume{
		{Attributes: map[string]string{"reference": x.private}, Secrets: alice},
		{Attributes: map[string]string{"reference": byDigest}, Secrets: alice},
		{Attributes: map[string]string{"reference": x.private, "pullPolicy": "Never"}, Secrets: dockerConfig(x.registry.Host(), "alice", "alice-password")},
		{Attributes: map[string]string{"reference": x.copied}, Secrets: carol},
	}
	var group sync.WaitGroup
	for i := range n {
		v := who[i%len(who)]
		v.ID = fmt.Sprintf("csi-%s-welcome-%d", phase, i)
		ids = append(ids, v.ID)
		group.Go(func() {
			if err := x.publish(v); err != nil {
				t.Errorf("%s: %v", v.ID, err)
				return
			}
			shows(t, x.node.Target(v.ID), x.model)
		})
	}
	group.Wait()
	return ids
}

// TestAuthoriseEveryCacheHit asks a thousand times for a private model that is cached, without permission: with proofs of
// others that are fresh and that are old, with the registry there and gone. Those who may have it get it all the while.
func TestAuthoriseEveryCacheHit(t *testing.T) {
	t.Parallel()
	for _, ttl := range []string{"10m", "1ms"} {
		t.Run("proofs hold for "+ttl, func(t *testing.T) {
			t.Parallel()
			x := newTenants(t, "--grant-ttl", ttl)
			first := volume("csi-first", x.private)
			first.Secrets = basic("alice", "alice-password")
			shows(t, x.mustPublish(first), x.model)
			ids := append(x.welcome(t, "warm", 4), first.ID)
			mayNoMore := volume("csi-dave", x.private)
			mayNoMore.Secrets = basic("dave", "dave-password")
			x.mustPublish(mayNoMore)
			x.mustUnpublish("csi-dave")

			list := x.attempts()
			if ttl == "1ms" { // before that a revoked credential is still good for as long as the proof
				x.permissions.revoke("dave", "m/private")
				list = append(list, attempt{"dave, who was allowed before", x.private, mayNoMore.Secrets, nil, []string{"PermissionDenied"}})
			}
			x.storm(t, "up", 250, list, patience, nil)
			x.only(t, "up", ids...)
			ids = append(ids, x.welcome(t, "up", 20)...)

			if err := x.registry.Close(); err != nil {
				t.Fatal(err)
			}
			// Nobody can be refused for good now, nor let in. Eve's manifest was hers to read: what she lacks is the blobs, for
			// which the plugin goes on asking.
			x.storm(t, "down", 225, slices.DeleteFunc(slices.Clone(list), isEve), patience, []string{"Unavailable"})
			x.storm(t, "eve-down", 5, slices.DeleteFunc(slices.Clone(list), func(a attempt) bool { return !isEve(a) }), 4*time.Second, []string{"Unavailable", "Aborted", "DeadlineExceeded"})
			x.only(t, "down", ids...)
			ids = append(ids, x.welcome(t, "down", 20)...)

			// The same after a restart, which has nothing but what is on disk.
			if err := x.node.Stop(); err != nil {
				t.Error(err)
			}
			x.start()
			x.storm(t, "restarted", 20, slices.DeleteFunc(slices.Clone(list), isEve), patience, []string{"Unavailable"})
			x.only(t, "restarted", ids...)
			ids = append(ids, x.welcome(t, "restarted", 8)...)
			x.only(t, "at last", ids...)
			leaksNothing(t, x.world, "-password")
			x.mustUnpublish(ids...)
		})
	}
}

func isEve(a attempt) bool {
	return strings.HasPrefix(a.name, "eve") || slices.Contains(a.more, "Always")
}

// TestAuthoriseJoiners has those who may not wait beside somebody who may, for the same transfer.
func TestAuthoriseJoiners(t *testing.T) {
	t.Parallel()
	x := newTenants(t)
	x.registry.SetPace(1 << 20) // three seconds
	v := volume("csi-slow", x.slow)
	v.Secrets = basic("alice", "alice-password")
	answer := make(chan error, 1)
	go func() { answer <- x.publish(v) }()
	until(t, "bytes come", func() bool { return x.registry.Stats().BlobBytes > 0 })
	unauthenticated, forbidden := []string{"Unauthenticated"}, []string{"PermissionDenied"}
	x.storm(t, "join", 60, []attempt{
		{"nobody", x.slow, nil, nil, unauthenticated},
		{"wrong password", x.slow, basic("alice", "wrong"), nil, unauthenticated},
		{"bob", x.slow, basic("bob", "bob-password"), nil, forbidden},
		{"hidden", x.slow, basic("hidden", "hidden-password"), nil, []string{"NotFound"}},
		{"bob, never pulling", x.slow, basic("bob", "bob-password"), []string{"pullPolicy", "Never"}, []string{"PermissionDenied", "NotFound"}},
		{"nobody, one file", x.slow, nil, []string{"include", "*.bin"}, unauthenticated},
	}, patience, nil)
	x.registry.SetPace(0)
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	x.only(t, "joined", "csi-slow")
	shows(t, x.node.Target("csi-slow"), []artifact.File{artifact.Random("slow.bin", 3<<20, 7)})
	x.mustUnpublish("csi-slow")
}
