package registry

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
	"strings"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

// failure is why one request failed.
type failure = wire.Failure

// subject is what a request is about, for errors.
type subject struct {
	// what is "manifest v1", "blob sha256:..." and so on.
	what string
	ref  model.Ref
	cred model.Credential
	// mirror names the mirror that is asked; empty for the server.
	mirror string
	redact wire.Redactor
	// interactive says that a person at a terminal reads the error, and push that something was to be written.
	interactive, push bool
}

// fail makes a failure of this subject. why and hint are sentences without an end; hint may be empty.
func (s subject) fail(kind error, why, hint string) *failure {
	text := fmt.Sprintf("%s: %s: %s", s.ref, s.what, s.redact.Clean(why, wire.MaxCause))
	if hint != "" {
		text += "; " + hint
	}
	return &failure{Kind: kind, Text: text}
}

// reply is an answer that was not wanted, kept for its words.
type reply struct {
	host   string
	status int
	header http.Header
	// body is the beginning of the body.
	body []byte
	// token says that a token service answered rather than the registry, and away that it was a host to which the
	// registry had redirected.
	token, away bool
}

// status makes a failure of an answer with a status that was not wanted.
func (s subject) status(r reply) *failure {
	again, kind := wire.KindOf(r.status)
	who, hint := r.host+" as "+s.identity(), s.hint(kind)
	switch {
	case r.away:
		who, hint = "storage host "+r.host, ""
		if kind == model.ErrUnauthenticated || kind == model.ErrDenied {
			kind, again = model.ErrUnavailable, true // the registry permitted it; a fresh link may do
		}
	case r.token:
		who = "token service " + who
		if kind == model.ErrNotFound || kind == model.ErrInvalid {
			kind = model.ErrUnauthenticated // whatever it says, there is no token
		}
		hint = s.hint(kind)
	default:
		if advice, ok := harborRule(r); ok {
			kind, hint, again = model.ErrDenied, advice, false
		}
	}
	why := fmt.Sprintf("HTTP %d from %s", r.status, who)
	if detail := s.redact.Clean(wire.ServerWords(r.body), wire.MaxDetail); detail != "" {
		why += ": " + detail
	}
	f := s.fail(kind, why, hint)
	f.Status, f.Again = r.status, again
	if again {
		f.After = wire.RetryAfter(r.header.Get("Retry-After"), time.Now())
	}
	return f
}

// identity names who asked. Mirrors are not shown the credential.
func (s subject) identity() string { return s.cred.String() }

// hint is the next step for whoever reads the error.
func (s subject) hint(kind error) string {
	registry := s.ref.Registry
	switch {
	case s.mirror != "":
		return ""
	case s.interactive || s.push:
		return s.interactiveHint(kind)
	case s.ref.Scheme == model.SchemeOllama && ollamaHint(registry, kind) != "":
		return ollamaHint(registry, kind)
	case kind == model.ErrUnauthenticated && robotHint(s.cred) != "":
		return robotHint(s.cred)
	case (kind == model.ErrUnauthenticated || kind == model.ErrDenied) && s.cred.IsAnonymous():
		return fmt.Sprintf("check the name, or give the pod's volume a nodePublishSecretRef with a credential for registry %s", registry)
	case kind == model.ErrUnauthenticated:
		return fmt.Sprintf("registry %s did not accept this credential; check that it is valid and that the repository exists", registry)
	case kind == model.ErrDenied:
		return fmt.Sprintf("this credential may not pull %s; grant it pull access or give the pod's volume a nodePublishSecretRef with one that has it", s.ref.Name())
	case kind == model.ErrNotFound && s.cred.IsAnonymous():
		return "check the repository and the tag or digest; some registries answer so for private repositories without a credential"
	case kind == model.ErrNotFound:
		return "check the repository and the tag or digest"
	}
	return ""
}

