package provider

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
	kubeletv1 "k8s.io/kubelet/config/v1"
	providerv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
)

const (
	// defaultTimeout leaves a publish, which has less than two minutes, time for the pull or for a second try.
	defaultTimeout = 30 * time.Second
	// silenceLife is how long a provider that did not answer in time is not asked again by the same caller.
	silenceLife = 30 * time.Second
	// atOnce is how many processes of one provider run at the same time. Most answer for a whole registry, so that those
	// who wait find the answer in the cache.
	atOnce = 4
)

// ServiceAccounts tells the annotations of service accounts.
type ServiceAccounts interface {
	// ServiceAccount returns the UID and the annotations of a service account.
	ServiceAccount(ctx context.Context, namespace, name string) (uid string, annotations map[string]string, err error)
}

// Options of Providers.
type Options struct {
	// Timeout bounds one run of a provider; 30 s when zero.
	Timeout time.Duration
	// ServiceAccounts is asked when a provider wants annotations. When nil such a provider is not run, and says so.
	ServiceAccounts ServiceAccounts
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// Providers are the credential providers of a node. They are safe for concurrent use.
type Providers []*provider

// Load reads the configuration, a file or a directory of files, and finds every provider's program in the directory. It
// reports all mistakes. What it read is not read again.
func Load(config, dir string, o Options) (Providers, error) {
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	list, err := read(config)
	if err != nil {
		return nil, err
	}
	var out Providers
	var errs []error
	for _, s := range list {
		_, err := program(dir, s.Name)
		errs = append(errs, err)
		out = append(out, &provider{
			settings: s, dir: dir, opts: o, label: "credential provider " + s.Name,
			running: semaphore.NewWeighted(atOnce), cache: cache{now: o.Now},
		})
	}
	return out, errors.Join(errs...)
}

// Audiences are those of the tokens that the providers want, which the CSIDriver object has to request.
func (ps Providers) Audiences() []string {
	var out []string
	for _, p := range ps {
		if t := p.TokenAttributes; t != nil && !slices.Contains(out, t.ServiceAccountTokenAudience) {
			out = append(out, t.ServiceAccountTokenAudience)
		}
	}
	return out
}

// WantAnnotations reports whether a provider needs to know annotations of service accounts.
func (ps Providers) WantAnnotations() bool {
	return slices.ContainsFunc(ps, func(p *provider) bool {
		return p.TokenAttributes != nil && len(annotationKeys(p.TokenAttributes)) > 0
	})
}

// Names lists the providers in the order of the configuration.
func (ps Providers) Names() []string {
	var out []string
	for _, p := range ps {
		out = append(out, p.Name)
	}
	return out
}

// Keychain returns what the providers have for the caller. Every provider whose matchImages has the reference is asked,
// and what they have is listed in the order of the configuration.
func (ps Providers) Keychain(c credential.Caller) model.Keychain {
	var out []model.Keychain
	for _, p := range ps {
		out = append(out, asked{p, c})
	}
	return credential.Chain(out...)
}

// provider is one of them.
type provider struct {
	settings
	dir   string
	label string
	opts  Options

	asking  singleflight.Group
	running *semaphore.Weighted
	cache   cache
}

// asked is a provider on behalf of a caller.
type asked struct {
	*provider
	caller credential.Caller
}

// Credentials implements model.Keychain.
func (a asked) Credentials(ctx context.Context, ref model.Ref) ([]model.Credential, error) {
	if ref.Authority() != ref.Registry || !slices.ContainsFunc(a.images, func(p credential.Pattern) bool { return p.MatchesPrefix(ref) }) {
		return nil, nil // providers are for registries, and for those that they name
	}
	who, wanted, err := a.identify(ctx)
	if err != nil || !wanted {
		return nil, err
	}
	image := ref.Registry + "/" + ref.Repository
	keychain, err := a.ask(ctx, image, who)
	if err != nil {
		return nil, err
	}
	return keychain.Credentials(ctx, ref)
}

// identity is what a provider is told of the caller, and for whom its answer may be used again.
type identity struct {
	token       string
	annotations map[string]string
	// scope tells callers apart that may not share an answer; it holds hashes of secrets alone.
	scope string
}

// identify collects what the provider wants to know. wanted is false when it has to be left out: it is for pods with a
// service account, or with certain annotations on it, and this one has none.
func (a asked) identify(ctx context.Context) (who identity, wanted bool, err error) {
	t := a.TokenAttributes
	if t == nil {
		return identity{}, true, nil
	}
	if a.caller.ServiceAccount == "" {
		return identity{}, !*t.RequireServiceAccount, nil
	}
	uid, annotations, wanted, err := a.account(ctx, t)
	if err != nil || !wanted {
		return identity{}, false, err
	}
	token := a.caller.Tokens[t.ServiceAccountTokenAudience]
	if token.IsZero() {
		return identity{}, false, fmt.Errorf("%s: it wants service account tokens for the audience %q, and kubelet has sent none: the CSIDriver object needs it in tokenRequests, with serviceAccountTokenInSecrets: true: %w",
			a.label, t.ServiceAccountTokenAudience, model.ErrUnsupported)
	}
	who = identity{token: token.Reveal(), annotations: annotations}
	parts := []string{a.caller.Namespace, a.caller.ServiceAccount, uid, accountUID(who.token)}
	for _, key := range annotationKeys(t) {
		if value, ok := annotations[key]; ok {
			parts = append(parts, key, value)
		}
	}
	if t.CacheType == kubeletv1.TokenServiceAccountTokenCacheType {
		parts = append(parts, who.token)
	}
	who.scope = hash(parts...)
	return who, true, nil
}

// account reads the annotations that the provider wants of the caller's service account.
func (a asked) account(ctx context.Context, t *kubeletv1.ServiceAccountTokenAttributes) (uid string, annotations map[string]string, wanted bool, err error) {
	keys := annotationKeys(t)
	if len(keys) == 0 {
		return "", nil, true, nil
	}
	if a.opts.ServiceAccounts == nil {
		return "", nil, false, fmt.Errorf("%s: it wants annotations of service accounts, and the plugin has no API server to read them from: %w", a.label, model.ErrUnsupported)
	}
	uid, all, err := a.opts.ServiceAccounts.ServiceAccount(ctx, a.caller.Namespace, a.caller.ServiceAccount)
	if err != nil {
		return "", nil, false, fmt.Errorf("%s: %w", a.label, err)
	}
	annotations = map[string]string{}
	for _, key := range keys {
		value, ok := all[key]
		switch {
		case ok:
			annotations[key] = value
		case slices.Contains(t.RequiredServiceAccountAnnotationKeys, key):
			return "", nil, false, nil
		}
	}
	return uid, annotations, true, nil
}

// ask returns the provider's answer for an image, from the cache or by running it. Those who ask the same at the same
// time share one run, which goes on when one of them leaves.
func (p *provider) ask(ctx context.Context, image string, who identity) (model.Keychain, error) {
	if k := p.cache.find(image, who.scope); k != nil {
		return k, nil
	}
	if err := p.cache.hangs(who.scope); err != nil {
		return nil, err
	}
	answer := p.asking.DoChan(hash(image, who.scope, who.token), func() (any, error) {
		return p.answer(context.WithoutCancel(ctx), image, who)
	})
	select {
	case r := <-answer:
		k, _ := r.Val.(model.Keychain)
		return k, r.Err
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: has not answered: %w", p.label, errors.Join(context.Cause(ctx), model.ErrUnavailable))
	}
}

func (p *provider) answer(ctx context.Context, image string, who identity) (model.Keychain, error) {
	waiting, cancel := context.WithTimeout(ctx, p.opts.Timeout)
	defer cancel()
	if p.running.Acquire(waiting, 1) != nil {
		return nil, fmt.Errorf("%s: too many are asking it, and it does not answer: %w", p.label, model.ErrUnavailable)
	}
	defer p.running.Release(1)
	if k := p.cache.find(image, who.scope); k != nil {
		return k, nil
	}
	if err := p.cache.hangs(who.scope); err != nil {
		return nil, err
	}
	began := time.Now()
	r, err := p.run(ctx, providerv1.CredentialProviderRequest{
		Image: image, ServiceAccountToken: who.token, ServiceAccountAnnotations: who.annotations,
	})
	if err != nil {
		if errors.Is(err, model.ErrUnavailable) && time.Since(began) >= p.opts.Timeout {
			p.cache.hung(who.scope, err, silenceLife)
		}
		return nil, err
	}
	logins := make(map[string]credential.Login, len(r.Auth))
	for pattern, auth := range r.Auth {
		if who.token != "" && auth.Password == who.token && p.TokenAttributes.CacheType != kubeletv1.TokenServiceAccountTokenCacheType {
			return nil, fmt.Errorf("%s: it answers with the token itself, which needs the cacheType Token: %w", p.label, model.ErrInvalid)
		}
		logins[pattern] = credential.Login{Username: auth.Username, Password: model.NewSecret(auth.Password)}
	}
	k := credential.FromLogins(p.label, logins)
	p.cache.put(cacheKey(r.CacheKeyType, image), who.scope, k, r.lifetime(p.DefaultCacheDuration.Duration))
	return k, nil
}
