package wire

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

// ContentRange is the value of a Content-Range header (RFC 9110, section 14.4).
type ContentRange struct {
	// First and Last are the positions of the first and the last byte; both -1 in the form that comes with status 416.
	First, Last int64
	// Total is the size of the whole; -1 when it is not told.
	Total int64
}

// ParseContentRange reads "bytes 0-99/200", "bytes 0-99/*" and "bytes */200". Other units and positions that
// contradict each other are errors.
func ParseContentRange(s string) (ContentRange, error) {
	bad := fmt.Errorf("Content-Range %q is not one of bytes: %w", Bounded(s), model.ErrUnavailable)
	unit, rest, ok := strings.Cut(strings.TrimSpace(s), " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return ContentRange{}, bad
	}
	positions, size, ok := strings.Cut(strings.TrimSpace(rest), "/")
	if !ok {
		return ContentRange{}, bad
	}
	r := ContentRange{First: -1, Last: -1, Total: -1}
	if size != "*" {
		if r.Total, ok = number(size); !ok {
			return ContentRange{}, bad
		}
	}
	if positions == "*" {
		if r.Total < 0 {
			return ContentRange{}, bad
		}
		return r, nil
	}
	from, to, dash := strings.Cut(positions, "-")
	var okFrom, okTo bool
	r.First, okFrom = number(from)
	r.Last, okTo = number(to)
	if !dash || !okFrom || !okTo || r.Last < r.First || (r.Total >= 0 && r.Last >= r.Total) {
		return ContentRange{}, bad
	}
	return r, nil
}

// number reads digits alone; signs are not numbers here.
func number(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil
}
