package registry

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"sync"

	"golang.org/x/net/http/httpproxy"

	"github.com/model-csi/model-csi/pkg/internal/proxyurl"
	"github.com/model-csi/model-csi/pkg/model"
)

// Proxies are those that an operator names. What is empty is taken from the environment: HTTPS_PROXY, HTTP_PROXY and
// NO_PROXY, or the same in lower case. URLs can hold passwords, so they are secrets.
type Proxies struct {
	// HTTPS and HTTP are the proxies for requests to https:// and http:// URLs.
	HTTPS, HTTP model.Secret
	// NoProxy lists what is reached directly: hosts, domains, addresses and prefixes, as in NO_PROXY. Loopback is
	// always.
	NoProxy string
}

// complete adds what the environment says, and checks it.
func (p Proxies) complete() (Proxies, error) {
	env := httpproxy.FromEnvironment()
	for _, v := range []struct {
		name, from string
		to         *model.Secret
	}{{"https-proxy", env.HTTPSProxy, &p.HTTPS}, {"http-proxy", env.HTTPProxy, &p.HTTP}} {
		name := v.name
		if v.to.IsZero() {
			*v.to, name = model.NewSecret(v.from), name+" (from the environment)"
		}
		if _, err := proxyurl.Parse(v.to.Reveal()); err != nil {
			return p, fmt.Errorf("%s: %w: %w", name, err, model.ErrInvalid)
		}
	}
	if p.NoProxy == "" {
		p.NoProxy = env.NoProxy
	}
	return p, nil
}

// choose selects the proxy for a request.
func (p Proxies) choose() func(*http.Request) (*url.URL, error) {
	c := httpproxy.Config{HTTPSProxy: p.HTTPS.Reveal(), HTTPProxy: p.HTTP.Reveal(), NoProxy: p.NoProxy}
	proxy := c.ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return proxy(r.URL) }
}

// LogValue implements slog.LogValuer: hosts alone.
func (p Proxies) LogValue() slog.Value {
	host := func(s model.Secret) string {
		u, err := proxyurl.Parse(s.Reveal())
		if err != nil || u == nil {
			return ""
		}
		return u.Host
	}
	return slog.GroupValue(slog.String("https", host(p.HTTPS)), slog.String("http", host(p.HTTP)), slog.String("noProxy", p.NoProxy))
}

// proxies remembers which addresses are proxies: the operator chose them, so dialling them is not checked.
type proxies struct {
	choose func(*http.Request) (*url.URL, error)
	known  sync.Map // host:port
}

func (p *proxies) proxy(req *http.Request) (*url.URL, error) {
	u, err := p.choose(req)
	if u != nil && err == nil {
		p.known.Store(dialAddress(u), true)
	}
	return u, err
}

// proxyAnswered says what a proxy answers that does not connect. Its own words, which net/http would quote, can repeat the
// password that it was sent.
func proxyAnswered(_ context.Context, proxy *url.URL, _ *http.Request, answer *http.Response) error {
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	return fmt.Errorf("proxy %s answers HTTP %d", proxy.Host, answer.StatusCode)
}

func (p *proxies) isProxy(address string) bool {
	_, ok := p.known.Load(address)
	return ok
}

// dialAddress is the address that net/http dials for a proxy.
func dialAddress(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}
