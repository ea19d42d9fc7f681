package registry

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// refusedError says that the client does not send a request on principle.
type refusedError struct{ why string }

func (e *refusedError) Error() string { return e.why }
func (e *refusedError) Unwrap() error { return model.ErrDenied }

// gate is what every request on behalf of an endpoint passes, whoever makes it: ours, and those of oras-go for tokens.
type gate struct {
	endpoint *endpoint
	guard    guard
}

// RoundTrip implements http.RoundTripper.
func (g *gate) RoundTrip(req *http.Request) (*http.Response, error) {
	x, _ := req.Context().Value(exchangeKey{}).(*exchange)
	token := x != nil && req.URL.String() != x.url.String()
	if err := g.permit(req.URL, token); err != nil {
		return nil, err
	}
	via := g.endpoint.other
	if g.endpoint.names(req.URL) {
		via = g.endpoint.own
	}
	resp, err := via.RoundTrip(req)
	if err != nil || resp.StatusCode < 400 {
		return resp, err
	}
	if resp.StatusCode == http.StatusUnauthorized {
		preferChallenge(resp.Header)
	}
	body := keep(resp)
	if x != nil {
		x.note(reply{host: req.URL.Host, status: resp.StatusCode, header: resp.Header, body: body, token: token})
	}
	return resp, nil
}

// permit checks a URL before anything is resolved or dialled.
func (g *gate) permit(u *url.URL, token bool) error {
	if (u.Scheme != "https" && u.Scheme != "http") || u.Hostname() == "" {
		return &refusedError{"refused to go to what is not a URL of a host: the registry's challenge names no token service"}
	}
	if u.User != nil {
		return &refusedError{fmt.Sprintf("refused to go to a URL with a user in it, at %s", u.Host)}
	}
	base := g.endpoint.base
	if u.Scheme == "http" {
		switch local := isLoopbackHost(u.Hostname()) && g.endpoint.loopback; {
		case base.Scheme == "https":
			return &refusedError{fmt.Sprintf("refused to leave TLS for plain HTTP at %s", u.Host)}
		case token && !local && !strings.EqualFold(u.Hostname(), base.Hostname()):
			return &refusedError{fmt.Sprintf("refused to ask the token service %s over plain HTTP", u.Host)}
		}
	}
	return g.guard.checkURL(u, g.endpoint)
}

// keep reads the start of an unwanted answer's body and puts it in the place of the body. A connection whose body was
// read to its end serves again; oras-go closes the bodies of challenges unread, and would lose it.
func keep(resp *http.Response) []byte {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, wire.MaxErrorBody))
	wire.Drain(resp.Body)
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return body
}

// preferChallenge puts the challenge that can be answered first: servers list others, such as Negotiate, in header
// lines of their own, and oras-go reads the first line. Tokens say less than passwords, so they come before them.
func preferChallenge(h http.Header) {
	for _, scheme := range []string{"bearer", "basic"} {
		for _, challenge := range h.Values("WWW-Authenticate") {
			name, _, _ := strings.Cut(strings.TrimLeft(challenge, " \t"), " ")
			if strings.EqualFold(name, scheme) {
				h.Set("WWW-Authenticate", strings.TrimLeft(challenge, " \t"))
				return
			}
		}
	}
}
