package wire

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Innermost is the text of the cause at the end of a chain of wrapping, where URLs are not repeated.
func Innermost(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err.Error()
		}
		if op, ok := err.(*net.OpError); ok {
			return op.Op + ": " + op.Err.Error() // without the node's own address
		}
		err = inner
	}
}

// ServerWords extracts what a registry or a token service says in its own form of error. Other bodies, HTML pages for
// example, say nothing.
func ServerWords(body []byte) string {
	var said struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
		Code        any    `json:"code"`
		Message     string `json:"message"`
		Details     string `json:"details"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	// A wrong type in one field leaves the others filled.
	_ = json.Unmarshal(body, &said)
	if len(said.Errors) > 0 {
		return join(said.Errors[0].Code, said.Errors[0].Message)
	}
	code, _ := said.Code.(string)
	return join(code, said.Error, said.Message, said.Details, said.Description)
}

func join(parts ...string) string {
	var out []string
	for _, p := range parts {
		if p = strings.TrimSpace(p); p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, ": ")
}

// RetryAfter reads the header of RFC 9110, section 10.2.3: seconds or a date. 0 means that it says nothing usable.
func RetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	var d time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(value); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), MaxRetryAfter)
}

// Bounded makes foreign text fit for a log line: printable, and not long.
func Bounded(s string) string { return Printable(s, MaxDetail) }

// Printable replaces what cannot be printed, and cuts the text after limit bytes.
func Printable(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "..."
	}
	return s
}
