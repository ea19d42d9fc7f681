package registry

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// A Fault changes how requests are answered, by wrapping whoever answers them.
type Fault func(next http.Handler) http.Handler

// Rule selects requests. Empty fields match everything.
type Rule struct {
	Kind       Kind
	Method     string
	Repository string
	Reference  string
	// Skip lets so many matching requests through before the first fault.
	Skip int
	// Times is how many requests are spoilt; 0 means all.
	Times int
	// Every spoils one matching request in so many; 0 means each.
	Every int
}

// Injection is a fault at work.
type Injection struct {
	rule  Rule
	fault Fault
	owner *Registry
	seen  atomic.Int64
	hits  atomic.Int64
}

// Inject spoils the requests that match, until Remove. Of several faults that match a request the one that was injected last works.
func (r *Registry) Inject(rule Rule, fault Fault) *Injection {
	i := &Injection{rule: rule, fault: fault, owner: r}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rules = append([]*Injection{i}, r.rules...)
	return i
}

// Hits is how many requests were spoilt.
func (i *Injection) Hits() int { return int(i.hits.Load()) }

// Remove ends the fault. Requests on their way stay spoilt.
func (i *Injection) Remove() {
	i.owner.mu.Lock()
	defer i.owner.mu.Unlock()
	var kept []*Injection
	for _, other := range i.owner.rules {
		if other != i {
			kept = append(kept, other)
		}
	}
	i.owner.rules = kept
}

func (r *Registry) faulty(q Request, next http.Handler) http.Handler {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, i := range r.rules {
		if i.takes(q) {
			i.hits.Add(1)
			return i.fault(next)
		}
	}
	return next
}

// takes decides and counts.
func (i *Injection) takes(q Request) bool {
	matches := func(want, got string) bool { return want == "" || want == got }
	if !matches(string(i.rule.Kind), string(q.Kind)) || !matches(i.rule.Method, q.Method) ||
		!matches(i.rule.Repository, q.Repository) || !matches(i.rule.Reference, q.Reference) {
		return false
	}
	n := int(i.seen.Add(1)) - i.rule.Skip
	if n <= 0 || i.rule.Times > 0 && int(i.hits.Load()) >= i.rule.Times {
		return false
	}
	return i.rule.Every <= 1 || n%i.rule.Every == 0
}

// Status answers with a status code, and a Retry-After header where retryAfter is at least a second.
func Status(code int, retryAfter time.Duration) Fault {
	return func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if retryAfter >= time.Second {
				w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter/time.Second)))
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(code)
			_, _ = fmt.Fprintf(w, `{"errors":[{"code":"UNKNOWN","message":%q}]}`, http.StatusText(code))
		})
	}
}

// Latency waits before it answers, as a long way would.
func Latency(d time.Duration) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			select {
			case <-time.After(d):
			case <-q.Context().Done():
			}
			next.ServeHTTP(w, q)
		})
	}
}

// IgnoreRange answers every range with 200 and the whole blob.
func IgnoreRange() Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			q = q.Clone(q.Context())
			q.Header.Del("Range")
			next.ServeHTTP(w, q)
		})
	}
}

// ShiftRange serves another range than the one asked for, so many bytes further on, and says so in Content-Range.
func ShiftRange(by int64) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			var from, to int64
			if n, _ := fmt.Sscanf(q.Header.Get("Range"), "bytes=%d-%d", &from, &to); n == 2 {
				q = q.Clone(q.Context())
				q.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from+by, to+by))
			}
			next.ServeHTTP(w, q)
		})
	}
}

// Reset sends so many bytes of the body and then resets the connection.
func Reset(after int64) Fault {
	return cut(after, func(w http.ResponseWriter, _ *http.Request) { reset(w) })
}

func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// ResetEvery resets whatever connection sends the last of so many bytes, all answers counted together.
func ResetEvery(bytes int64) Fault {
	var left atomic.Int64
	left.Store(bytes)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			edited := &editedWriter{ResponseWriter: w, left: -1}
			edited.edit = func(p []byte) []byte {
				if left.Add(-int64(len(p))) <= 0 {
					left.Store(bytes)
					edited.left, edited.full = int64(len(p)), func() { reset(w) }
				}
				return p
			}
			next.ServeHTTP(edited, q)
		})
	}
}

// Truncate sends so many bytes of the body and then closes the connection in order.
func Truncate(after int64) Fault {
	return cut(after, func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
}

// Stall sends so many bytes of the body and then nothing, until the client gives up.
func Stall(after int64) Fault {
	return cut(after, func(w http.ResponseWriter, q *http.Request) {
		_ = http.NewResponseController(w).Flush()
		<-q.Context().Done()
		panic(http.ErrAbortHandler)
	})
}

// Short promises and sends a body of at most so many bytes, whatever the range: a complete answer that is too short.
func Short(length int64) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			next.ServeHTTP(&editedWriter{ResponseWriter: w, left: length, header: func(h http.Header, _ int) {
				if n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64); err == nil && n > length {
					h.Set("Content-Length", strconv.FormatInt(length, 10))
				}
			}}, q)
		})
	}
}

// Corrupt flips the bits of the blob's byte at offset, in every answer that contains it.
func Corrupt(offset int64) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			var at int64 // in the blob, of the next byte that is written
			next.ServeHTTP(&editedWriter{ResponseWriter: w, left: -1,
				header: func(h http.Header, _ int) { at = rangeStart(h) },
				edit: func(p []byte) []byte {
					i := offset - at
					at += int64(len(p))
					if i < 0 || i >= int64(len(p)) {
						return p
					}
					p = append([]byte(nil), p...)
					p[i] ^= 0xff
					return p
				}}, q)
		})
	}
}

func rangeStart(h http.Header) int64 {
	rest, ok := strings.CutPrefix(h.Get("Content-Range"), "bytes ")
	if !ok {
		return 0
	}
	from, _, _ := strings.Cut(rest, "-")
	n, _ := strconv.ParseInt(from, 10, 64)
	return n
}

// cut lets so many bytes of the body pass and then calls end, which does not have to return.
func cut(after int64, end func(http.ResponseWriter, *http.Request)) Fault {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			edited := &editedWriter{ResponseWriter: w, left: after, full: func() { end(w, q) }}
			next.ServeHTTP(edited, q)
		})
	}
}

// editedWriter changes the header and the bytes of an answer on their way.
type editedWriter struct {
	http.ResponseWriter
	header func(http.Header, int)
	edit   func([]byte) []byte
	// left is how much more of the body passes; negative means all. full is called once when it is used up.
	left int64
	full func()

	wrote bool
	ended bool
}

func (w *editedWriter) WriteHeader(status int) {
	if !w.wrote && w.header != nil {
		w.header(w.Header(), status)
	}
	w.wrote = true
	w.ResponseWriter.WriteHeader(status)
}

func (w *editedWriter) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	if w.ended {
		return 0, http.ErrBodyNotAllowed
	}
	pass := p
	if w.left >= 0 && int64(len(pass)) >= w.left {
		pass = pass[:w.left]
	}
	if w.edit != nil {
		pass = w.edit(pass)
	}
	n, err := w.ResponseWriter.Write(pass)
	if w.left >= 0 {
		w.left -= int64(n)
	}
	if err == nil && w.left == 0 {
		w.ended = true
		if w.full != nil {
			w.full()
		}
		return n, http.ErrBodyNotAllowed
	}
	return n, err
}

func (w *editedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
