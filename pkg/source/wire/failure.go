package wire

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

// MaxDetail bounds what a server's own words can add to an error, and MaxCause the whole cause: an event has about a
// thousand characters.
const (
	MaxDetail = 200
	MaxCause  = 500
)

// MaxRetryAfter bounds what a server can make a caller wait.
const MaxRetryAfter = time.Hour

// Failure is why one request failed. Its text is complete: what was asked of whom as whom, the cause, and what to do.
type Failure struct {
	// Kind is one of the kinds of package model.
	Kind error
	// Cause is context.Canceled or context.DeadlineExceeded where the caller's context ended, else nil. No other error
	// is kept: those of net/http quote URLs, whose queries are secrets.
	Cause error
	Text  string
	// Status is the HTTP status that decided; 0 when there was no answer.
	Status int
	// After is what Retry-After asked for.
	After time.Duration
	// Again says that the same request may well succeed a moment later.
	Again bool
}

func (f *Failure) Error() string { return f.Text + ": " + f.Kind.Error() }

// Unwrap returns the kind, and the cause where there is one.
func (f *Failure) Unwrap() []error {
	if f.Cause != nil {
		return []error{f.Kind, f.Cause}
	}
	return []error{f.Kind}
}

// Err is the failure as callers of a source see it.
func (f *Failure) Err() error {
	if f.After > 0 {
		return &model.RetryAfterError{After: f.After, Err: f}
	}
	return f
}

// KindOf says what a status means, and whether the same request may well get another one a moment later.
func KindOf(status int) (again bool, kind error) {
	switch status {
	case http.StatusUnauthorized:
		return false, model.ErrUnauthenticated
	case http.StatusForbidden, http.StatusUnavailableForLegalReasons:
		return false, model.ErrDenied
	case http.StatusNotFound, http.StatusGone:
		return false, model.ErrNotFound
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusTooEarly:
		return true, model.ErrUnavailable
	case http.StatusProxyAuthRequired:
		return false, model.ErrUnavailable
	}
	switch {
	case status >= 500:
		return true, model.ErrUnavailable
	case status >= 400:
		return false, model.ErrInvalid
	}
	return false, model.ErrUnavailable // an answer out of place, as from a captive portal
}

const (
	// attempts and FirstPause: four attempts span about two seconds, which outlasts a server's pod being replaced
	// behind its service. Longer outages are for callers, who know what else there is to do.
	attempts = 4
	// FirstPause is the pause after the first attempt.
	FirstPause = 250 * time.Millisecond
	// longestPause is how long a Retry-After is waited out here. A longer one goes to the caller.
	longestPause = 5 * time.Second
	// patience is when the last attempt may begin. A host that takes its time to fail is asked once: what waits behind
	// this is a pod whose model may already be cached.
	patience = 10 * time.Second
)

// Retry calls do until it succeeds, fails for good, or has failed often enough. first is the pause after the first
// attempt.
func Retry(ctx context.Context, first time.Duration, do func() *Failure) *Failure {
	start := time.Now()
	for attempt := 1; ; attempt++ {
		f := do()
		if f == nil || !f.Again || attempt == attempts || f.After > longestPause || time.Since(start) > patience || ctx.Err() != nil {
			return f
		}
		select {
		case <-time.After(pause(first, attempt, f.After, rand.Float64())): //nolint:gosec // jitter is no secret
		case <-ctx.Done():
			return f
		}
	}
}

// pause is how long to wait after an attempt: twice as long each time, never less than the server asked for, and
// spread by jitter (from 0 to 1), because many nodes fail at the same moment.
func pause(first time.Duration, attempt int, after time.Duration, jitter float64) time.Duration {
	d := max(first<<(attempt-1), after)
	return d + time.Duration(jitter*float64(d)/2)
}
