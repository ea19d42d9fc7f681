package registry

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

// contentRange is the value of a Content-Range header (RFC 9110, section 14.4).
type contentRange struct {
	// first and last are the positions of the first and the last byte; both -1 in the form that comes with status 416.
	first, last int64
	// total is the size of the whole; -1 when it is not told.
	total int64
}

// parseContentRange reads "bytes 0-99/200", "bytes 0-99/*" and "bytes */200". Other units and positions that
// contradict each other are errors.
func parseContentRange(s string) (contentRange, error) {
	bad := fmt.Errorf("Content-Range %q is not one of bytes: %w", bounded(s), model.ErrUnavailable)
	unit, rest, ok := strings.Cut(strings.TrimSpace(s), " ")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return contentRange{}, bad
	}
	positions, size, ok := strings.Cut(strings.TrimSpace(rest), "/")
	if !ok {
		return contentRange{}, bad
	}
	r := contentRange{first: -1, last: -1, total: -1}
	if size != "*" {
		if r.total, ok = number(size); !ok {
			return contentRange{}, bad
		}
	}
	if positions == "*" {
		if r.total < 0 {
			return contentRange{}, bad
		}
		return r, nil
	}
	from, to, dash := strings.Cut(positions, "-")
	var okFrom, okTo bool
	r.first, okFrom = number(from)
	r.last, okTo = number(to)
	if !dash || !okFrom || !okTo || r.last < r.first || (r.total >= 0 && r.last >= r.total) {
		return contentRange{}, bad
	}
	return r, nil
}

// number reads digits alone; signs are not numbers here.
func number(s string) (int64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil
}
