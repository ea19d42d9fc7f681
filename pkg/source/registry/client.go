package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// maxRedirects is what browsers and net/http allow.
const maxRedirects = 10

// client speaks to one endpoint as one identity. Challenges and tokens are the business of oras-go; redirects are
// followed here, because what may be sent along depends on where they lead.
type client struct {
	endpoint *endpoint
	cred     model.Credential
	redact   wire.Redactor
	// scope is what tokens are asked for.
	scope string
	// authorised reaches the endpoint's origin with credentials, bare reaches other origins without.
	authorised *auth.Client
	bare       *http.Client
	userAgent  string
}

func (s *Source) client(e *endpoint, repository string, cred model.Credential) *client {
	via := &gate{endpoint: e, guard: s.guard}
	c := &client{
		endpoint:  e,
		cred:      cred,
		redact:    wire.NewRedactor(cred, e.header),
		scope:     auth.ScopeRepository(scopeName(e.base, repository), auth.ActionPull),
		userAgent: s.options.UserAgent,
		bare:      &http.Client{Transport: via, CheckRedirect: stayHere},
	}
	c.authorised = &auth.Client{
		Client:   &http.Client{Transport: via, CheckRedirect: tokenRedirects},
		Header:   http.Header{"User-Agent": {s.options.UserAgent}},
		Cache:    auth.NewCache(), // of this identity alone
		ClientID: s.options.UserAgent,
		Credential: auth.StaticCredential(e.base.Host, auth.Credential{
			Username:     cred.Username,
			Password:     cred.Password.Reveal(),
			RefreshToken: cred.RefreshToken.Reveal(),
			AccessToken:  cred.AccessToken.Reveal(),
		}),
		BlockedRealmPrefixes: []netip.Prefix{}, // none: the gate and the dialer check every address, also those of redirects
	}
	return c
}

// scopeName is what the endpoint calls the repository: one below "/v2/" has its prefix in the name, as the projects of
// a Harbor that caches another registry do.
func scopeName(base *url.URL, repository string) string {
	if prefix, ok := strings.CutPrefix(base.Path, "/v2/"); ok && prefix != "" {
		return prefix + "/" + repository
	}
	return repository
}

// exchange accompanies the requests that one call of client.get causes.
type exchange struct {
	// url is what was asked of the endpoint; every other request under the same context is for a token.
	url *url.URL
	// mu guards last: ranges of one blob never share an exchange, but net/http may still be busy with a lost request.
	mu   sync.Mutex
	last *reply
}

func (x *exchange) note(r reply) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.last = &r
}

func (x *exchange) reply() *reply {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.last
}

type exchangeKey struct{}

// answer is a response together with where it came from.
type answer struct {
	*http.Response
	url *url.URL
	// away says that redirects led to another origin.
	away bool
}

// url returns the address of something in the repository.
func (c *client) url(repository, kind, reference string) *url.URL {
	u := c.endpoint.base.JoinPath(repository, kind, reference)
	if c.endpoint.namespace != "" {
		// Mirrors such as Spegel and Dragonfly learn from it which registry is meant, as they do from containerd.
		u.RawQuery = url.Values{"ns": {c.endpoint.namespace}}.Encode()
	}
	return u
}

// get sends a request to the endpoint and follows its redirects. The answer may have any status but those of redirects;
// the caller closes its body. A failure is about the subject.
func (c *client) get(ctx context.Context, s subject, method string, u *url.URL, header http.Header) (*answer, *failure) {
	return c.do(ctx, s, method, u, header, nil)
}

// payload is the body of a request. It can be sent again, after a challenge for example.
type payload struct {
	open   func() (io.ReadCloser, error)
	length int64
}

// do is get with a body, which may be nil. Scopes that ctx has already are asked for too.
func (c *client) do(ctx context.Context, s subject, method string, u *url.URL, header http.Header, body *payload) (*answer, *failure) {
	x := &exchange{url: u}
	scoped := auth.AppendScopesForHost(context.WithValue(ctx, exchangeKey{}, x), c.endpoint.base.Host, c.scope)
	for away, hops := false, 0; ; hops++ {
		if hops > maxRedirects {
			return nil, s.fail(model.ErrUnavailable, fmt.Sprintf("%s: more than %d redirects", c.endpoint.base.Host, maxRedirects), "")
		}
		away = away || !wire.SameOrigin(u, c.endpoint.base)
		x.url = u
		resp, err := c.send(scoped, method, u, header, body, away)
		if err != nil {
			return nil, s.network(ctx, u.Host, err, x.reply())
		}
		location := resp.Header.Get("Location")
		if !wire.IsRedirect(resp.StatusCode) || location == "" {
			return &answer{Response: resp, url: u, away: away}, nil
		}
		wire.Drain(resp.Body)
		next, err := wire.RedirectTarget(u, location)
		if err != nil {
			return nil, s.fail(model.ErrDenied, fmt.Sprintf("%s redirects: %v", u.Host, err), "")
		}
		u = next
	}
}

// away asks a URL on another origin than the endpoint's, as an earlier redirect gave it.
func (c *client) away(ctx context.Context, s subject, u *url.URL, header http.Header) (*answer, *failure) {
	ctx = context.WithValue(ctx, exchangeKey{}, &exchange{url: u})
	resp, err := c.send(ctx, http.MethodGet, u, header, nil, true)
	if err != nil {
		return nil, s.network(ctx, u.Host, err, nil)
	}
	return &answer{Response: resp, url: u, away: true}, nil
}

func (c *client) send(ctx context.Context, method string, u *url.URL, header http.Header, body *payload, away bool) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if body != nil && body.length > 0 {
		if req.Body, err = body.open(); err != nil {
			return nil, err
		}
		req.GetBody, req.ContentLength = body.open, body.length
	}
	if away {
		req.Header = header.Clone()
		req.Header.Set("User-Agent", c.userAgent)
		return c.bare.Do(req)
	}
	req.Header = c.endpoint.header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	for key, values := range header {
		req.Header[key] = values
	}
	return c.authorised.Do(req)
}

// stayHere is the CheckRedirect of clients whose caller follows redirects itself.
func stayHere(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// tokenRedirects leaves redirects of the registry to client.get and follows those of token services. What it permits,
// oras-go and the gate have checked.
func tokenRedirects(_ *http.Request, via []*http.Request) error {
	x, ok := via[0].Context().Value(exchangeKey{}).(*exchange)
	if !ok || via[0].URL.String() == x.url.String() {
		return http.ErrUseLastResponse
	}
	if len(via) > maxRedirects {
		return &refusedError{fmt.Sprintf("token service %s: more than %d redirects", via[0].URL.Host, maxRedirects)}
	}
	return nil
}
