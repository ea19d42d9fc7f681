// Package quantity reads the sizes and percentages that operators write, in the form of Kubernetes quantities.
package quantity

import (
	"errors"
	"math/big"
	"strconv"
	"strings"
)

var errSize = errors.New("a size is a number of bytes with an optional unit, such as 512Mi, 50Gi or 2T")

// units, with those first whose suffix contains that of another.
var units = []struct {
	suffix string
	size   int64
}{
	{"Pi", 1 << 50}, {"Ti", 1 << 40}, {"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10},
	{"P", 1e15}, {"T", 1e12}, {"G", 1e9}, {"M", 1e6}, {"k", 1e3},
}

// Parse reads a size in bytes, such as 512Mi, 50Gi, 1.5T or 1000000. Fractions are exact and must come to whole bytes;
// negative sizes are refused. Errors say what is allowed and not what was written.
func Parse(s string) (int64, error) {
	digits, unit := s, int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			digits, unit = rest, u.size
			break
		}
	}
	if !isDecimal(digits) {
		return 0, errSize
	}
	r, ok := new(big.Rat).SetString(digits)
	if !ok {
		return 0, errSize
	}
	r.Mul(r, new(big.Rat).SetInt64(unit))
	if !r.IsInt() {
		return 0, errors.New("it does not come to whole bytes")
	}
	if !r.Num().IsInt64() {
		return 0, errors.New("it is larger than any disk")
	}
	return r.Num().Int64(), nil
}

// Format is the shortest exact form without a fraction, which Parse reads back.
func Format(bytes int64) string {
	shortest := strconv.FormatInt(bytes, 10)
	for _, u := range units {
		if bytes == 0 || bytes%u.size != 0 {
			continue
		}
		if s := strconv.FormatInt(bytes/u.size, 10) + u.suffix; len(s) < len(shortest) {
			shortest = s
		}
	}
	return shortest
}

// ParsePercent reads a percentage such as 10% or 2.5%. ok is false for what does not end in a percent sign.
func ParsePercent(s string) (percent float64, ok bool, err error) {
	digits, ok := strings.CutSuffix(s, "%")
	if !ok {
		return 0, false, nil
	}
	if !isDecimal(digits) {
		return 0, true, errors.New("a percentage is a number such as 10% or 2.5%")
	}
	percent, err = strconv.ParseFloat(digits, 64)
	return percent, true, err
}

// FormatPercent is the form that ParsePercent reads back.
func FormatPercent(percent float64) string { return strconv.FormatFloat(percent, 'f', -1, 64) + "%" }

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
