package model

import (
	"errors"
	"time"
)

// The kinds of failure. An error anywhere in the product wraps exactly one of them, or none when it is our own fault.
// What each becomes on the wire is known to the CSI driver alone.
var (
	// ErrInvalid: what the caller or the artifact says cannot be accepted, and asking again will not help.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: the registry answered, and what was named is not there.
	ErrNotFound = errors.New("not found")
	// ErrUnauthenticated: the registry does not know who asks (HTTP 401).
	ErrUnauthenticated = errors.New("unauthenticated")
	// ErrDenied: the registry knows who asks and says no (HTTP 403), or a policy does.
	ErrDenied = errors.New("denied")
	// ErrNoSpace: the node has no room (bytes or inodes) for the model.
	ErrNoSpace = errors.New("no space")
	// ErrCorrupt: bytes do not have the digest or size that names them.
	ErrCorrupt = errors.New("corrupt")
	// ErrUnavailable: the registry or the network does not answer, or answers that it cannot now.
	ErrUnavailable = errors.New("unavailable")
	// ErrPulling: the work goes on; asking again later joins it.
	ErrPulling = errors.New("still pulling")
	// ErrConflict: the object exists with other properties.
	ErrConflict = errors.New("conflict")
	// ErrUnsupported: understood, and not something that this product does.
	ErrUnsupported = errors.New("unsupported")
	// ErrTooLarge: a limit that the operator may raise was exceeded.
	ErrTooLarge = errors.New("limit exceeded")
)

// RetryAfterError is a transient failure whose server said how long to wait. It unwraps to Err.
type RetryAfterError struct {
	After time.Duration
	Err   error
}

func (e *RetryAfterError) Error() string { return e.Err.Error() }
func (e *RetryAfterError) Unwrap() error { return e.Err }
