package policy

import (
	"fmt"
	"strings"

	"github.com/model-csi/model-csi/pkg/internal/quantity"
	"github.com/model-csi/model-csi/pkg/model"
)

// Policy is what an operator allows. It is immutable; nil allows everything.
type Policy struct {
	defaults   rules
	namespaces map[string]rules
}

// rules are those of one place of the file. A nil field says nothing.
type rules struct {
	// allow replaces that of the defaults; without patterns everything is allowed.
	allow []Pattern
	// deny is added to that of the defaults.
	deny []Pattern
	// The limits replace those of the defaults; zero lifts them.
	modelSize *int64
	files     *int
	share     *Share
}

// Share is a part of a node's cache: a percentage of it, or bytes. The zero value is no limit.
type Share struct {
	Percent float64
	Bytes   int64
}

// IsZero reports whether the share is no limit.
func (s Share) IsZero() bool { return s == Share{} }

// Of returns the share in bytes of a cache that can hold size bytes; at least 1, because 0 is no limit.
func (s Share) Of(size int64) int64 {
	switch {
	case s.IsZero():
		return 0
	case s.Bytes > 0:
		return s.Bytes
	}
	return max(1, int64(float64(size)/100*s.Percent))
}

// String is the share as it is written in a policy.
func (s Share) String() string {
	switch {
	case s.IsZero():
		return ""
	case s.Bytes > 0:
		return quantity.Format(s.Bytes)
	}
	return quantity.FormatPercent(s.Percent)
}

// Limits bound what a namespace may have. Zero means no limit.
type Limits struct {
	// ModelSize in bytes, and Files, are of one model.
	ModelSize int64
	Files     int
	// Share of a node's cache that the namespace's pods may use at the same time.
	Share Share
}

// Limits of a namespace. The empty namespace is that of whoever is not known; the defaults are for it.
func (p *Policy) Limits(namespace string) Limits {
	var out Limits
	if p == nil {
		return out
	}
	for _, r := range []rules{p.defaults, p.namespaces[namespace]} {
		if r.modelSize != nil {
			out.ModelSize = *r.modelSize
		}
		if r.files != nil {
			out.Files = *r.files
		}
		if r.share != nil {
			out.Share = *r.share
		}
	}
	return out
}

// Reason says in one word why something is refused. There are few, so that they can be labels of a metric.
type Reason string

// The reasons.
const (
	// Denied: a deny pattern matches.
	Denied Reason = "denied"
	// NotAllowed: there are allow patterns, and none matches.
	NotAllowed Reason = "not-allowed"
	// NoPolicy: there should be a policy, and it cannot be read.
	NoPolicy Reason = "no-policy"
)

// Verdict is a decision about one reference.
type Verdict struct {
	Allowed bool
	// Reason and Rule say why not: Rule is the deny rule that matched, or the allow rules that did not, and where they
	// stand in the policy.
	Reason Reason
	Rule   string

	namespace string
	ref       model.Ref
}

// Decide says whether pods of the namespace may use what the reference names.
func (p *Policy) Decide(namespace string, ref model.Ref) Verdict {
	v := Verdict{Allowed: true, namespace: namespace, ref: ref}
	if p == nil {
		return v
	}
	own := p.namespaces[namespace]
	for _, r := range []struct {
		rules
		of string
	}{{p.defaults, "the defaults"}, {own, "namespaces." + namespace}} {
		for _, pattern := range r.deny {
			if pattern.Match(ref) {
				v.Allowed, v.Reason, v.Rule = false, Denied, fmt.Sprintf("deny %q of %s", pattern, r.of)
				return v
			}
		}
	}
	allow, of := p.defaults.allow, "the defaults"
	if own.allow != nil {
		allow, of = own.allow, "namespaces."+namespace
	}
	for _, pattern := range allow {
		if pattern.Match(ref) {
			return v
		}
	}
	if len(allow) > 0 {
		v.Allowed, v.Reason, v.Rule = false, NotAllowed, fmt.Sprintf("allow %s of %s", list(allow), of)
	}
	return v
}

// or decides about a reference that can be written in another way, about which other decides: a deny rule for either
// refuses it, and an allow rule for either is enough.
func (v Verdict) or(other Verdict) Verdict {
	other.ref = v.ref
	if v.Reason == Denied || other.Reason != Denied && !other.Allowed {
		return v
	}
	return other
}

// Err is nil for what is allowed, else a *Refusal.
func (v Verdict) Err() error {
	who := "namespace " + v.namespace
	if v.namespace == "" {
		who = "a pod whose namespace is not known"
	}
	const next = "use another model, or ask the cluster's operator to change the policy"
	switch {
	case v.Allowed:
		return nil
	case v.Reason == Denied:
		return &Refusal{v.Reason, fmt.Sprintf("%s: the operator's policy does not let %s use it: rule %s matches; %s", v.ref, who, v.Rule, next)}
	}
	return &Refusal{v.Reason, fmt.Sprintf("%s: the operator's policy does not let %s use it: no rule of %s matches; %s", v.ref, who, v.Rule, next)}
}

// Refusal is what a policy's no looks like. It is a model.ErrDenied, or a model.ErrUnavailable where there is no policy
// to ask.
type Refusal struct {
	reason Reason
	text   string
}

func (r *Refusal) Error() string { return r.text + ": " + r.Unwrap().Error() }

// Unwrap returns the kind.
func (r *Refusal) Unwrap() error {
	if r.reason == NoPolicy {
		return model.ErrUnavailable
	}
	return model.ErrDenied
}

// Reason returns the reason as a label of a metric.
func (r *Refusal) Reason() string { return string(r.reason) }

// list shows the first patterns of a list.
func list(patterns []Pattern) string {
	const shown = 3
	var out []string
	for _, p := range patterns[:min(len(patterns), shown)] {
		out = append(out, fmt.Sprintf("%.80q", p.String()))
	}
	text := strings.Join(out, ", ")
	if more := len(patterns) - shown; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
