package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/model-csi/model-csi/pkg/internal/nearest"
	"github.com/model-csi/model-csi/pkg/internal/quantity"
	"github.com/model-csi/model-csi/pkg/model"
)

// The keys of a policy.
const (
	keyDefaults   = "defaults"
	keyNamespaces = "namespaces"

	keyAllow     = "allow"
	keyDeny      = "deny"
	keyModelSize = "maxModelSize"
	keyFiles     = "maxFiles"
	keyShare     = "cacheShare"
)

var (
	topKeys  = []string{keyDefaults, keyNamespaces}
	ruleKeys = []string{keyAllow, keyDeny, keyModelSize, keyFiles, keyShare}

	// namespacePattern is an RFC 1123 label, which the API server makes of namespaces.
	namespacePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
)

// Parse reads a policy. All mistakes are reported together, each with the path of its key; keys that are not known are
// mistakes, because a rule that is misspelt would otherwise be no rule. Errors wrap model.ErrInvalid. A document without
// content is a policy that allows everything.
func Parse(text []byte) (*Policy, error) {
	var document map[string]any
	if err := yaml.UnmarshalStrict(text, &document, func(d *json.Decoder) *json.Decoder {
		d.UseNumber() // or sizes would pass through floats
		return d
	}); err != nil {
		return nil, fmt.Errorf("not a YAML mapping of %s and %s: %v: %w", keyDefaults, keyNamespaces, err, model.ErrInvalid)
	}
	p := &Policy{namespaces: make(map[string]rules)}
	r := &reader{}
	r.keys("", document, topKeys)
	if v, ok := document[keyDefaults]; ok {
		p.defaults = r.rules(keyDefaults, v)
	}
	if v, ok := document[keyNamespaces]; ok {
		m := r.mapping(keyNamespaces, v)
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if !namespacePattern.MatchString(name) {
				r.wrong(keyNamespaces, "%.80q is not the name of a namespace; each has rules of its own, patterns of names are not possible", name)
				continue
			}
			p.namespaces[name] = r.rules(keyNamespaces+"."+name, m[name])
		}
	}
	if len(r.errs) > 0 {
		return nil, errors.Join(r.errs...)
	}
	return p, nil
}

// reader collects the mistakes of a document.
type reader struct{ errs []error }

func (r *reader) wrong(path, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf("%s: %s: %w", path, fmt.Sprintf(format, args...), model.ErrInvalid))
}

// keys reports those that are not known.
func (r *reader) keys(path string, m map[string]any, known []string) {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if slices.Contains(known, key) {
			continue
		}
		at := path
		if at == "" {
			at = "policy"
		}
		r.wrong(at, "unknown key %.80q; did you mean %q?", key, nearest.Of(key, known))
	}
}

func (r *reader) mapping(path string, v any) map[string]any {
	m, ok := v.(map[string]any)
	if !ok {
		r.wrong(path, "it must be a mapping; leave the key out if there is nothing to say")
	}
	return m
}

func (r *reader) rules(path string, v any) (out rules) {
	m := r.mapping(path, v)
	r.keys(path, m, ruleKeys)
	for key, value := range m {
		at := path + "." + key
		switch key {
		case keyAllow:
			out.allow = r.patterns(at, value)
		case keyDeny:
			out.deny = r.patterns(at, value)
		case keyModelSize:
			out.modelSize = scalar(r, at, value, parseSize)
		case keyFiles:
			out.files = scalar(r, at, value, parseFiles)
		case keyShare:
			out.share = scalar(r, at, value, parseShare)
		}
	}
	return out
}

func (r *reader) patterns(path string, v any) []Pattern {
	items, ok := v.([]any)
	if !ok {
		r.wrong(path, "it must be a list of patterns, such as [registry.example.com/models/**]")
		return nil
	}
	out := make([]Pattern, 0, len(items)) // not nil: an empty list says something
	for i, item := range items {
		text, ok := item.(string)
		if !ok {
			r.wrong(fmt.Sprintf("%s[%d]", path, i), "a pattern is text; write it in quotes")
			continue
		}
		p, err := ParsePattern(text)
		if err != nil {
			r.errs = append(r.errs, fmt.Errorf("%s[%d]: %w", path, i, err))
			continue
		}
		out = append(out, p)
	}
	return out
}

// scalar reads a text or a number. The empty text is the zero value: no limit.
func scalar[T any](r *reader, path string, v any, parse func(string) (T, error)) *T {
	var out T
	var text string
	switch v := v.(type) {
	case string:
		text = v
	case json.Number:
		text = v.String()
		// Helm writes 1000000 as 1e+06.
		if f, err := v.Float64(); err == nil && strings.ContainsAny(text, "eE") && f == math.Trunc(f) && math.Abs(f) < 1<<53 {
			text = strconv.FormatInt(int64(f), 10)
		}
	default:
		r.wrong(path, `it must be a single value; write "" to lift the limit of the defaults`)
		return nil
	}
	if text == "" {
		return &out
	}
	out, err := parse(text)
	if err != nil {
		r.wrong(path, "%.80q is not allowed: %v", text, err)
		return nil
	}
	return &out
}

const noLimit = `it must be more than 0; write "" for no limit`

func parseSize(s string) (int64, error) {
	n, err := quantity.Parse(s)
	if err == nil && n == 0 {
		err = errors.New(noLimit)
	}
	return n, err
}

func parseFiles(s string) (int, error) {
	n, err := strconv.ParseInt(s, 10, 32)
	switch {
	case err != nil || n < 0:
		return 0, errors.New("it must be a whole number")
	case n == 0:
		return 0, errors.New(noLimit)
	}
	return int(n), nil
}

func parseShare(s string) (Share, error) {
	percent, ok, err := quantity.ParsePercent(s)
	switch {
	case err != nil:
		return Share{}, err
	case ok && (percent <= 0 || percent > 100):
		return Share{}, errors.New("a percentage must be above 0 and at most 100%")
	case ok:
		return Share{Percent: percent}, nil
	}
	n, err := parseSize(s)
	if err != nil {
		return Share{}, fmt.Errorf("%w; a percentage of the cache such as 30%% is allowed as well", err)
	}
	return Share{Bytes: n}, nil
}
