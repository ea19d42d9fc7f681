package config

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/model-csi/model-csi/pkg/internal/addresses"
	"github.com/model-csi/model-csi/pkg/internal/quantity"
)

// Bytes is a size in bytes. Its text has the form of a Kubernetes quantity: 512Mi, 50Gi, 1.5T, 1000000.
type Bytes int64

// ParseBytes reads a size. Fractions are exact and must come to whole bytes; negative sizes are refused.
func ParseBytes(s string) (Bytes, error) {
	n, err := quantity.Parse(s)
	return Bytes(n), err
}

// String is the shortest exact form without a fraction, which ParseBytes reads back.
func (b Bytes) String() string { return quantity.Format(int64(b)) }

// Reserve is free space to keep on a filesystem: a share of its size, or a number of bytes. At most one is not zero.
type Reserve struct {
	// Percent of the filesystem's size, from 0 to below 100.
	Percent float64
	Bytes   Bytes
}

// ParseReserve reads a percentage such as 10% or 2.5%, or a size such as 50Gi.
func ParseReserve(s string) (Reserve, error) {
	p, ok, err := quantity.ParsePercent(s)
	if !ok {
		b, err := ParseBytes(s)
		if err != nil {
			return Reserve{}, fmt.Errorf("%w; a percentage such as 10%% is allowed as well", err)
		}
		return Reserve{Bytes: b}, nil
	}
	if err != nil {
		return Reserve{}, err
	}
	if p >= 100 {
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
		return quantity.FormatPercent(r.Percent)
	}
	return r.Bytes.String()
}

// List is several texts as one, with commas between them.
type List string

// ParseList reads a list. Spaces around an item are dropped; an item that is empty or there twice is refused.
func ParseList(s string) (List, error) {
	if strings.TrimSpace(s) == "" {
		return "", nil
	}
	var items []string
	for item := range strings.SplitSeq(s, ",") {
		item = strings.TrimSpace(item)
		if item == "" || slices.Contains(items, item) {
			return "", errors.New("items of a list must not be empty, and each be there once")
		}
		items = append(items, item)
	}
	return List(strings.Join(items, ",")), nil
}

// Items are the texts.
func (l List) Items() []string {
	if l == "" {
		return nil
	}
	return strings.Split(string(l), ",")
}

// parseAddresses checks a list of blocked addresses; the empty text is the default.
func parseAddresses(s string) (string, error) {
	if s == "" {
		return "default", nil
	}
	_, err := addresses.Parse(s)
	return s, err
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

func parseWriteMode(s string) (string, error) {
	if s != WriteAuto && s != WriteDirect && s != WriteBuffered {
		return "", errors.New("it must be auto, direct or buffered")
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
