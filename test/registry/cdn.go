package registry

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// cdn is the second origin that blobs are redirected to, by URLs that expire.
type cdn struct {
	registry *Registry
	ttl      time.Duration
	address  string
	server   *http.Server
	// issued counts the URLs, of which the first ones up to expired are useless.
	issued, expired atomic.Int64
}

// ExpireURLs makes every URL of the content delivery network useless that blobs were redirected to so far.
func (r *Registry) ExpireURLs() { r.cdn.expired.Store(r.cdn.issued.Load()) }

func startCDN(r *Registry, ttl time.Duration) (*cdn, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("content delivery: %w", err)
	}
	c := &cdn{registry: r, ttl: ttl, address: listener.Addr().String()}
	c.server = &http.Server{Handler: http.HandlerFunc(c.handle), ConnState: r.pace.connState, ErrorLog: discardLog()}
	go func() { _ = c.server.Serve(listener) }()
	return c, nil
}

func (c *cdn) url(d digest.Digest) string {
	return fmt.Sprintf("http://%s/%s?expires=%d&n=%d", c.address, d, time.Now().Add(c.ttl).UnixMilli(), c.issued.Add(1))
}

func (c *cdn) handle(w http.ResponseWriter, q *http.Request) {
	entry := describe(q)
	entry.Kind, entry.Reference = KindCDN, strings.TrimPrefix(q.URL.Path, "/")
	period := c.registry.log.begin()
	counted := &countingWriter{ResponseWriter: w, period: period, kind: KindCDN, method: q.Method}
	defer func() {
		entry.Status, entry.Bytes, entry.Duration = counted.status, counted.bytes, time.Since(entry.Time)
		c.registry.log.end(period, entry)
	}()
	c.registry.faulty(entry, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		expires, err := strconv.ParseInt(q.URL.Query().Get("expires"), 10, 64)
		n, _ := strconv.ParseInt(q.URL.Query().Get("n"), 10, 64)
		d := digest.Digest(entry.Reference)
		// An S3 bucket refuses a request that carries credentials besides the signature in its URL.
		if q.Header.Get("Authorization") != "" {
			http.Error(w, "only one authentication mechanism is allowed", http.StatusBadRequest)
			return
		}
		if err != nil || d.Validate() != nil || time.Now().UnixMilli() > expires || n <= c.expired.Load() {
			http.Error(w, "the URL has expired", http.StatusForbidden)
			return
		}
		c.registry.serveBlob(w, q, d)
	})).ServeHTTP(counted, q)
}