// network makes a failure of a request that got no answer, or whose credentials could not be presented. last is the
// last answer that was not wanted, if there was one.
func (s subject) network(ctx context.Context, host string, err error, last *reply) *failure {
	var (
		denied   *deniedError
		response *errcode.ErrorResponse
		refused  *refusedError
	)
	switch {
	case ctx.Err() != nil:
		f := s.fail(model.ErrUnavailable, fmt.Sprintf("gave up waiting for %s: %v", host, ctx.Err()), "")
		f.Cause = ctx.Err()
		return f
	case errors.As(err, &denied):
		return s.fail(model.ErrDenied, fmt.Sprintf("%s: %v", host, denied), "")
	case errors.As(err, &refused):
		return s.fail(model.ErrDenied, fmt.Sprintf("%s: %s", host, refused.why), "")
	case errors.As(err, &response) && last != nil && last.status == response.StatusCode:
		return s.status(*last) // a token service that refuses
	case errors.Is(err, auth.ErrBasicCredentialNotFound) && last != nil:
		return s.status(*last)
	}
	var transport *url.Error
	if !errors.As(err, &transport) {
		// What is left are oras-go's own objections to a challenge or to a token.
		why := fmt.Sprintf("cannot authenticate at %s as %s: %s", host, s.identity(), wire.Innermost(err))
		return s.fail(model.ErrUnauthenticated, why, "")
	}
	why, hint, again := describe(transport, s.ref.Registry)
	if u, parseErr := url.Parse(transport.URL); parseErr == nil && u.Host != "" {
		host = u.Host // it may be a token service or a redirect's target
	}
	f := s.fail(model.ErrUnavailable, fmt.Sprintf("%s: %s", host, why), hint)
	f.Again = again
	return f
}

// describe says why there was no answer, without URLs.
func describe(err *url.Error, registry string) (why, hint string, again bool) {
	var (
		verify *tls.CertificateVerificationError
		record tls.RecordHeaderError
		dns    *net.DNSError
		unsure x509.UnknownAuthorityError
	)
	switch {
	case errors.As(err, &unsure) || errors.As(err, &verify):
		return "TLS: " + wire.Innermost(err), fmt.Sprintf("if the host has a private CA, name it as \"ca\" in the hosts.toml file of %s", registry), false
	case errors.As(err, &record) || strings.Contains(err.Err.Error(), "HTTP response to HTTPS client"):
		return "answers in plain HTTP", fmt.Sprintf("if that is meant, write server = \"http://%s\" into its hosts.toml file", registry), false
	case errors.As(err, &dns) && dns.IsNotFound:
		return fmt.Sprintf("no such host %q", wire.Bounded(dns.Name)), "check the name of the registry, and that the node can resolve it", true
	case err.Timeout():
		return "no answer in time", "", true
	}
	return wire.Innermost(err), "", true
}

// wrap makes a failure of an error that is of a kind already.
func (s subject) wrap(err error) *failure {
	for _, kind := range []error{model.ErrInvalid, model.ErrUnsupported, model.ErrCorrupt, model.ErrTooLarge} {
		if errors.Is(err, kind) {
			return s.fail(kind, strings.TrimSuffix(err.Error(), ": "+kind.Error()), "")
		}
	}
	return s.fail(model.ErrInvalid, err.Error(), "")
}

// broken makes a failure of a body that ended early.
func (s subject) broken(ctx context.Context, host string, err error) *failure {
	f := s.fail(model.ErrUnavailable, fmt.Sprintf("%s stopped sending: %s", host, wire.Innermost(err)), "")
	f.Again = true
	if ctx.Err() != nil {
		f.Cause = ctx.Err()
	}
	return f
}

// reply keeps what an unwanted answer says. The gate has already shortened its body.
func (a *answer) reply() reply {
	body, _ := io.ReadAll(io.LimitReader(a.Body, wire.MaxErrorBody))
	return reply{host: a.url.Host, status: a.StatusCode, header: a.Header, body: body, away: a.away}
}
