package config

import (
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size in bytes. Its text has the form of a Kubernetes quantity: 512Mi, 50Gi, 1.5T, 1000000.
type Bytes int64

const sizeForm = "a size is a number of bytes with an optional unit, such as 512Mi, 50Gi or 2T"

// units, with those first whose suffix contains that of another.
var units = []struct {
	suffix string
	size   int64
}{
	{"Pi", 1 << 50}, {"Ti", 1 << 40}, {"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10},
	{"P", 1e15}, {"T", 1e12}, {"G", 1e9}, {"M", 1e6}, {"k", 1e3},
}

// ParseBytes reads a size. Fractions are exact and must come to whole bytes; negative sizes are refused.
func ParseBytes(s string) (Bytes, error) {
	digits, unit := s, int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			digits, unit = rest, u.size
			break
		}
	}
	if !isDecimal(digits) {
		return 0, errors.New(sizeForm)
	}
	r, ok := new(big.Rat).SetString(digits)
	if !ok {
		return 0, errors.New(sizeForm)
	}
	r.Mul(r, new(big.Rat).SetInt64(unit))
	if !r.IsInt() {
		return 0, errors.New("it does not come to whole bytes")
	}
	if !r.Num().IsInt64() {
		return 0, errors.New("it is larger than any disk")
	}
	return Bytes(r.Num().Int64()), nil
}

// isDecimal accepts digits with at most one point between or before them: no sign, exponent, base prefix or "_", and no
// more of them than a size can need.
func isDecimal(s string) bool {
	const longest = 32
	whole, fraction, point := strings.Cut(s, ".")
	if len(s) > longest || whole == "" || (point && fraction == "") {
		return false
	}
	return strings.Trim(whole+fraction, "0123456789") == ""
}

// String is the shortest exact form without a fraction, which ParseBytes reads back.
func (b Bytes) String() string {
	shortest := strconv.FormatInt(int64(b), 10)
	for _, u := range units {
		if b == 0 || int64(b)%u.size != 0 {
			continue
		}
		if s := strconv.FormatInt(int64(b)/u.size, 10) + u.suffix; len(s) < len(shortest) {
			shortest = s
		}
	}
	return shortest
}

// Reserve is free space to keep on a filesystem: a share of its size, or a number of bytes. At most one is not zero.
type Reserve struct {
	// Percent of the filesystem's size, from 0 to below 100.
	Percent float64
	Bytes   Bytes
}

// ParseReserve reads a percentage such as 10% or 2.5%, or a size such as 50Gi.
func ParseReserve(s string) (Reserve, error) {
	digits, ok := strings.CutSuffix(s, "%")
	if !ok {
		b, err := ParseBytes(s)
		if err != nil {
			return Reserve{}, fmt.Errorf("%w; a percentage such as 10%% is allowed as well", err)
		}
		return Reserve{Bytes: b}, nil
	}
	if !isDecimal(digits) {
		return Reserve{}, errors.New("a percentage is a number from 0 to below 100, such as 10% or 2.5%")
	}
	p, err := strconv.ParseFloat(digits, 64)
	if err != nil || p >= 100 {
		return Reserve{}, errors.New("a percentage must be below 100%, or nothing could ever be cached")
	}
	return Reserve{Percent: p}, nil
}

// Of returns the reserve in bytes on a filesystem of the given size in bytes.
func (r Reserve) Of(size int64) int64 {
	if r.Percent > 0 {
		return int64(float64(size) / 100 * r.Percent)
	}
	return int64(r.Bytes)
}

// String is the form that ParseReserve reads back.
func (r Reserve) String() string {
	if r.Percent > 0 {
		return strconv.FormatFloat(r.Percent, 'f', -1, 64) + "%"
	}
	return r.Bytes.String()
}

func parseLevel(s string) (slog.Level, error) {
	// slog's own parser also takes "info+2" and any case; one spelling is enough in a file that people compare.
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if s == strings.ToLower(l.String()) {
			return l, nil
		}
	}
	return 0, errors.New("it must be debug, info, warn or error")
}

func parseFormat(s string) (string, error) {
	if s != LogText && s != LogJSON {
		return "", errors.New("it must be text or json")
	}
	return s, nil
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, errors.New("a duration is a number with a unit, such as 90s, 10m or 24h")
	}
	return d, nil
}

// formatDuration leaves out the zero minutes and seconds that time.Duration prints.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

func parseNumber(s string) (int, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n < 0 {
		return 0, errors.New("it must be a whole number, not negative")
	}
	return int(n), nil
}
