package registry

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

const (
	dialTimeout = 10 * time.Second
	tlsTimeout  = 10 * time.Second
	// headerTimeout bounds how long a server thinks before it answers. Bodies have no limit here: whoever reads them
	// knows how slow is too slow.
	headerTimeout = 30 * time.Second
	idleTimeout   = 90 * time.Second
	// idlePerHost is above the number of ranges that a pull has under way at one host, so that no connection is closed
	// only to be opened again for the next range.
	idlePerHost = 128
	// maxHeaderBytes is far above real headers: a challenge takes a few hundred bytes, a signed Location about 2 KiB.
	maxHeaderBytes = 64 << 10
	// readBuffer is for the start of a body, which arrives with the header. Reads into larger buffers bypass it.
	readBuffer = 64 << 10
)

// connections returns what reaches the host of c, and what reaches other hosts on its behalf. Authorities are trusted
// for both, because token services and storage of a private registry have certificates of the same authority.
// The client's certificate and skipped verification are for the host alone.
func (s *Source) connections(c hostConfig, loopback bool) (own, other http.RoundTripper, err error) {
	own, err = s.transport(c, reach{loopback: loopback, named: true})
	if err != nil {
		return nil, nil, err
	}
	switch {
	case c.base.Scheme == "http" && !loopback:
		s.warnOnce(c.base.Host, "it is spoken to in plain HTTP, because hosts.toml says so")
	case c.base.Scheme == "https" && c.skipVerify:
		s.warnOnce(c.base.Host, "its TLS certificates are not verified, because hosts.toml sets skip_verify; use \"ca\" instead")
	}
	c.skipVerify, c.clientFiles = false, nil
	if other, err = s.transport(c, reach{loopback: loopback}); err != nil {
		return nil, nil, err
	}
	return own, other, nil
}

// warnOnce says, the first time for a host, that its connections are open to others.
func (s *Source) warnOnce(host, why string) {
	s.mu.Lock()
	warned := s.warned[host]
	s.warned[host] = true
	s.mu.Unlock()
	if !warned {
		s.log.Warn("whoever controls the network can read and change what is exchanged with this host, credentials included", "host", host, "why", why)
	}
}

// transport returns the connections for a set of TLS settings. Equal settings share them.
func (s *Source) transport(c hostConfig, r reach) (http.RoundTripper, error) {
	key, err := transportKey(c, r)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.transports[key]; ok {
		return t, nil
	}
	config, err := tlsConfig(c)
	if err != nil {
		return nil, err
	}
	timeout := c.dialTimeout
	if timeout == 0 {
		timeout = dialTimeout
	}
	var http1 http.Protocols
	http1.SetHTTP1(true)
	t := &http.Transport{
		Proxy:                  s.proxies.proxy,
		OnProxyConnectResponse: proxyAnswered,
		DialContext:            dialer{guard: s.guard, proxies: s.proxies, reach: r, timeout: timeout}.dial,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    tlsTimeout,
		ResponseHeaderTimeout:  cmp.Or(s.options.HeaderTimeout, headerTimeout),
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    idlePerHost,
		MaxResponseHeaderBytes: maxHeaderBytes,
		ReadBufferSize:         readBuffer,
		DisableCompression:     true, // digests are of the stored bytes
		Protocols:              &http1,
	}
	s.transports[key] = t
	return t, nil
}

// transportKey identifies settings, and the state of the files that they name: a renewed certificate makes another key.
func transportKey(c hostConfig, r reach) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%+v %t %s", r, c.skipVerify, c.dialTimeout)
	files := append([]string(nil), c.caFiles...)
	for _, pair := range c.clientFiles {
		files = append(files, "", pair[0], pair[1])
	}
	for _, file := range files {
		if file == "" {
			b.WriteString(" -")
			continue
		}
		info, err := os.Stat(file)
		if err != nil {
			return "", fmt.Errorf("certificate file: %v: %w", err, model.ErrInvalid)
		}
		fmt.Fprintf(&b, " %q %d %d", file, info.Size(), info.ModTime().UnixNano())
	}
	return b.String(), nil
}

func tlsConfig(c hostConfig) (*tls.Config, error) {
	config := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ClientSessionCache: tls.NewLRUClientSessionCache(0), // a pull opens many connections to one host
		InsecureSkipVerify: c.skipVerify,                    //nolint:gosec // an operator's explicit choice, warned about
	}
	if len(c.caFiles) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("system certificates: %v: %w", err, model.ErrInvalid)
		}
		for _, file := range c.caFiles {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("ca: %v: %w", err, model.ErrInvalid)
			}
			if !pool.AppendCertsFromPEM(data) {
				return nil, fmt.Errorf("ca: %s has no PEM certificate: %w", file, model.ErrInvalid)
			}
		}
		config.RootCAs = pool
	}
	for _, pair := range c.clientFiles {
		key := pair[1]
		if key == "" {
			key = pair[0]
		}
		cert, err := tls.LoadX509KeyPair(pair[0], key)
		if err != nil {
			return nil, fmt.Errorf("client certificate %s: %v: %w", pair[0], err, model.ErrInvalid)
		}
		config.Certificates = append(config.Certificates, cert)
	}
	return config, nil
}
