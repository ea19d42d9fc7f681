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
	who, err := p.identities(ctx, r)
	if err != nil {
		return access{}, err
	}
	policy := r.Policy.of(r.Ref)
	known, cached := p.remembered(r.Ref)
	if cached && (policy != PolicyAlways || r.Ref.Digest != "") {
		a, err := p.prove(ctx, r.Ref, known, who)
		if err == nil {
			return a, nil
		}
		// A tag whose manifest is gone may mean another one by now. Everything else is the answer.
		if r.Ref.Digest != "" || !errors.Is(err, model.ErrNotFound) {
			return access{}, err
		}
	}
	if policy == PolicyNever {
		return access{}, fmt.Errorf("%s is not in the node's cache and the pull policy is Never; use IfNotPresent or prefetch it: %w", r.Ref, model.ErrNotFound)
	}
	a, err := p.resolve(ctx, r.Ref, who)
	if cached && errors.Is(err, model.ErrUnavailable) {
		err = fmt.Errorf("%w; the node has %s, which pull policy IfNotPresent or a reference by digest would use", err, known.Digest)
	}
	return a, err
}

// identities are the caller's credentials in the order of trial. Whoever has credentials that do not fit may still
// read what everybody may, so the anonymous identity comes last.
func (p *Puller) identities(ctx context.Context, r Request) ([]identity, error) {
	credentials, err := r.Keychain.Credentials(ctx, r.Ref)
	if err != nil {
		return nil, fmt.Errorf("credentials for %s: %w", r.Ref, err)
	}
	var out []identity
	for _, c := range append(credentials, model.Credential{}) {
		repository, err := p.opts.Source.Repository(r.Ref, c)
		if err != nil {
			return nil, err
		}
		out = append(out, identity{c, repository})
	}
	return out, nil
}

// resolve asks the registry what the reference means. The answer is the proof.
func (p *Puller) resolve(ctx context.Context, ref model.Ref, who []identity) (access, error) {
	var refusals []error
	for _, id := range who {
		snapshot, err := id.repository.Resolve(ctx, p.opts.Platform)
		if err == nil {
			p.opts.Observer.Authorized("proven")
			p.granted(ref, snapshot.Digest, id.credential)
			p.remember(ref, snapshot)
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
		if p.opts.Grants.State(p.opts.Grants.Key(ref, s.Digest, id.credential)) == grant.Valid {
			p.opts.Observer.Authorized("valid")
			return access{s, id.repository}, nil
		}
	}
	var refusals []error
	var silence error
	for _, id := range who {
		key := p.opts.Grants.Key(ref, s.Digest, id.credential)
		err := id.repository.Check(ctx, s.Digest)
		switch {
		case err == nil:
			p.opts.Observer.Authorized("proven")
			p.granted(ref, s.Digest, id.credential)
			return access{s, id.repository}, nil
		case refusal(err):
			refusals = append(refusals, err)
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
	if err := p.opts.Grants.Prove(p.opts.Grants.Key(ref, d, c)); err != nil {
		p.log.Warn("proof of access not remembered, the registry will be asked again", "reference", ref.String(), "error", err)
	}
}

// remembered finds what the reference meant when it was last resolved. Snapshots are kept by repository: what one
// registry says about the type of a manifest must not decide how another's is read.
func (p *Puller) remembered(ref model.Ref) (source.Snapshot, bool) {
	d := ref.Digest
	if d == "" {
		var at pinned
		if !p.opts.Store.Record(tagsKind, tagRecord(ref), &at) {
			return source.Snapshot{}, false
		}
		d = at.Digest
	}
	var child digest.Digest
	if p.opts.Store.Record(indexesKind, ref.Name()+"@"+d.String()+" "+p.opts.Platform, &child) {
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

func tagRecord(ref model.Ref) string {
	ref.Digest = ""
	return ref.Scheme + "://" + ref.Name() + ":" + ref.Reference()
}

// remember keeps what the reference means. A failure costs a question to the registry later, so it is only logged.
func (p *Puller) remember(ref model.Ref, s source.Snapshot) {
	top := s.Digest
	err := p.opts.Store.PutRecord(snapshotsKind, ref.Name()+"@"+s.Digest.String(), s)
	if s.Index != "" {
		top = s.Index
		err = errors.Join(err, p.opts.Store.PutRecord(indexesKind, ref.Name()+"@"+s.Index.String()+" "+p.opts.Platform, s.Digest))
	}
	if ref.Digest == "" {
		err = errors.Join(err, p.opts.Store.PutRecord(tagsKind, tagRecord(ref), pinned{Digest: top, At: time.Now()}))
	}
	if err != nil {
		p.log.Warn("meaning of the reference not remembered, the registry will be asked again", "reference", ref.String(), "error", err)
	}
}
