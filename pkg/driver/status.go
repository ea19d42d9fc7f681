package driver

import (
	"context"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/pkg/model"
)

// maxMessage bounds the text of an error in bytes. Kubelet copies it into an event, whose message ends at 1,024 bytes,
// behind some words of its own.
const maxMessage = 900

// errStopping is the cause with which calls end when the driver is stopped.
var errStopping = errors.New("the model-csi plugin on this node is stopping and will be asked again")

// errBusy: another call works on the same target.
var errBusy = errors.New("another call for it is being answered")

// statusCodes is the one place that says what a failure is to kubelet. Kubelet takes Canceled, DeadlineExceeded,
// Unavailable, ResourceExhausted and Aborted for "perhaps": it tries again and unpublishes later. Everything else is
// final: it removes the volume's directory and then tries again.
//
// The order counts where an error has two kinds: a pull that goes on is told as such, whatever slowed it down.
var statusCodes = []struct {
	kind error
	code codes.Code
}{
	{errStopping, codes.Unavailable},
	{errBusy, codes.Aborted},
	{model.ErrPulling, codes.Aborted},
	{model.ErrInvalid, codes.InvalidArgument},
	{model.ErrNotFound, codes.NotFound},
	{model.ErrUnauthenticated, codes.Unauthenticated},
	{model.ErrDenied, codes.PermissionDenied},
	{model.ErrNoSpace, codes.ResourceExhausted},
	{model.ErrCorrupt, codes.DataLoss},
	{model.ErrUnavailable, codes.Unavailable},
	{model.ErrConflict, codes.AlreadyExists},
	// Both need somebody to change something first: the artifact, or the operator's limit.
	{model.ErrUnsupported, codes.FailedPrecondition},
	{model.ErrTooLarge, codes.OutOfRange},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
}

// toStatus translates an error for the wire. An error that already has a code keeps it.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := status.FromError(err); ok {
		return status.Error(s.Code(), message(s.Message()))
	}
	code, text := codes.Internal, err.Error()
	for _, c := range statusCodes {
		if errors.Is(err, c.kind) {
			// The code says the kind already; behind a whole sentence it is noise in a pod's events.
			code, text = c.code, strings.TrimSuffix(text, ": "+c.kind.Error())
			break
		}
	}
	return status.Error(code, message(text))
}

// message makes a text of one bounded line. The middle is left out when it is too long: the beginning names the object,
// the end names the cause.
func message(s string) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "\uFFFD"), func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if len(s) <= maxMessage {
		return s
	}
	const gap = " [...] "
	head, tail := 2*(maxMessage-len(gap))/3, len(s)-(maxMessage-len(gap))/3
	for !utf8.RuneStart(s[head]) {
		head--
	}
	for !utf8.RuneStart(s[tail]) {
		tail++
	}
	return s[:head] + gap + s[tail:]
}
