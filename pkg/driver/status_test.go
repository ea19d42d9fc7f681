package driver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestToStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{model.ErrInvalid, codes.InvalidArgument},
		{model.ErrNotFound, codes.NotFound},
		{model.ErrUnauthenticated, codes.Unauthenticated},
		{model.ErrDenied, codes.PermissionDenied},
		{model.ErrNoSpace, codes.ResourceExhausted},
		{model.ErrCorrupt, codes.DataLoss},
		{model.ErrUnavailable, codes.Unavailable},
		{model.ErrPulling, codes.Aborted},
		{model.ErrConflict, codes.AlreadyExists},
		{model.ErrUnsupported, codes.FailedPrecondition},
		{model.ErrTooLarge, codes.OutOfRange},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{errStopping, codes.Unavailable},
		{errBusy, codes.Aborted},
		{errors.New("a defect"), codes.Internal},
		{&model.RetryAfterError{Err: model.ErrUnavailable}, codes.Unavailable},
		// The pull goes on, whatever the registry said last.
		{errors.Join(model.ErrUnavailable, model.ErrPulling), codes.Aborted},
		{status.Error(codes.Unimplemented, "no"), codes.Unimplemented},
	} {
		wrapped := c.err
		if _, isStatus := status.FromError(c.err); c.err != nil && !isStatus {
			wrapped = fmt.Errorf("model x: %w", c.err)
		}
		wantCode(t, toStatus(wrapped), c.want)
	}
}

func TestMessage(t *testing.T) {
	for in, want := range map[string]string{
		"":                         "",
		"plain":                    "plain",
		"two\nlines\r\n\tand tabs": "two lines and tabs",
		"bell\x07 and \x1b[31mred": "bell and [31mred",
		"bad \xff UTF-8":           "bad \uFFFD UTF-8",
		"ümläut – fine":            "ümläut – fine",
	} {
		if got := message(in); got != want {
			t.Errorf("message(%q) = %q, want %q", in, got, want)
		}
	}
	for _, filler := range []string{"x", "ü", "漢", "😀", " \n"} {
		for n := maxMessage / 4; n < maxMessage+10; n++ {
			in := "beginning" + strings.Repeat(filler, n) + "end"
			got := message(in)
			if len(got) > maxMessage || !utf8.ValidString(got) || !strings.HasPrefix(got, "beginning") || !strings.HasSuffix(got, "end") {
				t.Fatalf("message of %d times %q: %d bytes, %q", n, filler, len(got), got)
			}
		}
	}
}
