package hub

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// maxRedirects is what browsers and net/http allow.
const maxRedirects = 10

// answer is a response together with where it came from.
type answer struct {
	*http.Response
	url *url.URL
	// away says that redirects led to another origin.
	away bool
}

// url joins segments, each of which is escaped as one, to the hub's base.
func (r *repository) url(query string, segments ...string) *url.URL {
	u := *r.base
	raw := u.EscapedPath()
	for _, s := range segments {
		u.Path += "/" + s
		raw += "/" + url.PathEscape(s)
	}
	u.RawPath, u.RawQuery = raw, query
	return &u
}

// api is the URL of something that the Hub's API says about the repository.
func (r *repository) api(query string, rest ...string) *url.URL {
	segments := append([]string{"api", r.kind}, strings.Split(r.name, "/")...)
	return r.url(query, append(segments, rest...)...)
}

// file is the URL of a file's content.
func (r *repository) file(commit, path string) *url.URL {
	var segments []string
	if r.kind != models {
		segments = append(segments, r.kind)
	}
	segments = append(segments, strings.Split(r.name, "/")...)
	segments = append(segments, "resolve", commit)
	return r.url("", append(segments, strings.Split(path, "/")...)...)
}

// page is where a person sees the repository.
func (r *repository) page() string {
	name := r.name
	if r.kind != models {
		name = r.kind + "/" + name
	}
	return r.base.String() + "/" + name
}

// token is what the credential sends to the Hub: it has bearer tokens only, which secrets of type basic-auth and docker
// configs hold as a password.
func (r *repository) token() string {
	for _, s := range []model.Secret{r.cred.AccessToken, r.cred.RefreshToken, r.cred.Password} {
		if !s.IsZero() {
			return s.Reveal()
		}
	}
	return ""
}

// get asks for a URL of the Hub and follows redirects. Once they have left the Hub's origin, nothing of the identity
// is sent. The answer may have any status but those of redirects; the caller closes its body.
func (r *repository) get(ctx context.Context, s subject, u *url.URL, header http.Header) (*answer, *wire.Failure) {
	for away, hops := false, 0; ; hops++ {
		if hops > maxRedirects {
			return nil, s.fail(model.ErrUnavailable, fmt.Sprintf("%s: more than %d redirects", r.base.Host, maxRedirects), "")
		}
		away = away || !wire.SameOrigin(u, r.base)
		resp, f := r.send(ctx, s, u, header, away)
		if f != nil {
			return nil, f
		}
		location := resp.Header.Get("Location")
		if !wire.IsRedirect(resp.StatusCode) || location == "" {
			return resp, nil
		}
		wire.Drain(resp.Body)
		next, err := wire.RedirectTarget(u, location)
		if err != nil {
			return nil, s.fail(model.ErrDenied, fmt.Sprintf("%s redirects: %v", u.Host, err), "")
		}
		u = next
	}
}

// send makes one request.
func (r *repository) send(ctx context.Context, s subject, u *url.URL, header http.Header, away bool) (*answer, *wire.Failure) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, s.fail(model.ErrInvalid, "its URL cannot be asked for", "")
	}
	req.Header = header.Clone()
	req.Header.Set("User-Agent", r.source.options.UserAgent)
	if token := r.token(); token != "" && !away {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	transport, err := r.transport()
	if err != nil {
		return nil, s.fail(model.ErrInvalid, wire.Innermost(err), "")
	}
	client := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req) //nolint:bodyclose // whoever gets the answer closes it
	if err != nil {
		return nil, s.network(ctx, u.Host, err)
	}
	return &answer{Response: resp, url: u, away: away}, nil
}

// read fetches a page of the API as a whole.
func (r *repository) read(ctx context.Context, s subject, u *url.URL, limit int64) ([]byte, http.Header, *wire.Failure) {
	outer := ctx
	ctx, cancel := context.WithTimeoutCause(ctx, r.source.readTimeout, wire.ErrSlow)
	defer cancel()
	resp, f := r.get(ctx, s, u, http.Header{"Accept": {"application/json"}, "Accept-Encoding": {"identity"}})
	if f != nil {
		return nil, nil, wire.Slow(outer, ctx, s.fail, f)
	}
	defer wire.Drain(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return nil, nil, s.status(resp.reply())
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, nil, wire.Slow(outer, ctx, s.fail, s.broken(ctx, resp.url.Host, err))
	}
	if int64(len(data)) > limit {
		return nil, nil, s.fail(model.ErrTooLarge, fmt.Sprintf("%s sent more than the %d bytes that are read", resp.url.Host, limit), "")
	}
	return data, resp.Header, nil
}
