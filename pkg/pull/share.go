package pull

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/store"
)

// A namespace holds the blobs of the trees that its volumes have leased, of the models that are being pulled for it, and
// of those that have been pulled and wait for their lease. Each blob counts once, however many volumes show it. What
// stays in the cache when nobody uses it is held by nobody: it gives way to whoever needs the room.
//
// Leases name trees by their digest. What a tree consists of is written down when a namespace with a limit first holds
// it, so that nothing is scanned; a tree without such a record counts as a whole, by the figure in its lease.

// amounts are blobs with their sizes in bytes.
type amounts map[digest.Digest]int64

func (a amounts) add(b amounts) {
	for d, n := range b {
		a[d] = max(a[d], n)
	}
}

func (a amounts) sum() int64 {
	var n int64
	for _, size := range a {
		n += min(size, maxClaim-min(n, maxClaim)) // sizes are only claims: the sum must not turn over
	}
	return n
}

const maxClaim = 1 << 61

// shares watches over what namespaces hold.
type shares struct {
	store    *store.Store
	log      *slog.Logger
	observer Observer
	// running reports whether the pull with this key goes on.
	running func(key string) bool

	mu     sync.Mutex // guards what follows
	claims map[claimKey]*claim
	trees  map[digest.Digest]amounts // of leased views
}

// claimKey is a pull for a namespace.
type claimKey struct{ namespace, pull string }

// claim is what a pull brings, or a result that has no lease yet. It outlives its callers for as long as the pull does.
type claim struct {
	callers int
	blobs   amounts
	// ready says that the pull has brought everything, even if it has not ended yet.
	ready bool
}

// enter begins a caller's claim; nothing is counted before layers or tree. The caller calls leave on it.
func (s *shares) enter(r Request, pull string, limit int64) *stake {
	k := &stake{shares: s, request: r, key: claimKey{r.Namespace, pull}, limit: limit}
	if limit <= 0 {
		return k
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.claims == nil {
		s.claims, s.trees = make(map[claimKey]*claim), make(map[digest.Digest]amounts)
	}
	if s.claims[k.key] == nil {
		s.claims[k.key] = &claim{}
	}
	s.claims[k.key].callers++
	return k
}

// stake is one caller's part in a claim.
type stake struct {
	shares  *shares
	request Request
	key     claimKey
	limit   int64 // 0: nothing is counted
}

// leave ends the caller's part.
func (k *stake) leave() {
	if k.limit <= 0 {
		return
	}
	s := k.shares
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.claims[k.key]; c != nil {
		c.callers--
	}
	s.prune()
}

// prune forgets claims that nobody waits for and no pull works for.
func (s *shares) prune() {
	for k, c := range s.claims {
		if c.callers <= 0 && (c.ready || !s.running(k.pull)) {
			delete(s.claims, k)
		}
	}
}

// layers claims what a pull will bring; the files of archives count as their archives until they are known.
func (k *stake) layers(layers []format.Layer) error {
	if k.limit <= 0 {
		return nil
	}
	blobs := make(amounts, len(layers))
	for _, l := range layers {
		blobs[l.Blob.Digest] = l.Blob.Size
	}
	return k.claim(blobs, false)
}

// tree claims a tree that is there.
func (k *stake) tree(t model.Tree) error {
	if k.limit <= 0 {
		return nil
	}
	id := t.Digest()
	blobs := amountsOf(t, id)
	leases := k.shares.store.Leases()
	// The common case of a warm publish, and what a second pod of the same model is: nothing has to be summed up for it.
	if slices.ContainsFunc(leases, func(l store.Lease) bool { return l.View == id && namespaceOf(l) == k.key.namespace }) {
		k.shares.hold(k.key, blobs)
	} else if err := k.claim(blobs, true); err != nil {
		return err
	}
	k.shares.remember(id, blobs)
	return nil
}

// hold counts a tree that its namespace has already.
func (s *shares) hold(key claimKey, blobs amounts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.claims[key]; c != nil {
		c.blobs, c.ready = blobs, true
	}
}

func namespaceOf(l store.Lease) string {
	namespace, _, _ := strings.Cut(l.Pod, "/")
	return namespace
}

// claim fails with model.ErrNoSpace where the namespace would hold more than its limit. What brings nothing new is not
// refused: a limit that was lowered takes nothing away.
func (k *stake) claim(blobs amounts, ready bool) error {
	s := k.shares
	leases := s.store.Leases()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune()
	all := s.leased(k.key.namespace, leases)
	for other, c := range s.claims {
		if other.namespace == k.key.namespace && other != k.key {
			all.add(c.blobs)
		}
	}
	before := all.sum()
	all.add(blobs)
	after := all.sum()
	if after > k.limit && after > before {
		s.observer.Refused(refusedShare)
		return fmt.Errorf("%s holds %s of models on this node and may hold %s (cacheShare of the operator's policy), this model adds %s; delete pods that use other models there, or ask the operator for a larger share: %w",
			k.request.who(), size(before), size(k.limit), size(after-before), model.ErrNoSpace)
	}
	if c := s.claims[k.key]; c != nil {
		c.blobs, c.ready = blobs, ready
	}
	return nil
}

// leased sums up the trees that a namespace has leased.
func (s *shares) leased(namespace string, leases []store.Lease) amounts {
	used := make(map[digest.Digest]bool, len(leases))
	own := make(amounts)
	for _, l := range leases {
		used[l.View] = true
		if namespaceOf(l) == namespace {
			own[l.View] = max(own[l.View], l.Bytes)
		}
	}
	for view := range s.trees {
		if !used[view] {
			delete(s.trees, view)
		}
	}
	all := make(amounts)
	for view, bytes := range own {
		if blobs := s.blobsOf(view); blobs != nil {
			all.add(blobs)
		} else {
			all[view] = bytes
		}
	}
	return all
}

// treesKind is the kind of the records that hold what trees consist of.
const treesKind = "trees"

// blobsOf finds what a tree consists of; nil where that is not known.
func (s *shares) blobsOf(view digest.Digest) amounts {
	blobs, ok := s.trees[view]
	if !ok {
		if !s.store.Record(treesKind, view.String(), &blobs) {
			blobs = nil
		}
		s.trees[view] = blobs
	}
	return blobs
}

// remember writes down what a tree consists of, once.
func (s *shares) remember(view digest.Digest, blobs amounts) {
	s.mu.Lock()
	known := s.blobsOf(view) != nil
	s.trees[view] = blobs
	s.mu.Unlock()
	if known {
		return
	}
	if err := s.store.PutRecord(treesKind, view.String(), blobs); err != nil {
		s.log.Warn("what the model consists of is not remembered, its namespace is charged for all of it", "view", view, "error", err)
	}
}

// maxCounted bounds the memory for one tree. One with more files counts as a whole.
const maxCounted = 10_000

// amountsOf lists the blobs of a tree.
func amountsOf(t model.Tree, id digest.Digest) amounts {
	blobs := t.Blobs()
	out := make(amounts, min(len(blobs), maxCounted))
	for _, b := range blobs {
		out[b.Digest] = b.Size
	}
	if len(out) > maxCounted {
		return amounts{id: out.sum()}
	}
	return out
}
