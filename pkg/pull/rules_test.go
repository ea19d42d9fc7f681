package pull

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/store"
)

// fakeRules allow everything but some repositories, and have limits by namespace.
type fakeRules struct {
	deny   map[string]bool // namespace, space, name of the repository
	limits map[string]Limits
	asked  atomic.Int64
}

type refusedByRule struct{ error }

func (refusedByRule) Reason() string  { return "denied" }
func (r refusedByRule) Unwrap() error { return r.error }

func (r *fakeRules) Check(namespace string, ref model.Ref) error {
	r.asked.Add(1)
	if r.deny[namespace+" "+ref.Name()] {
		return refusedByRule{fmt.Errorf("%s for %s: %w", ref, namespace, model.ErrDenied)}
	}
	return nil
}

func (r *fakeRules) Limits(namespace string) Limits { return r.limits[namespace] }

func withRules(r *fakeRules) func(*Options) { return func(o *Options) { o.Rules = r } }

// A rule refuses before anybody is asked, cached or not, and only those whom it is about.
func TestRulesRefuse(t *testing.T) {
	r := newFakeRegistry()
	d := pushFiles(t, r, "m:1")
	pushFiles(t, r, "other:1")
	rules := &fakeRules{deny: map[string]bool{"bad r.io/m": true}}
	n := newNode(t, r, withRules(rules))
	refused := func(request Request) {
		t.Helper()
		request.Namespace = "bad"
		resolves, checks := r.resolves.Load(), r.checks.Load()
		if _, err := n.Pull(t.Context(), request); !errors.Is(err, model.ErrDenied) || !strings.Contains(err.Error(), "bad") {
			t.Errorf("%s: %v", request.Ref, err)
		}
		if r.resolves.Load() != resolves || r.checks.Load() != checks {
			t.Errorf("%s: the registry was asked", request.Ref)
		}
	}
	cold := Request{Ref: parse(t, "r.io/m:1")}
	refused(cold)
	result, err := n.Pull(t.Context(), Request{Ref: cold.Ref, Namespace: "good"})
	if err != nil {
		t.Fatal(err)
	}
	result.Release()
	refused(cold)
	refused(Request{Ref: cold.Ref, Policy: PolicyNever})
	refused(Request{Ref: parse(t, "r.io/m").Pinned(d)})
	refused(Request{Ref: parse(t, "r.io/other:1"), Mounts: []Mount{{Path: "sub", Ref: cold.Ref}}})
	if got := n.count("refused: denied"); got != 5 {
		t.Errorf("%d refusals are counted", got)
	}
}

