package registry

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// cdn is the second origin that blobs are redirected to, by URLs that expire.
type cdn struct {
	registry *Registry
	ttl      time.Duration
	address  string
	server   *http.Server
}

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
	return fmt.Sprintf("http://%s/%s?expires=%d", c.address, d, time.Now().Add(c.ttl).UnixMilli())
}

func (c *cdn) handle(w http.ResponseWriter, q *http.Request) {
	entry := describe(q)
	entry.Kind, entry.Reference = KindCDN, strings.TrimPrefix(q.URL.Path, "/")
	counted := &countingWriter{ResponseWriter: w, log: &c.registry.log, kind: KindCDN, method: q.Method}
	c.registry.log.begin(entry)
	defer func() {
		entry.Status, entry.Bytes, entry.Duration = counted.status, counted.bytes, time.Since(entry.Time)
		c.registry.log.end(entry)
	}()
	c.registry.faulty(entry, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		expires, err := strconv.ParseInt(q.URL.Query().Get("expires"), 10, 64)
		d := digest.Digest(entry.Reference)
		// An S3 bucket refuses a request that carries credentials besides the signature in its URL.
		if q.Header.Get("Authorization") != "" {
			http.Error(w, "only one authentication mechanism is allowed", http.StatusBadRequest)
			return
		}
		if err != nil || d.Validate() != nil || time.Now().UnixMilli() > expires {
			http.Error(w, "the URL has expired", http.StatusForbidden)
			return
		}
		c.registry.serveBlob(w, q, d)
	})).ServeHTTP(counted, q)
}
