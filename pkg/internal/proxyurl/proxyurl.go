// Package proxyurl reads the URLs of proxies. They can hold a password, so no error quotes them.
package proxyurl

import (
	"errors"
	"net/url"
	"slices"
	"strings"
)

// ErrForm says what the URL of a proxy looks like.
var ErrForm = errors.New("it must be the URL of a proxy, such as http://proxy.example.com:3128; http, https, socks5 and socks5h are possible")

// Parse reads the URL of a proxy as net/http does: without a scheme it is one of HTTP. The empty text is nil. It fails
// with ErrForm, and not with an error that has the text.
func Parse(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) {
		return nil, ErrForm
	}
	return u, nil
}
