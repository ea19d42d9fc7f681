package registry

import (
	"net/http"
	"net/url"
)

// Transport returns connections for a source that speaks another protocol to host, and to the hosts that it refers to:
// with the same guard on addresses, the same proxies, and the authorities and client certificates of the host's
// hosts.toml. Loopback addresses are reached only where host itself is one. It fails with model.ErrInvalid where
// hosts.toml or its files cannot be used.
func (s *Source) Transport(host string) (http.RoundTripper, error) {
	_, server, err := s.hostConfigs(host)
	if err != nil {
		return nil, err
	}
	server.base = &url.URL{Scheme: "https", Host: host}
	e, err := s.endpoint(host, server, false)
	if err != nil {
		return nil, err
	}
	return &guarded{endpoint: e, guard: s.guard}, nil
}

type guarded struct {
	endpoint *endpoint
	guard    guard
}

// RoundTrip implements http.RoundTripper.
func (g *guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.User != nil || (req.URL.Scheme != "https" && req.URL.Scheme != "http") {
		return nil, &refusedError{"refused to go to what is not the URL of a host"}
	}
	if err := g.guard.checkURL(req.URL, g.endpoint); err != nil {
		return nil, err
	}
	if g.endpoint.names(req.URL) {
		return g.endpoint.own.RoundTrip(req)
	}
	return g.endpoint.other.RoundTrip(req)
}