// pushKit makes a ModelKit whose model is in another one.
func pushKit(t *testing.T, r *fakeRegistry, name, parent string) {
	t.Helper()
	config := []byte(`{"manifestVersion":"1.0.0","model":{"path":"` + parent + `"}}`)
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
"config":{"mediaType":"application/vnd.kitops.modelkit.config.v1+json","digest":%q,"size":%d},"layers":[]}`, digest.FromBytes(config), len(config))
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digest.FromBytes(manifest)
	r.manifests[d], r.tags[name], r.configs = manifest, d, map[digest.Digest][]byte{d: config}
}

// What a model is inherited from is looked at like the model.
func TestRulesAboutParents(t *testing.T) {
	r := newFakeRegistry()
	pushFiles(t, r, "base:1")
	pushKit(t, r, "tuned:1", "r.io/base:1")
	rules := &fakeRules{deny: map[string]bool{"bad r.io/base": true}}
	n := newNode(t, r, withRules(rules))
	request := Request{Ref: parse(t, "r.io/tuned:1"), Namespace: "bad"}
	if _, err := n.Pull(t.Context(), request); !errors.Is(err, model.ErrDenied) {
		t.Errorf("a parent that is denied: %v", err)
	}
	if r.resolves.Load() != 1 {
		t.Errorf("%d references were resolved", r.resolves.Load())
	}
	request.Namespace = "good"
	if _, err := n.Pull(t.Context(), request); errors.Is(err, model.ErrDenied) || r.resolves.Load() != 2 {
		t.Errorf("a parent that is allowed: %v after %d references", err, r.resolves.Load())
	}
}

func TestLimitsOfNamespaces(t *testing.T) {
	r := newFakeRegistry()
	pushFiles(t, r, "m:1") // four files, 17 bytes; one layer is an archive
	rules := &fakeRules{limits: map[string]Limits{"small": {ModelSize: 16}, "few": {Files: 3}, "roomy": {ModelSize: 20_000, Files: 4}}}
	n := newNode(t, r, withRules(rules))
	request := Request{Ref: parse(t, "r.io/m:1")}
	for _, cached := range []bool{false, true} {
		for namespace, says := range map[string]string{"small": "maxModelSize", "few": "maxFiles"} {
			if !cached && namespace == "few" {
				continue // how many files an archive has is not known before
			}
			request.Namespace = namespace
			_, err := n.Pull(t.Context(), request)
			if !errors.Is(err, model.ErrTooLarge) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "namespace "+namespace) {
				t.Errorf("%s, cached %t: %v", namespace, cached, err)
			}
		}
		if !cached && r.sent.Load() != 0 {
			t.Errorf("%d bytes were fetched for nothing", r.sent.Load())
		}
		request.Namespace = "roomy"
		result, err := n.Pull(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		result.Release()
	}
	if n.count("refused: model-size") != 2 || n.count("refused: files") != 1 {
		t.Errorf("refusals are not counted")
	}
}

// pushBytes makes a model of files with so many bytes, by name: the same name and size is the same blob.
func pushBytes(t *testing.T, r *fakeRegistry, name string, files map[string]int) {
	t.Helper()
	var layers []layerSpec
	for file, n := range files {
		layers = append(layers, layerSpec{path: file, data: []byte(strings.Repeat(file[:1], n))})
	}
	r.push(t, name, layers...)
}

func TestShares(t *testing.T) {
	r := newFakeRegistry()
	pushBytes(t, r, "one:1", map[string]int{"a": 600, "b": 200})
	pushBytes(t, r, "two:1", map[string]int{"a": 600, "c": 150}) // shares the file with one
	pushBytes(t, r, "three:1", map[string]int{"d": 100})
	pushBytes(t, r, "four:1", map[string]int{"e": 10})
	rules := &fakeRules{limits: map[string]Limits{"team": {Share: 1000}}}
	n := newNode(t, r, withRules(rules))
	volumes := 0
	publish := func(namespace, ref string) (func(), error) {
		result, err := n.Pull(t.Context(), Request{Ref: parse(t, ref), Namespace: namespace})
		if err != nil {
			return nil, err
		}
		defer result.Release()
		volumes++
		l := store.Lease{VolumeID: fmt.Sprint(volumes), Target: "/t", View: result.Tree.Digest(), Bytes: 5000, Pod: namespace + "/pod"}
		if err := n.opts.Store.PutLease(l); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := n.opts.Store.DropLease(l.VolumeID, l.Target); err != nil {
				t.Fatal(err)
			}
		}, nil
	}
	must := func(namespace, ref string) func() {
		t.Helper()
		drop, err := publish(namespace, ref)
		if err != nil {
			t.Fatalf("%s for %s: %v", ref, namespace, err)
		}
		return drop
	}
	refused := func(ref, says string) {
		t.Helper()
		_, err := publish("team", ref)
		if !errors.Is(err, model.ErrNoSpace) || !strings.Contains(err.Error(), "namespace team") || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want an error that says %q", ref, err, says)
		}
	}
	first := must("team", "r.io/one:1")
	second := must("team", "r.io/one:1") // the same again takes nothing
	third := must("team", "r.io/two:1")  // 950 with what is shared counted once
	refused("r.io/three:1", "holds 950 B")
	must("other", "r.io/three:1")         // whoever has no share has no limit
	refused("r.io/three:1", "adds 100 B") // cached, but held by somebody else
	must("team", "r.io/four:1")           // 960
	n.stop(t)                             // what is held is known after a restart
	n.start(t, withRules(rules))
	refused("r.io/three:1", "holds 960 B")
	first()
	refused("r.io/three:1", "holds 960 B") // the second volume still shows it
	second()
	must("team", "r.io/three:1") // 860
	rules.limits["team"] = Limits{Share: 100}
	must("team", "r.io/two:1") // a lower limit takes nothing away
	refused("r.io/one:1", "may hold 100 B")
	third()
	if n.count("refused: share") != 5 {
		t.Errorf("%d refusals are counted", n.count("refused: share"))
	}
}

// A volume from before the namespace had a share counts by its lease, until its model is published again.
func TestShareOfOldVolumes(t *testing.T) {
	r := newFakeRegistry()
	pushBytes(t, r, "one:1", map[string]int{"a": 600})
	pushBytes(t, r, "two:1", map[string]int{"b": 300})
	rules := &fakeRules{limits: map[string]Limits{}}
	n := newNode(t, r, withRules(rules))
	pull := func(name string) (*Result, error) {
		return n.Pull(t.Context(), Request{Ref: parse(t, "r.io/"+name), Namespace: "team"})
	}
	one, err := pull("one:1")
	if err != nil {
		t.Fatal(err)
	}
	defer one.Release()
	if err := n.opts.Store.PutLease(store.Lease{VolumeID: "v", Target: "/t", View: one.Tree.Digest(), Bytes: 900, Pod: "team/pod"}); err != nil {
		t.Fatal(err)
	}
	rules.limits["team"] = Limits{Share: 1000}
	if _, err := pull("two:1"); !errors.Is(err, model.ErrNoSpace) || !strings.Contains(err.Error(), "holds 900 B") {
		t.Errorf("beside 900 bytes in a lease: %v", err)
	}
	for _, name := range []string{"one:1", "two:1"} {
		result, err := pull(name)
		if err != nil {
			t.Fatal(err)
		}
		defer result.Release()
	}
}

// What is being pulled counts, for as long as the pull goes on, whoever waits for it.
func TestSharesOfRunningPulls(t *testing.T) {
	r := newFakeRegistry()
	pushBytes(t, r, "one:1", map[string]int{"a": 600})
	pushBytes(t, r, "two:1", map[string]int{"b": 600})
	r.hold = make(chan struct{})
	n := newNode(t, r, withRules(&fakeRules{limits: map[string]Limits{"team": {Share: 1000}}}))
	impatient, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for len(n.Running()) == 0 {
			time.Sleep(time.Millisecond)
		}
	}()
	one := Request{Ref: parse(t, "r.io/one:1"), Namespace: "team"}
	if _, err := n.Pull(impatient, one); !errors.Is(err, model.ErrPulling) {
		t.Fatalf("a pull that is held up: %v", err)
	}
	two := Request{Ref: parse(t, "r.io/two:1"), Namespace: "team"}
	if _, err := n.Pull(t.Context(), two); !errors.Is(err, model.ErrNoSpace) {
		t.Errorf("a second pull beyond the share: %v", err)
	}
	close(r.hold)
	result, err := n.Pull(t.Context(), one)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Pull(t.Context(), two); !errors.Is(err, model.ErrNoSpace) {
		t.Errorf("beside a result that waits for its lease: %v", err)
	}
	result.Release()
	result.Release()
	result, err = n.Pull(t.Context(), two)
	if err != nil {
		t.Fatalf("after the first was given up: %v", err)
	}
	result.Release()
	n.shares.mu.Lock()
	defer n.shares.mu.Unlock()
	if len(n.shares.claims) != 0 {
		t.Errorf("%d claims are left", len(n.shares.claims))
	}
}

func TestAmounts(t *testing.T) {
	huge := amounts{"a": 1 << 62, "b": 1 << 62, "c": 1 << 62}
	if got := huge.sum(); got != maxClaim {
		t.Errorf("the sum of huge claims is %d", got)
	}
	var files []model.File
	for i := range maxCounted + 1 {
		files = append(files, model.File{Path: fmt.Sprint(i), Blob: model.Blob{Digest: digest.FromString(fmt.Sprint(i)), Size: 2}})
	}
	tree, err := model.NewTree(files)
	if err != nil {
		t.Fatal(err)
	}
	if got := amountsOf(tree, "id"); len(got) != 1 || got["id"] != 2*(maxCounted+1) {
		t.Errorf("a tree of many files has %d amounts of %d bytes", len(got), got.sum())
	}
}

// mirrored has mirrors that spoil what they give, for each blob until they were distrusted.
type mirrored struct {
	*fakeRegistry
	mirrors    int
	distrusted map[digest.Digest]int // guarded by the registry's mu
}

func (m *mirrored) Repository(ref model.Ref, c model.Credential) (source.Repository, error) {
	r, err := m.fakeRegistry.Repository(ref, c)
	return distrusting{r.(*fakeRepository), m}, err
}

type distrusting struct {
	*fakeRepository
	from *mirrored
}

func (d distrusting) Distrust(b model.Blob) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.from.distrusted[b.Digest]++
	return d.from.distrusted[b.Digest] <= d.from.mirrors
}

// Wrong bytes from one host are no reason to give up while there is another one.
func TestAnotherHostAfterWrongBytes(t *testing.T) {
	for name, tt := range map[string]struct {
		mirrors int
		origin  bool // whether the registry itself has the right bytes
	}{"no mirror": {0, true}, "one bad mirror": {1, true}, "two bad mirrors": {2, true}, "nobody is right": {1, false}} {
		t.Run(name, func(t *testing.T) {
			r := newFakeRegistry()
			pushFiles(t, r, "m:1")
			m := &mirrored{fakeRegistry: r, mirrors: tt.mirrors, distrusted: make(map[digest.Digest]int)}
			r.spoil = func(d digest.Digest, data []byte) []byte { // called with mu held
				if !tt.origin || m.distrusted[d] < m.mirrors {
					data[0] ^= 1
				}
				return data
			}
			n := newNode(t, r, func(o *Options) { o.Source = source.Mux{model.SchemeOCI: m} })
			result, err := n.Pull(t.Context(), Request{Ref: parse(t, "r.io/m:1")})
			if !tt.origin {
				if !errors.Is(err, model.ErrCorrupt) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			n.check(t, result, files)
			result.Release()
		})
	}
}
