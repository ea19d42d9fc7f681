package registry

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Stage plays servers that mean harm. It reads requests as HTTP and answers them in whatever bytes its script writes, which
// an HTTP server would not let out. It remembers every request and the address at which it came in.
type Stage struct {
	script func(*Call)

	mu        sync.Mutex // guards what follows
	listeners []net.Listener
	conns     map[net.Conn]struct{}
	visits    []Visit
	closed    bool
	served    sync.WaitGroup
}

// Visit is a request as it came in.
type Visit struct {
	Time time.Time
	// Address is the one that the client connected to, without the port.
	Address string
	// TLS says that the connection was encrypted.
	TLS bool
	// Host is what the client takes the server for.
	Host          string
	Method, Path  string
	Authorization string
	Header        http.Header
	// Body is its beginning.
	Body string
}

// Call is one request and the connection that it came by.
type Call struct {
	*http.Request
	// Body is the beginning of the request's body, which has been read.
	Body string

	conn net.Conn
	read *bufio.Reader
	keep bool
	// edit has the last word about headers.
	edit *strings.Replacer
}

// Replace changes a word in the names and values of the headers that Send and Head write from now on.
func (c *Call) Replace(old, with string) { c.edit = strings.NewReplacer(old, with) }

// NewStage makes a stage without a door: Listen opens them. The script is called from several goroutines. A connection goes on
// if the script's last word was Send, and ends otherwise.
func NewStage(script func(*Call)) *Stage {
	return &Stage{script: script, conns: map[net.Conn]struct{}{}}
}

// Listen opens an address, in TLS where config is not nil.
func (s *Stage) Listen(address string, config *tls.Config) (net.Addr, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("stage: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listeners = append(s.listeners, l)
	s.served.Add(1)
	go func() {
		defer s.served.Done()
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.admit(conn, config)
		}
	}()
	return l.Addr(), nil
}

func (s *Stage) admit(conn net.Conn, config *tls.Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close()
		return
	}
	s.conns[conn] = struct{}{}
	s.served.Add(1)
	go func() {
		defer s.served.Done()
		defer s.leave(conn)
		s.serve(conn, config)
	}()
}

func (s *Stage) leave(conn net.Conn) {
	_ = conn.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
}

// maxSeenBody is how much of a request's body is read: clients of registries send forms to token services, no more.
const maxSeenBody = 64 << 10

func (s *Stage) serve(raw net.Conn, config *tls.Config) {
	conn := raw
	if config != nil {
		conn = tls.Server(raw, config)
	}
	read := bufio.NewReader(conn)
	for {
		q, err := http.ReadRequest(read)
		if err != nil {
			return
		}
		body, _ := io.ReadAll(io.LimitReader(q.Body, maxSeenBody))
		address, _, _ := net.SplitHostPort(conn.LocalAddr().String())
		s.note(Visit{Time: time.Now(), Address: address, TLS: config != nil, Host: q.Host, Method: q.Method, Path: q.URL.RequestURI(),
			Authorization: q.Header.Get("Authorization"), Header: q.Header, Body: string(body)})
		c := &Call{Request: q, Body: string(body), conn: conn, read: read}
		s.script(c)
		if !c.keep {
			return
		}
	}
}

func (s *Stage) note(v Visit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.visits = append(s.visits, v)
}

// Visits lists all requests so far.
func (s *Stage) Visits() []Visit {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Visit(nil), s.visits...)
}

// Close ends all connections and waits for the scripts.
func (s *Stage) Close() error {
	s.mu.Lock()
	s.closed = true
	var errs []error
	for _, l := range s.listeners {
		errs = append(errs, l.Close())
	}
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.served.Wait()
	return errors.Join(errs...)
}

// Send is an answer as it should be: a status, pairs of header names and values, and a body of the length that it says.
func (c *Call) Send(status int, body []byte, header ...string) {
	c.Head(status, append([]string{"Content-Length", strconv.Itoa(len(body))}, header...)...)
	if c.Method != http.MethodHead {
		c.Raw(string(body))
	}
	c.keep = true
}

// SendRange is Send for the range that the request asks for, or for all where it asks for none.
func (c *Call) SendRange(content []byte, header ...string) {
	var from, to int
	if n, _ := fmt.Sscanf(c.Header.Get("Range"), "bytes=%d-%d", &from, &to); n < 2 || from > to || to >= len(content) {
		c.Send(http.StatusOK, content, header...)
		return
	}
	header = append([]string{"Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(content))}, header...)
	c.Send(http.StatusPartialContent, content[from:to+1], header...)
}

// Head writes a status line and a header, nothing else. What follows is up to the script.
func (c *Call) Head(status int, header ...string) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	for i := 0; i+1 < len(header); i += 2 {
		line := header[i] + ": " + header[i+1] + "\r\n"
		if c.edit != nil {
			line = c.edit.Replace(line)
		}
		b.WriteString(line)
	}
	b.WriteString("\r\n")
	c.Raw(b.String())
}

// Raw writes bytes as they are, and reports whether they could be written.
func (c *Call) Raw(text string) bool {
	c.keep = false
	_, err := io.WriteString(c.conn, text)
	return err == nil
}

// Flood writes the text again and again until the client goes away, or limit bytes are out.
func (c *Call) Flood(text string, limit int64) {
	many := []byte(text)
	for len(many) < 32<<10 {
		many = append(many, many...)
	}
	c.keep = false
	for n := int64(0); n < limit; n += int64(len(many)) {
		if _, err := c.conn.Write(many); err != nil {
			return
		}
	}
}

// Trickle writes the text once every pause until the client goes away.
func (c *Call) Trickle(text string, pause time.Duration) {
	for c.Raw(text) {
		time.Sleep(pause)
	}
}

// Hang says nothing until the client goes away.
func (c *Call) Hang() {
	c.keep = false
	_, _ = io.Copy(io.Discard, c.read)
}
