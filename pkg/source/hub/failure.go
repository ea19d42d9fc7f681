package hub

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// subject is what a request is about, for errors.
type subject struct {
	// what is "revision main", "file config.json" and so on.
	what       string
	repository *repository
}

func (r *repository) subject(what string) subject { return subject{what, r} }

// fail makes a failure of this subject. why and hint are sentences without an end; hint may be empty.
func (s subject) fail(kind error, why, hint string) *wire.Failure {
	text := fmt.Sprintf("%s: %s: %s", s.repository.ref, s.what, s.repository.redact.Clean(why, wire.MaxCause))
	if hint != "" {
		text += "; " + hint
	}
	return &wire.Failure{Kind: kind, Text: text}
}

// wrap makes a failure of an error that is of a kind already.
func (s subject) wrap(err error) *wire.Failure {
	for _, kind := range []error{model.ErrUnsupported, model.ErrTooLarge, model.ErrCorrupt, model.ErrInvalid} {
		if errors.Is(err, kind) {
			return s.fail(kind, trimKind(err.Error(), kind), "")
		}
	}
	return s.fail(model.ErrInvalid, err.Error(), "")
}

func trimKind(text string, kind error) string {
	if suffix := ": " + kind.Error(); len(text) > len(suffix) && text[len(text)-len(suffix):] == suffix {
		return text[:len(text)-len(suffix)]
	}
	return text
}

// reply is an answer that was not wanted, kept for its words.
type reply struct {
	host   string
	status int
	header http.Header
	// body is the beginning of the body.
	body []byte
	// away says that a host answered to which the Hub had redirected.
	away bool
}

// reply keeps what an unwanted answer says.
func (a *answer) reply() reply {
	body, _ := io.ReadAll(io.LimitReader(a.Body, wire.MaxErrorBody))
	return reply{host: a.url.Host, status: a.StatusCode, header: a.Header, body: body, away: a.away}
}

// The values of X-Error-Code, and of X-Error-Message where there is no code.
const (
	codeGated       = "GatedRepo"
	codeNoRepo      = "RepoNotFound"
	codeNoRevision  = "RevisionNotFound"
	codeNoEntry     = "EntryNotFound"
	messageDisabled = "Access to this resource is disabled."
)

// status makes a failure of an answer with a status that was not wanted.
func (s subject) status(r reply) *wire.Failure {
	again, kind := wire.KindOf(r.status)
	who, hint := r.host+" as "+s.repository.cred.String(), ""
	if r.away {
		who = "storage host " + r.host
		if kind == model.ErrUnauthenticated || kind == model.ErrDenied {
			kind, again = model.ErrUnavailable, true // the Hub permitted it; a fresh link may do
		}
	} else {
		code, message := r.header.Get("X-Error-Code"), r.header.Get("X-Error-Message")
		kind = s.kind(kind, code, message)
		hint = s.hint(kind, code, message)
	}
	why := fmt.Sprintf("HTTP %d from %s", r.status, who)
	detail := r.header.Get("X-Error-Message")
	if detail == "" {
		detail = wire.ServerWords(r.body)
	}
	if detail = s.repository.redact.Clean(detail, wire.MaxDetail); detail != "" {
		why += ": " + detail
	}
	f := s.fail(kind, why, hint)
	f.Status, f.Again = r.status, again
	if again {
		f.After = retryAfter(r.header)
	}
	return f
}

// kind corrects what the status alone says. The Hub answers 401 for gated repositories whoever asks anonymously, and
// 403 for what it has taken down.
func (s subject) kind(kind error, code, message string) error {
	switch {
	case message == messageDisabled:
		return model.ErrDenied
	case code == codeGated && s.repository.cred.IsAnonymous():
		return model.ErrUnauthenticated
	case code == codeGated:
		return model.ErrDenied
	case code == codeNoRevision, code == codeNoEntry:
		return model.ErrNotFound
	}
	return kind
}

// secretAdvice is how a pod brings a token.
const secretAdvice = "give the pod's volume a nodePublishSecretRef to a secret whose key \"token\" holds a Hugging Face token"

