package pull

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/grant"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
)

// access is a proven right to read one manifest and its blobs.
type access struct {
	snapshot   source.Snapshot
	repository source.Repository
}

// The kinds of the records that remember what references mean.
const (
	tagsKind      = "tags"
	indexesKind   = "indexes"
	snapshotsKind = "snapshots"
)

// pinned is what a tag meant when the registry was last asked.
type pinned struct {
	Digest digest.Digest `json:"digest"`
	At     time.Time     `json:"at"`
}

// identity is one credential with the repository as it sees it.
type identity struct {
	credential model.Credential
	repository source.Repository
}

// authorise pins the reference and proves that the caller may read what it is pinned to: by an earlier proof of the
// same credential, or by asking the registry.
func (p *Puller) authorise(ctx context.Context, r Request) (access, error) {
	if err := p.allowed(r); err != nil {
		return access{}, err
	}
	who, broken, err := p.identities(ctx, r)
	if err != nil {
		return access{}, err
	}
	policy := r.Policy.of(r.Ref)
	known, cached := p.remembered(r.Ref, r.Want)
	if cached && (policy != PolicyAlways || r.Ref.Digest != "") {
		a, err := p.prove(ctx, r.Ref, known, who)
		if err == nil {
			return a, nil
		}
		// A tag whose manifest is gone may mean another one by now. Everything else is the answer.
		if r.Ref.Digest != "" || !errors.Is(err, model.ErrNotFound) {
			return access{}, blame(err, broken)
		}
	}
	if policy == PolicyNever {
		return access{}, fmt.Errorf("%s is not in the node's cache and the pull policy is Never; use IfNotPresent or prefetch it: %w", r.Ref, model.ErrNotFound)
	}
	a, err := p.resolve(ctx, r, who)
	if cached && errors.Is(err, model.ErrUnavailable) {
		err = fmt.Errorf("%w; the node has %s, which pull policy IfNotPresent or a reference by digest would use", err, known.Digest)
	}
	return a, blame(err, broken)
}

// identities are the caller's credentials in the order of trial. Whoever has credentials that do not fit may still
// read what everybody may, so the anonymous identity comes last. A source of credentials that is broken stops nobody who
// has access without it.
func (p *Puller) identities(ctx context.Context, r Request) (who []identity, broken, err error) {
	credentials, broken := r.Keychain.Credentials(ctx, r.Ref)
	for _, c := range append(credentials, model.Credential{}) {
		repository, err := p.opts.Source.Repository(r.Ref, c)
		if err != nil {
			return nil, nil, err
		}
		who = append(who, identity{c, repository})
	}
	return who, broken, nil
}

// blame adds to a refusal why a source of credentials had nothing to offer. One that could not be asked may have what
// is needed the next time, so it is then no refusal.
func blame(refused, broken error) error {
	switch {
	case broken == nil || !refusal(refused):
		return refused
	case errors.Is(broken, model.ErrUnavailable):
		return fmt.Errorf("not all credentials are known now: %w (with the others: %v)", broken, refused)
	}
	return fmt.Errorf("%w (not all credentials could be used: %v)", refused, broken)
}

// resolve asks the registry what the reference means. The answer is the proof.
func (p *Puller) resolve(ctx context.Context, r Request, who []identity) (access, error) {
	var refusals []error
	for _, id := range who {
		snapshot, err := id.repository.Resolve(ctx, r.Want)
		if err == nil {
			p.opts.Observer.Authorized("proven")
			p.granted(r.Ref, snapshot.Digest, id.credential)
			p.remember(r.Ref, r.Want, snapshot)
			return access{snapshot, id.repository}, nil
		}
		if !refusal(err) {
			return access{}, err
		}
		refusals = append(refusals, err)
	}
	p.opts.Observer.Authorized("denied")
	return access{}, denied(refusals)
}

// prove finds a credential that may read the snapshot. A proof within its TTL needs no question; an older one counts
// when the registry does not answer.
func (p *Puller) prove(ctx context.Context, ref model.Ref, s source.Snapshot, who []identity) (access, error) {
	for _, id := range who {
		source.Recall(id.repository, s)
		if p.opts.Grants.State(p.opts.Grants.Key(ref, s.Digest, id.credential)) == grant.Valid {
			p.opts.Observer.Authorized("valid")
			return access{s, id.repository}, nil
		}
	}
	refusals := make([]error, len(who)) // by the caller's order
	var silence error
	for _, i := range p.provenFirst(ref, s.Digest, who) {
		id := who[i]
		key := p.opts.Grants.Key(ref, s.Digest, id.credential)
		err := id.repository.Check(ctx, s.Digest)
		switch {
		case err == nil:
			p.opts.Observer.Authorized("proven")
			p.granted(ref, s.Digest, id.credential)
			return access{s, id.repository}, nil
		case refusal(err):
			refusals[i] = err
			if err := p.opts.Grants.Revoke(key); err != nil {
				return access{}, err
			}
		case errors.Is(err, model.ErrUnavailable) && p.opts.Grants.State(key) == grant.Grace && ctx.Err() == nil:
			p.opts.Observer.Authorized("grace")
			p.log.Warn("registry cannot be asked, an earlier proof holds", "reference", ref.String(), "identity", id.credential, "error", err)
			return access{s, id.repository}, nil
		default:
			silence = err
		}
		if ctx.Err() != nil {
			return access{}, context.Cause(ctx)
		}
	}
	if silence != nil {
		// Not every identity could be asked, so nobody was refused for good.
		return access{}, fmt.Errorf("the model is cached, but whether this pod may have it cannot be proven now: %w", silence)
	}
	p.opts.Observer.Authorized("denied")
	return access{}, denied(refusals)
}

