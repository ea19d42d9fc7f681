package provider

import (
	"strings"
	"sync"
	"time"

	providerv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"

	"github.com/model-csi/model-csi/pkg/model"
)

// cache holds answers until they expire.
type cache struct {
	now func() time.Time

	mu      sync.Mutex // guards what follows
	answers map[string]cached
	silent  map[string]silence // by scope
}

// silence is why a provider did not answer, and until when that is believed.
type silence struct {
	err   error
	until time.Time
}

type cached struct {
	keychain model.Keychain
	expires  time.Time
}

// global is where an answer lies that holds for every image; no registry has such a name.
const global = "<global>"

func cacheKey(kind providerv1.PluginCacheKeyType, image string) string {
	switch kind {
	case providerv1.RegistryPluginCacheKeyType:
		registry, _, _ := strings.Cut(image, "/")
		return registry
	case providerv1.GlobalPluginCacheKeyType:
		return global
	}
	return image
}

// find looks for the answer that is closest to the image.
func (c *cache) find(image, scope string) model.Keychain {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, kind := range cacheKeyTypes {
		if a, ok := c.answers[hash(cacheKey(kind, image), scope)]; ok && c.now().Before(a.expires) {
			return a.keychain
		}
	}
	return nil
}

func (c *cache) put(key, scope string, k model.Keychain, lifetime time.Duration) {
	if lifetime <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for key, a := range c.answers {
		if !now.Before(a.expires) {
			delete(c.answers, key)
		}
	}
	if c.answers == nil {
		c.answers = make(map[string]cached)
	}
	c.answers[hash(key, scope)] = cached{k, now.Add(lifetime)}
}

// hung notes that the provider did not answer for a scope. Whoever has a model in the cache, or access without this
// provider, shall not wait for it once more with each of his references.
func (c *cache) hung(scope string, err error, lifetime time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for scope, s := range c.silent {
		if !now.Before(s.until) {
			delete(c.silent, scope)
		}
	}
	if c.silent == nil {
		c.silent = make(map[string]silence)
	}
	c.silent[scope] = silence{err, now.Add(lifetime)}
}

// hangs returns why the provider is not asked for a scope now; nil where it is.
func (c *cache) hangs(scope string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, ok := c.silent[scope]; ok && c.now().Before(s.until) {
		return s.err
	}
	return nil
}
