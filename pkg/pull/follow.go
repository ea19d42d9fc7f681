package pull

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/grant"
	"github.com/model-csi/model-csi/pkg/model"
)

// Resolver knows the schemes whose references hold no bytes, but are names for references that do.
type Resolver interface {
	// Complete fills in what the reference leaves to the operator, so that credentials can be chosen for it. It does
	// no I/O and fails with model.ErrInvalid.
	Complete(ref model.Ref) (model.Ref, error)
	// Lookup asks, as one identity, which reference the name stands for. Errors are those of source.Repository.
	Lookup(ctx context.Context, ref model.Ref, cred model.Credential) (model.Ref, error)
}

// namesKind is the kind of the records that remember what names stand for.
const namesKind = "names"

// follow replaces the reference by the one that it stands for. The rest of the pull treats that one as if the caller
// had written it: credentials are chosen for it, access to it is proven, the policy applies to it. What differs is that
// its author is not the caller: it may lead neither to the node's own services, nor to another registry a credential
// that names none.
//
// The rules for asking are those of tags: a name is looked up each time under PolicyAlways, and otherwise when it is
// not known, what it stands for is not cached, or the caller has no proof that he may know.
func (p *Puller) follow(ctx context.Context, r Request) (Request, error) {
	resolver, ok := p.opts.Resolvers[r.Ref.Scheme]
	if !ok {
		return r, nil
	}
	name := r.Ref
	target, err := p.standsFor(ctx, resolver, name, r)
	if err != nil {
		return r, err
	}
	if _, again := p.opts.Resolvers[target.Scheme]; again {
		return r, fmt.Errorf("%s stands for %s, which is a name again: %w", name, target, model.ErrUnsupported)
	}
	if r.Ref, r.Keychain, err = led(name, target, r.Keychain); err != nil {
		return r, fmt.Errorf("%s stands for %s: %w", name, target, err)
	}
	return r, nil
}

// complete fills in what a name leaves to the operator.
func (p *Puller) complete(ref model.Ref) (model.Ref, error) {
	if resolver, ok := p.opts.Resolvers[ref.Scheme]; ok {
		return resolver.Complete(ref)
	}
	return ref, nil
}

// standsFor finds the reference that a name stands for, by what is remembered or by asking.
func (p *Puller) standsFor(ctx context.Context, resolver Resolver, name model.Ref, r Request) (model.Ref, error) {
	credentials, broken := r.Keychain.Credentials(ctx, name)
	credentials = append(credentials, model.Credential{})
	policy := r.Policy.of(name)
	known, cached := p.rememberedName(name, r.Want)
	if cached && policy != PolicyAlways && p.mayKnow(name, credentials, grant.Valid) {
		return known, nil
	}
	if !cached && policy == PolicyNever {
		return model.Ref{}, fmt.Errorf("%s is not in the node's cache and the pull policy is Never; use IfNotPresent or prefetch it: %w", name, model.ErrNotFound)
	}
	target, err := p.lookup(ctx, resolver, name, credentials)
	switch {
	case err == nil && cached && policy != PolicyAlways:
		return known, nil // the caller may know it, and the node has it
	case err == nil:
		p.rememberName(name, target)
	case errors.Is(err, model.ErrUnavailable) && cached && policy != PolicyAlways && ctx.Err() == nil &&
		p.mayKnow(name, credentials, grant.Grace):
		p.log.Warn("model registry cannot be asked, an earlier answer holds", "name", name.String(), "reference", known.String(), "error", err)
		return known, nil
	case errors.Is(err, model.ErrUnavailable) && cached && policy == PolicyAlways:
		err = fmt.Errorf("%w; the node has %s, which pull policy IfNotPresent or that reference would use", err, known)
	}
	return target, blame(err, broken)
}

// lookup asks as one identity after the other. The answer is the proof that this identity may know.
func (p *Puller) lookup(ctx context.Context, resolver Resolver, name model.Ref, credentials []model.Credential) (model.Ref, error) {
	var refusals []error
	for _, c := range credentials {
		target, err := resolver.Lookup(ctx, name, c)
		if err == nil {
			if err := p.opts.Grants.Prove(p.opts.Grants.Key(name, nameDigest(name), c)); err != nil {
				p.log.Warn("that a name may be known is not remembered, the model registry will be asked again", "name", name.String(), "error", err)
			}
			return target, nil
		}
		if !refusal(err) {
			return model.Ref{}, err
		}
		refusals = append(refusals, err)
		if err := p.opts.Grants.Revoke(p.opts.Grants.Key(name, nameDigest(name), c)); err != nil {
			return model.Ref{}, err
		}
	}
	return model.Ref{}, denied(refusals)
}

// mayKnow reports whether one of the credentials was once told what the name stands for, and how long ago at most.
func (p *Puller) mayKnow(name model.Ref, credentials []model.Credential, least grant.State) bool {
	for _, c := range credentials {
		state := p.opts.Grants.State(p.opts.Grants.Key(name, nameDigest(name), c))
		if state == grant.Valid || state == least {
			return true
		}
	}
	return false
}

// nameDigest stands for a name where grants want a digest: what is permitted is to know its meaning.
func nameDigest(name model.Ref) digest.Digest { return digest.FromString(name.String()) }

// rememberedName finds what the name stood for when it was last looked up, if the node knows that model.
func (p *Puller) rememberedName(name model.Ref, want model.Selection) (model.Ref, bool) {
	var text string
	if !p.opts.Store.Record(namesKind, name.String(), &text) {
		return model.Ref{}, false
	}
	target, err := model.ParseRef(text)
	if err != nil {
		return model.Ref{}, false
	}
	_, cached := p.remembered(target, want)
	return target, cached
}

func (p *Puller) rememberName(name, target model.Ref) {
	if err := p.opts.Store.PutRecord(namesKind, name.String(), target.String()); err != nil {
		p.log.Warn("meaning of the name not remembered, the model registry will be asked again", "name", name.String(), "error", err)
	}
}

// led checks a reference that was not written by the caller but by the author of what is at from: he may not lead the
// caller's credentials to a registry that they were not made for, nor to services of the node itself.
func led(from, to model.Ref, keys model.Keychain) (model.Ref, model.Keychain, error) {
	if to.Authority() == from.Authority() {
		return to, keys, nil
	}
	if to.Loopback() {
		return to, nil, fmt.Errorf("%s is an address of the node itself: %w", to, model.ErrDenied)
	}
	return to, namedOnly{keys}, nil
}

// standing adds to an error about a reference which name led to it.
func standing(name, ref model.Ref, err error) error {
	if name == ref {
		return err
	}
	return fmt.Errorf("%s stands for %s: %w", name, ref, err)
}

// namedOnly leaves out the credentials that do not say which registry they are for.
type namedOnly struct{ all model.Keychain }

// Credentials implements model.Keychain.
func (n namedOnly) Credentials(ctx context.Context, ref model.Ref) ([]model.Credential, error) {
	list, err := n.all.Credentials(ctx, ref)
	return slices.DeleteFunc(slices.Clone(list), func(c model.Credential) bool { return c.AnyRegistry }), err
}
