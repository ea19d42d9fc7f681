package pull

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var files = map[string]string{"config.json": "{}", "weights/a.bin": "aaaa", "weights/b.bin": "bbbb", "README.md": "read me"}

func pushFiles(t *testing.T, r *fakeRegistry, name string) digest.Digest {
	t.Helper()
	return r.push(t, name,
		layerSpec{path: "config.json", data: []byte("{}")},
		layerSpec{path: "weights/a.bin", data: []byte("aaaa")},
		layerSpec{tar: map[string]string{"weights/b.bin": "bbbb", "README.md": "read me"}})
}

func TestPull(t *testing.T) {
	r := newFakeRegistry()
	pushFiles(t, r, "m:1")
	n := newNode(t, r, nil)
	request := Request{Ref: parse(t, "r.io/m:1")}
	cold, err := n.Pull(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	defer cold.Release()
	n.check(t, cold, files)
	if cold.Warm || cold.Format == "" {
		t.Errorf("cold result: warm %v, format %q", cold.Warm, cold.Format)
	}
	sent := r.sent.Load()
	warm, err := n.Pull(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	defer warm.Release()
	n.check(t, warm, files)
	if !warm.Warm || r.sent.Load() != sent || r.resolves.Load() != 1 || r.checks.Load() != 0 {
		t.Errorf("warm %v, %d bytes more, %d resolves, %d checks", warm.Warm, r.sent.Load()-sent, r.resolves.Load(), r.checks.Load())
	}
}

func TestSelection(t *testing.T) {
	r := newFakeRegistry()
	pushFiles(t, r, "m:1")
	tests := []struct {
		include, exclude string
		want             string
		sent             bool // whether a.bin, a raw layer, is fetched
	}{
		{"", "", "README.md config.json weights/a.bin weights/b.bin", true},
		{"*.json", "", "config.json", false},
		{"", "weights/", "README.md config.json", false},
		{"weights", "a.bin", "weights/b.bin", false},
		{"/*.bin", "", "", false},
		{"weights/*.bin,!b.bin", "", "weights/a.bin", true},
		{"", "*.bin\n!a.bin", "README.md config.json weights/a.bin", true},
		{"**/*.md , # comment", "", "README.md", false},
		{"!README.md", "", "config.json weights/a.bin weights/b.bin", true},
	}
	for _, tt := range tests {
		t.Run(tt.include+"|"+tt.exclude, func(t *testing.T) {
			include, err := ParsePatterns(tt.include)
			if err != nil {
				t.Fatal(err)
			}
			exclude, err := ParsePatterns(tt.exclude)
			if err != nil {
				t.Fatal(err)
			}
			n := newNode(t, r, nil)
			result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1"), Include: include, Exclude: exclude})
			if tt.want == "" {
				if !errors.Is(err, model.ErrInvalid) {
					t.Fatalf("an empty selection: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer result.Release()
			var got []string
			for _, f := range result.Tree {
				got = append(got, f.Path)
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("selected %v, want %s", got, tt.want)
			}
			a := model.Blob{Digest: digest.FromString("aaaa"), Size: 4}
			if n.opts.Store.Has(a) != tt.sent {
				t.Errorf("a.bin fetched: %v", !tt.sent)
			}
		})
	}
	for _, bad := range []string{"[", "a/[", "!", "/", strings.Repeat("x", 2000)} {
		if _, err := ParsePatterns(bad); !errors.Is(err, model.ErrInvalid) {
			t.Errorf("pattern %.20q: %v", bad, err)
		}
	}
}

func TestPolicies(t *testing.T) {
	r := newFakeRegistry()
	pushFiles(t, r, "m:1")
	pushFiles(t, r, "m:latest")
	n := newNode(t, r, nil)
	pull := func(ref string, p Policy) error {
		result, err := n.Pull(t.Context(), Request{Ref: parse(t, ref), Policy: p})
		result.Release()
		return err
	}
	if err := pull("r.io/m:1", PolicyNever); !errors.Is(err, model.ErrNotFound) {
		t.Fatalf("Never without a cache: %v", err)
	}
	if err := errors.Join(pull("r.io/m:1", ""), pull("r.io/m", ""), pull("r.io/m:1", PolicyNever)); err != nil {
		t.Fatal(err)
	}
	before := r.resolves.Load()
	for ref, asks := range map[string]bool{"r.io/m:1": false, "r.io/m": true, "r.io/m:latest": true} {
		if err := pull(ref, ""); err != nil {
			t.Fatal(err)
		}
		if asked := r.resolves.Load() > before; asked != asks {
			t.Errorf("%s: the registry was asked: %v", ref, asked)
		}
		before = r.resolves.Load()
	}
	moved := r.push(t, "m:1", layerSpec{path: "new", data: []byte("new")})
	result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1"), Policy: PolicyAlways})
	if err != nil || result.Digest != moved {
		t.Fatalf("Always after the tag moved: %+v, %v", result, err)
	}
	result.Release()

	r.away = true
	if err := errors.Join(pull("r.io/m:1", PolicyIfNotPresent), pull("r.io/m:1", PolicyNever)); err != nil {
		t.Errorf("cached, registry away: %v", err)
	}
	err = pull("r.io/m:1", PolicyAlways)
	if !errors.Is(err, model.ErrUnavailable) || !strings.Contains(err.Error(), moved.String()) {
		t.Errorf("Always, registry away: %v", err)
	}
	if _, err := ParsePolicy("Sometimes"); !errors.Is(err, model.ErrInvalid) {
		t.Errorf("unknown policy: %v", err)
	}
}

// TestAuthorisation goes through what a caller can be and what the registry can do, with a model that is cached.
func TestAuthorisation(t *testing.T) {
	r := newFakeRegistry()
	r.users = map[string]string{"alice": "a", "bob": "b"}
	pushFiles(t, r, "m:1")
	d := pushFiles(t, r, "other:1")
	alice, bob, eve := user{"alice", "a"}, user{"bob", "b"}, user{"eve", "e"}
	n := newNode(t, r, nil)
	pull := func(ref string, k model.Keychain) error {
		result, err := n.Pull(t.Context(), Request{Ref: parse(t, ref), Keychain: k})
		result.Release()
		return err
	}
	if err := pull("r.io/m:1", alice); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for name, k := range map[string]model.Keychain{"eve": eve, "nobody": nil, "alice with a typo": user{"alice", "x"}} {
			for _, ref := range []string{"r.io/m:1", "r.io/m@" + d.String(), "r.io/other:1", "r.io/other@" + d.String()} {
				err := pull(ref, k)
				if !errors.Is(err, model.ErrDenied) && !errors.Is(err, model.ErrUnauthenticated) {
					t.Errorf("%s gets %s: %v", name, ref, err)
				}
			}
		}
	}
	checks := r.checks.Load()
	if err := errors.Join(pull("r.io/m:1", bob), pull("r.io/m:1", alice), pull("r.io/m:1", alice)); err != nil {
		t.Fatal(err)
	}
	if got := r.checks.Load() - checks; got != 1 {
		t.Errorf("%d checks: bob needs one, alice none", got)
	}

	r.away = true
	n.now = n.now.Add(time.Hour) // every proof is older than its TTL
	if err := errors.Join(pull("r.io/m:1", alice), pull("r.io/m:1", bob)); err != nil {
		t.Errorf("within the grace time: %v", err)
	}
	if n.count("grace") != 2 {
		t.Errorf("%d grants by grace", n.count("grace"))
	}
	for name, k := range map[string]model.Keychain{"eve": eve, "nobody": nil} {
		if err := pull("r.io/m:1", k); !errors.Is(err, model.ErrUnavailable) {
			t.Errorf("%s, registry away: %v", name, err)
		}
	}
	if err := pull("r.io/other:1", alice); err == nil {
		t.Error("a proof for one repository opened another")
	}
	n.now = n.now.Add(24 * time.Hour)
	if err := pull("r.io/m:1", alice); !errors.Is(err, model.ErrUnavailable) {
		t.Errorf("after the grace time: %v", err)
	}

	r.away = false
	if err := pull("r.io/m:1", alice); err != nil {
		t.Fatal(err)
	}
	delete(r.users, "alice")
	n.now = n.now.Add(11 * time.Minute)
	if err := pull("r.io/m:1", alice); !errors.Is(err, model.ErrDenied) {
		t.Errorf("revoked, after the TTL: %v", err)
	}
	r.away = true
	if err := pull("r.io/m:1", alice); err == nil {
		t.Error("a revoked credential has a grace time")
	}
}

func TestPublicModelWithAStrangeCredential(t *testing.T) {
	r := newFakeRegistry()
	pushFiles(t, r, "m:1")
	n := newNode(t, r, nil)
	result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1"), Keychain: user{"eve", "e"}})
	if err != nil {
		t.Fatal(err)
	}
	result.Release()
}

func TestRestart(t *testing.T) {
	r := newFakeRegistry()
	r.users = map[string]string{"alice": "a"}
	pushFiles(t, r, "m:1")
	n := newNode(t, r, nil)
	request := Request{Ref: parse(t, "r.io/m:1"), Keychain: user{"alice", "a"}}
	result, err := n.Pull(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	result.Release()
	n.stop(t)
	r.away = true
	n.start(t, nil)
	if result, err = n.Pull(t.Context(), request); err != nil {
		t.Fatalf("cached and proven before the restart: %v", err)
	}
	defer result.Release()
	n.check(t, result, files)
}

// TestCrowd has a hundred callers for one cold model; some may not have it, and some lose patience.
func TestCrowd(t *testing.T) {
	r := newFakeRegistry()
	r.users = map[string]string{"alice": "a"}
	pushFiles(t, r, "m:1")
	r.hold = make(chan struct{})
	n := newNode(t, r, nil)
	var callers, impatient sync.WaitGroup
	errs := make([]error, 100)
	for i := range errs {
		wait := &callers
		if i%4 == 2 {
			wait = &impatient
		}
		wait.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			k := user{"alice", "a"}
			switch i % 4 {
			case 1:
				k = user{"eve", "e"}
			case 2:
				time.AfterFunc(time.Duration(i)*time.Millisecond, cancel)
			}
			result, err := n.Pull(ctx, Request{Ref: parse(t, "r.io/m:1"), Keychain: k})
			result.Release()
			errs[i] = err
		})
	}
	impatient.Wait()
	close(r.hold)
	callers.Wait()
	for i, err := range errs {
		switch i % 4 {
		case 1:
			if !errors.Is(err, model.ErrDenied) {
				t.Errorf("eve: %v", err)
			}
		case 2:
			if !errors.Is(err, model.ErrPulling) {
				t.Errorf("without patience: %v", err)
			}
		default:
			if err != nil {
				t.Errorf("alice: %v", err)
			}
		}
	}
	var total int64
	for _, data := range r.blobs {
		total += int64(len(data))
	}
	if r.sent.Load() != total {
		t.Errorf("%d bytes were sent for %d", r.sent.Load(), total)
	}
}

func TestProgress(t *testing.T) {
	r := newFakeRegistry()
	pushFiles(t, r, "m:1")
	r.hold = make(chan struct{})
	n := newNode(t, r, nil)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for len(n.Running()) == 0 {
			time.Sleep(time.Millisecond)
		}
	}()
	_, err := n.Pull(ctx, Request{Ref: parse(t, "r.io/m:1")})
	if !errors.Is(err, model.ErrPulling) || !strings.HasPrefix(err.Error(), "pulling r.io/m:1: 0% (0 B of ") {
		t.Fatalf("impatient: %v", err)
	}
	if running := n.Running(); len(running) != 1 {
		t.Errorf("running: %v", running)
	}
	close(r.hold)
	result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1")})
	if err != nil {
		t.Fatal(err)
	}
	result.Release()
	if running := n.Running(); len(running) != 0 {
		t.Errorf("still running: %v", running)
	}
	p := Progress{Reference: "registry.example.com/m/qwen3:8b", Done: 7408802201, Total: 17287211827, Rate: 412 << 20, Trouble: "reset"}
	const want = "pulling registry.example.com/m/qwen3:8b: 42% (6.9 GiB of 16 GiB, 412 MiB/s, about 23s left); last trouble: reset"
	if p.String() != want {
		t.Errorf("got  %s\nwant %s", p, want)
	}
}

func TestCorruptBlob(t *testing.T) {
	r := newFakeRegistry()
	pushFiles(t, r, "m:1")
	bad := digest.FromString("aaaa")
	r.spoil = func(d digest.Digest, data []byte) []byte {
		if d == bad {
			data[0] ^= 1
		}
		return data
	}
	n := newNode(t, r, nil)
	_, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1")})
	if !errors.Is(err, model.ErrCorrupt) || !strings.Contains(err.Error(), "weights/a.bin") {
		t.Fatalf("error %v", err)
	}
	if b := (model.Blob{Digest: bad, Size: 4}); n.opts.Store.Has(b) || n.opts.Store.Unfinished(b, "r.io") != 0 {
		t.Error("something of the corrupt blob was kept")
	}
	r.spoil = nil
	result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1")})
	if err != nil {
		t.Fatal(err)
	}
	defer result.Release()
	n.check(t, result, files)
}

func TestEvictedMembers(t *testing.T) {
	r := newFakeRegistry()
	pushFiles(t, r, "m:1")
	n := newNode(t, r, nil)
	for range 2 {
		result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1")})
		if err != nil {
			t.Fatal(err)
		}
		n.check(t, result, files)
		if got, err := n.opts.Store.Evict(t.Context(), store.Everything); err != nil || got.Blobs != 0 {
			t.Fatalf("a result's blobs were evicted: %+v, %v", got, err)
		}
		result.Release()
		if got, err := n.opts.Store.Evict(t.Context(), store.Everything); err != nil || got.Blobs != len(files) {
			t.Fatalf("evicted %+v, %v", got, err)
		}
	}
}

func TestLimits(t *testing.T) {
	r := newFakeRegistry()
	pushFiles(t, r, "m:1")
	for name, change := range map[string]func(*Options){
		"max-model-size": func(o *Options) { o.MaxModelSize = 3 },
		"max-files":      func(o *Options) { o.MaxFiles = 3 },
	} {
		n := newNode(t, r, change)
		_, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1")})
		if !errors.Is(err, model.ErrTooLarge) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSharedBlob has two models of one repository with a blob in common pulled at once.
func TestSharedBlob(t *testing.T) {
	r := newFakeRegistry()
	same := layerSpec{path: "same", data: []byte("the same bytes")}
	r.push(t, "m:a", same, layerSpec{path: "a", data: []byte("a")})
	r.push(t, "m:b", same, layerSpec{path: "b", data: []byte("b")})
	r.hold = make(chan struct{})
	n := newNode(t, r, nil)
	time.AfterFunc(50*time.Millisecond, func() { close(r.hold) })
	var both sync.WaitGroup
	for _, tag := range []string{"a", "b"} {
		both.Go(func() {
			result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:"+tag)})
			if err != nil {
				t.Error(err)
			}
			result.Release()
		})
	}
	both.Wait()
	// Whoever came second joined the first, or looked at the bytes that were there.
	if sent, least := r.sent.Load(), int64(len(same.data)+2); sent < least || sent > least+int64(len(same.data)) {
		t.Errorf("%d bytes were sent, want %d", sent, least)
	}
}

// TestNamingADigestIsNotHavingIt has a registry of the attacker's own, whose manifest names the layers of a private
// model that is cached, or was read before by somebody who may.
func TestNamingADigestIsNotHavingIt(t *testing.T) {
	r := newFakeRegistry()
	weights := make([]byte, 160_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(weights)
	layers := []layerSpec{
		{path: "config.json", data: []byte("{}")}, {path: "weights/a.bin", data: weights},
		{tar: map[string]string{"weights/b.bin": "private, too"}},
	}
	r.push(t, "m:1", layers...)
	n := newNode(t, r, nil)
	result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1")})
	if err != nil {
		t.Fatal(err)
	}
	defer result.Release()

	evil := newFakeRegistry()
	evil.push(t, "m:1", layers...)
	registries := byRegistry{"r.io": r, "evil.io": evil}
	n.opts.Source = registries
	request := Request{Ref: parse(t, "evil.io/m:1")}
	for name, spoil := range map[string]func(d digest.Digest, data []byte) []byte{
		"zeros": func(_ digest.Digest, data []byte) []byte { return make([]byte, len(data)) },
		"the archive only": func(d digest.Digest, data []byte) []byte {
			if d == digest.FromBytes(weights) {
				return make([]byte, len(data))
			}
			return data
		},
		"the file only": func(d digest.Digest, data []byte) []byte {
			if d == digest.FromBytes(weights) {
				return data
			}
			return make([]byte, len(data))
		},
	} {
		liar := newFakeRegistry()
		liar.push(t, "m:1", layers...)
		liar.spoil = spoil
		host := strings.ReplaceAll(name, " ", "-") + ".io"
		registries[host] = liar
		if stolen, err := n.Pull(t.Context(), Request{Ref: parse(t, host+"/m:1")}); !errors.Is(err, model.ErrCorrupt) {
			t.Errorf("%s: %+v, %v", name, stolen, err)
		}
	}
	honest, err := n.Pull(t.Context(), request)
	if err != nil {
		t.Fatalf("a repository that holds the bytes: %v", err)
	}
	defer honest.Release()
	if evil.sent.Load() < int64(len(weights)) {
		t.Errorf("another registry proved with %d bytes that it holds %d", evil.sent.Load(), len(weights))
	}
	before := evil.sent.Load()
	again, err := n.Pull(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Release()
	if evil.sent.Load() != before || !again.Warm {
		t.Error("what was proven is proven again")
	}

	// A similar file is not enough, be it ever so similar.
	r.push(t, "other:1", layerSpec{path: "tuned", data: append(weights[:len(weights)-1:len(weights)-1], 'x')})
	other, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/other:1")})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Release()
	almost := newFakeRegistry()
	almost.push(t, "m:1", layerSpec{path: "tuned", data: append(weights[:len(weights)-1:len(weights)-1], 'x')})
	almost.spoil = func(_ digest.Digest, data []byte) []byte { return append(data[:len(data)-1], '?') }
	n.opts.Source = byRegistry{"almost.io": almost, "r.io": r}
	if stolen, err := n.Pull(t.Context(), Request{Ref: parse(t, "almost.io/m:1")}); !errors.Is(err, model.ErrCorrupt) {
		t.Errorf("almost: %+v, %v", stolen, err)
	}

	// Another repository of the same registry shows it by opening the blob.
	r.push(t, "copy:1", layers...)
	before = r.sent.Load()
	copied, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/copy:1")})
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Release()
	if sent := r.sent.Load() - before; sent > 10 {
		t.Errorf("%d bytes were sent to show that the registry holds the blobs", sent)
	}
}

// TestParents keeps the author of an artifact from leading the caller's credentials, or the node, elsewhere.
func TestParents(t *testing.T) {
	bound := model.Credential{Name: "bound", Username: "b"}
	r := Request{Ref: parse(t, "r.io/m:1"), Keychain: keychain{{Name: "any", Username: "a", AnyRegistry: true}, bound}}
	for name, want := range map[string]int{"r.io/base:1": 2, "other.io/base:1": 1} {
		ref, k, err := parentOf(r, name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.Credentials(t.Context(), ref)
		if err != nil || len(got) != want || got[len(got)-1] != bound {
			t.Errorf("%s gets %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"127.0.0.1:5000/base:1", "localhost/base:1", "[::1]/base:1"} {
		if _, _, err := parentOf(r, name); !errors.Is(err, model.ErrDenied) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type keychain []model.Credential

func (k keychain) Credentials(context.Context, model.Ref) ([]model.Credential, error) { return k, nil }

// users are the credentials of several people.
type users []user

func (u users) Credentials(ctx context.Context, ref model.Ref) (out []model.Credential, _ error) {
	for _, one := range u {
		c, _ := one.Credentials(ctx, ref)
		out = append(out, c...)
	}
	return out, nil
}

// A registry that does not answer takes its time for each identity, so the one with a proof comes first.
func TestProofBeforeSilence(t *testing.T) {
	r := newFakeRegistry()
	pushFiles(t, r, "m:1")
	n := newNode(t, r, nil)
	pull := func(k model.Keychain) error {
		result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1"), Keychain: k})
		result.Release()
		return err
	}
	if err := pull(nil); err != nil { // everybody may read it
		t.Fatal(err)
	}
	n.now = n.now.Add(time.Hour)
	r.away = true
	r.checks.Store(0)
	if err := pull(users{{"eve", "e"}, {"mallory", "m"}}); err != nil || r.checks.Load() != 1 || n.count("grace") != 1 {
		t.Errorf("%v after %d questions", err, r.checks.Load())
	}
	r.away = false
	r.users = map[string]string{"alice": "a"}
	if err := pull(users{{"eve", "e"}, {"mallory", "m"}}); !errors.Is(err, model.ErrDenied) && !errors.Is(err, model.ErrUnauthenticated) {
		t.Errorf("refused: %v", err)
	}
}

// What a release before wrote down about an index is found again.
func TestNamesOfRecords(t *testing.T) {
	ref, d := parse(t, "r.io/m:1"), digest.FromString("index")
	for want, selection := range map[string]model.Selection{
		"r.io/m@" + d.String() + " linux/amd64":             {Node: "linux/amd64"},
		"r.io/m@" + d.String() + " linux/amd64 linux/s390x": {Node: "linux/amd64", Platform: "linux/s390x"},
	} {
		if got := indexRecord(ref, d, selection); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := tagRecord(ref); got != "oci://r.io/m:1" {
		t.Errorf("got %q", got)
	}
}
