package wire

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// IsRedirect reports whether a status sends the client elsewhere with a Location.
func IsRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// RedirectTarget reads a Location. Errors do not show it: it can be a signed URL.
func RedirectTarget(from *url.URL, location string) (*url.URL, error) {
	u, err := from.Parse(location)
	switch {
	case err != nil || u.Hostname() == "":
		return nil, errors.New("its Location is not a URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, fmt.Errorf("its Location has the scheme %q", Bounded(u.Scheme))
	case u.Scheme == "http" && from.Scheme == "https":
		return nil, fmt.Errorf("its Location leaves TLS for plain HTTP at %s", Bounded(u.Host))
	case u.User != nil:
		return nil, fmt.Errorf("its Location has a user in the URL of %s", Bounded(u.Host))
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

// SameOrigin compares scheme, host and port.
func SameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && portOf(a) == portOf(b)
}

func portOf(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "https" {
		return "443"
	}
	return "80"
}