// hint is the next step for whoever reads the error.
func (s subject) hint(kind error, code, message string) string {
	r := s.repository
	anonymous := r.cred.IsAnonymous()
	switch {
	case message == messageDisabled:
		return "the Hub has disabled the repository; nothing but the Hub can change that"
	case code == codeGated && anonymous:
		return fmt.Sprintf("the repository is gated: accept its terms at %s, then %s of that account", r.page(), secretAdvice)
	case code == codeGated:
		return fmt.Sprintf("the repository is gated: accept its terms at %s with the account of this token; a fine-grained token also needs the permission to read gated repositories", r.page())
	case code == codeNoRevision:
		return fmt.Sprintf("there is no branch, tag or commit %q; %s/tree/main lists them", r.revision, r.page())
	case code == codeNoEntry:
		return "the commit no longer has it; was the branch rewritten?"
	case (kind == model.ErrUnauthenticated || kind == model.ErrNotFound || kind == model.ErrDenied) && anonymous:
		return fmt.Sprintf("check the name at %s; if the repository is private, %s that may read it", r.page(), secretAdvice)
	case kind == model.ErrUnauthenticated && code != codeNoRepo:
		return "the Hub does not accept this token; check that it is complete and has not been revoked"
	case kind == model.ErrUnauthenticated, kind == model.ErrNotFound, kind == model.ErrDenied:
		return fmt.Sprintf("check the name at %s, and that the account of this token may read the repository", r.page())
	}
	return ""
}

// resetPattern finds the seconds until a limit is reset in a RateLimit header (draft-ietf-httpapi-ratelimit-headers).
var resetPattern = regexp.MustCompile(`;\s*t\s*=\s*([0-9]{1,9})`)

// retryAfter is how long the Hub asks to be left alone.
func retryAfter(h http.Header) time.Duration {
	if d := wire.RetryAfter(h.Get("Retry-After"), time.Now()); d > 0 {
		return d
	}
	if m := resetPattern.FindStringSubmatch(h.Get("RateLimit")); m != nil {
		seconds, _ := strconv.Atoi(m[1])
		return min(time.Duration(seconds)*time.Second, wire.MaxRetryAfter)
	}
	return 0
}

// network makes a failure of a request that got no answer. Errors of net/http quote URLs, so only their innermost words
// are kept.
func (s subject) network(ctx context.Context, host string, err error) *wire.Failure {
	var (
		verify *tls.CertificateVerificationError
		record tls.RecordHeaderError
		unsure x509.UnknownAuthorityError
		dns    *net.DNSError
	)
	why, hint, again := wire.Innermost(err), "", true
	switch {
	case ctx.Err() != nil:
		f := s.fail(model.ErrUnavailable, fmt.Sprintf("gave up waiting for %s: %v", host, ctx.Err()), "")
		f.Cause = ctx.Err()
		return f
	case errors.Is(err, model.ErrDenied):
		return s.fail(model.ErrDenied, fmt.Sprintf("%s: %s", host, denial(err)), "")
	case errors.As(err, &unsure) || errors.As(err, &verify):
		why, again = "TLS: "+why, false
		hint = fmt.Sprintf("if the host has a private CA, put it into a hosts.toml file for %s", s.repository.base.Host)
	case errors.As(err, &record):
		why, again = "it answers in plain HTTP", false
		hint = "if that is meant, write http:// into hub-endpoint"
	case errors.As(err, &dns) && dns.IsNotFound:
		why, hint = fmt.Sprintf("no such host %q", wire.Bounded(dns.Name)), "check hub-endpoint, and that the node can resolve the name"
	}
	f := s.fail(model.ErrUnavailable, host+": "+why, hint)
	f.Again = again
	return f
}

// denial is the text of the error that says that an address may not be connected to, without what net/http puts around.
func denial(err error) string {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err
	}
	var op *net.OpError
	if errors.As(err, &op) {
		err = op.Err
	}
	return err.Error()
}

// broken makes a failure of a body that ended early.
func (s subject) broken(ctx context.Context, host string, err error) *wire.Failure {
	f := s.fail(model.ErrUnavailable, fmt.Sprintf("%s stopped sending: %s", host, wire.Innermost(err)), "")
	f.Again = true
	if ctx.Err() != nil {
		f.Cause = ctx.Err()
	}
	return f
}