// provenFirst lists identities by their index: those with an earlier proof before the others. A registry that does not
// answer takes its time for each, of which a pod has two minutes.
func (p *Puller) provenFirst(ref model.Ref, d digest.Digest, who []identity) []int {
	var proven, others []int
	for i, id := range who {
		if p.opts.Grants.State(p.opts.Grants.Key(ref, d, id.credential)) == grant.Grace {
			proven = append(proven, i)
		} else {
			others = append(others, i)
		}
	}
	return append(proven, others...)
}

// refusal reports whether the registry has said no, as opposed to nothing.
func refusal(err error) bool {
	return errors.Is(err, model.ErrUnauthenticated) || errors.Is(err, model.ErrDenied) || errors.Is(err, model.ErrNotFound)
}

// denied joins what the registry said to each identity into one error. The first identity is the one that the caller
// meant, so its refusal gives the kind; what was said to others is added when it differs.
func denied(refusals []error) error {
	first := refusals[0]
	var others []string
	for _, err := range refusals[1:] {
		if err.Error() != first.Error() {
			others = append(others, err.Error())
		}
	}
	if len(others) == 0 {
		return first
	}
	return fmt.Errorf("%w (also tried: %s)", first, strings.Join(others, "; "))
}

func (p *Puller) granted(ref model.Ref, d digest.Digest, c model.Credential) {
	p.log.Info("access proven", "reference", ref.String(), "digest", d, "identity", c)
	if err := p.opts.Grants.Prove(p.opts.Grants.Key(ref, d, c)); err != nil {
		p.log.Warn("proof of access not remembered, the registry will be asked again", "reference", ref.String(), "error", err)
	}
}

// remembered finds what the reference meant when it was last resolved. Snapshots are kept by repository: what one
// registry says about the type of a manifest must not decide how another's is read.
func (p *Puller) remembered(ref model.Ref, want model.Selection) (source.Snapshot, bool) {
	d := ref.Digest
	if d == "" {
		var at pinned
		if !p.opts.Store.Record(tagsKind, tagRecord(ref), &at) {
			return source.Snapshot{}, false
		}
		d = at.Digest
	}
	var child digest.Digest
	if p.opts.Store.Record(indexesKind, indexRecord(ref, d, want), &child) {
		d = child
	}
	var s source.Snapshot
	if !p.opts.Store.Record(snapshotsKind, ref.Name()+"@"+d.String(), &s) || s.Digest != d {
		return source.Snapshot{}, false
	}
	if _, err := model.ParseDigest(d.String()); err != nil || d.Algorithm().FromBytes(s.Manifest) != d {
		return source.Snapshot{}, false
	}
	return s, true
}

// indexRecord names what a selection leads to: the same index is another manifest for somebody else. Names are kept, so
// they must not change between releases.
func indexRecord(ref model.Ref, index digest.Digest, want model.Selection) string {
	name := ref.Name() + "@" + index.String() + " " + want.Node
	if wanted := want.String(); wanted != "" {
		name += " " + wanted
	}
	return name
}

func tagRecord(ref model.Ref) string {
	ref.Digest = ""
	return ref.Scheme + "://" + ref.Name() + ":" + ref.Reference()
}

// remember keeps what the reference means. A failure costs a question to the registry later, so it is only logged.
func (p *Puller) remember(ref model.Ref, want model.Selection, s source.Snapshot) {
	top := s.Digest
	err := p.opts.Store.PutRecord(snapshotsKind, ref.Name()+"@"+s.Digest.String(), s)
	if s.Index != "" {
		top = s.Index
		err = errors.Join(err, p.opts.Store.PutRecord(indexesKind, indexRecord(ref, s.Index, want), s.Digest))
	}
	if ref.Digest == "" {
		err = errors.Join(err, p.opts.Store.PutRecord(tagsKind, tagRecord(ref), pinned{Digest: top, At: time.Now()}))
	}
	if err != nil {
		p.log.Warn("meaning of the reference not remembered, the registry will be asked again", "reference", ref.String(), "error", err)
	}
}
