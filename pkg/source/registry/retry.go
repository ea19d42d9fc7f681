package registry

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

const (
	// attempts and firstPause: four attempts span about two seconds, which outlasts a registry's pod being replaced
	// behind its service. Longer outages are for callers, who know what else there is to do.
	attempts   = 4
	firstPause = 250 * time.Millisecond
	// longestPause is how long a Retry-After is waited out here. A longer one goes to the caller.
	longestPause = 5 * time.Second
	// patience is when the last attempt may begin. A host that takes its time to fail is asked once: what waits behind
	// this is a pod whose model may already be cached.
	patience = 10 * time.Second
)

// retry calls do until it succeeds, fails for good, or has failed often enough. first is the pause after the first
// attempt.
func retry(ctx context.Context, first time.Duration, do func() *failure) *failure {
	start := time.Now()
	for attempt := 1; ; attempt++ {
		f := do()
		if f == nil || !f.again || attempt == attempts || f.after > longestPause || time.Since(start) > patience || ctx.Err() != nil {
			return f
		}
		select {
		case <-time.After(pause(first, attempt, f.after, rand.Float64())): //nolint:gosec // jitter is no secret
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

// slow replaces a failure that our own deadline caused, which looks like the caller's.
func slow(outer, inner context.Context, s subject, f *failure) *failure {
	if outer.Err() != nil || context.Cause(inner) != errSlow {
		return f
	}
	slow := s.fail(model.ErrUnavailable, fmt.Sprintf("%v", errSlow), "")
	slow.again = true
	return slow
}
