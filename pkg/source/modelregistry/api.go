package modelregistry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/wire"
)

const (
	apiPath = "api/model_registry/v1alpha3"

	// pageSize is large enough that real lists take one page.
	pageSize = 100
	// maxPages bounds a list: a server that never ends is broken or hostile.
	maxPages = 100
	// maxAnswer bounds one page in bytes; custom properties can be long, an entity takes a kilobyte or so.
	maxAnswer = 4 << 20
	// maxItems bounds the entities of one list: a page of empty ones would take a hundred times its size in memory.
	maxItems = 10_000
	// requestTimeout bounds one request with its answer.
	requestTimeout = 30 * time.Second
	// maxRedirects within the host: a missing slash, say.
	maxRedirects = 3
)

// entity is what registered models, versions and artifacts have in common.
type entity struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	State string `json:"state"`
	// Created is in milliseconds since 1970, as text.
	Created string `json:"createTimeSinceEpoch"`
}

// artifact is something that belongs to a version: the model, a document, a metric and so on.
type artifact struct {
	entity
	Type string `json:"artifactType"`
	URI  string `json:"uri"`
	// StorageKey names a secret with the credentials of an object store; the URI may be empty then.
	StorageKey string `json:"storageKey"`
}

func (e entity) base() entity { return e }

// idPattern: ids are numbers, and become parts of paths.
var idPattern = regexp.MustCompile(`^[1-9][0-9]{0,18}$`)

func usableID(id string) bool { return idPattern.MatchString(id) }

// client asks one model registry about one reference as one identity.
type client struct {
	ref        model.Ref
	base       *url.URL
	http       *http.Client
	token      model.Secret
	identity   string
	redact     wire.Redactor
	userAgent  string
	firstPause time.Duration
}

func (r *Resolver) client(ref model.Ref, cred model.Credential) (*client, error) {
	base := &url.URL{Scheme: "https", Host: ref.Registry}
	if r.own(ref.Registry) {
		base = r.base
	}
	transport, err := r.options.Transport(ref.Registry)
	if err != nil {
		return nil, err
	}
	token := cred.AccessToken
	if token.IsZero() {
		token = cred.Password
	}
	return &client{
		ref: ref, base: base.JoinPath(apiPath), token: token, identity: cred.String(), redact: wire.NewRedactor(cred, nil),
		http:      &http.Client{Transport: transport, CheckRedirect: sameHost(base), Timeout: requestTimeout},
		userAgent: r.options.UserAgent, firstPause: r.firstPause,
	}, nil
}

// errLogin is why a redirect is not followed.
var errLogin = errors.New("redirects to another host")

// sameHost permits redirects within the model registry. What leads elsewhere is a page to log in at.
func sameHost(base *url.URL) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, via []*http.Request) error {
		if !wire.SameOrigin(req.URL, base) {
			return errLogin
		}
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		return nil
	}
}

// find reads the one entity of a kind that has a name.
func (c *client) find(ctx context.Context, kind, name string, query url.Values, into *entity) error {
	q := url.Values{"name": {name}}
	for key, values := range query {
		q[key] = values
	}
	if err := c.get(ctx, kind, q, into); err != nil {
		return err
	}
	switch {
	case into.Name != name:
		return c.fail(model.ErrUnavailable, fmt.Sprintf("asked for %q it answers with %q", name, wire.Bounded(into.Name)), "")
	case !usableID(into.ID):
		return c.fail(model.ErrUnavailable, fmt.Sprintf("the answer for %q has no proper id", name), "")
	}
	return nil
}

// list reads all pages of a list.
func list[T any](ctx context.Context, c *client, path string, query url.Values) ([]T, error) {
	q := url.Values{"pageSize": {strconv.Itoa(pageSize)}, "orderBy": {"CREATE_TIME"}, "sortOrder": {"DESC"}}
	for key, values := range query {
		q[key] = values
	}
	var all []T
	for range maxPages {
		var page struct {
			Items items[T] `json:"items"`
			Next  string   `json:"nextPageToken"`
		}
		if err := c.get(ctx, path, q, &page); err != nil {
			return nil, err
		}
		if all = append(all, page.Items...); len(all) > maxItems {
			return nil, c.fail(model.ErrUnavailable, fmt.Sprintf("a list has more than %d entities", maxItems), "")
		}
		if page.Next == "" || page.Next == q.Get("nextPageToken") {
			return all, nil
		}
		q.Set("nextPageToken", page.Next)
	}
	return nil, c.fail(model.ErrUnavailable, fmt.Sprintf("a list has more than %d pages", maxPages), "")
}

// items are the entities of a page, of which no more are kept than one list may have.
type items[T any] []T

// UnmarshalJSON implements json.Unmarshaler.
func (l *items[T]) UnmarshalJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	start, err := d.Token()
	switch {
	case err != nil:
		return err
	case start == nil: // null
		return nil
	case start != json.Delim('['):
		return errors.New("items are no list")
	}
	for d.More() && len(*l) <= maxItems {
		var one T
		if err := d.Decode(&one); err != nil {
			return err
		}
		*l = append(*l, one)
	}
	return nil
}

// get asks for one path below the API, several times if that may help.
func (c *client) get(ctx context.Context, path string, query url.Values, into any) error {
	u := c.base.JoinPath(path)
	u.RawQuery = query.Encode()
	if f := wire.Retry(ctx, c.firstPause, func() *wire.Failure { return c.once(ctx, u, into) }); f != nil {
		return f.Err()
	}
	return nil
}

func (c *client) once(ctx context.Context, u *url.URL, into any) *wire.Failure {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return c.fail(model.ErrInvalid, "cannot be asked: "+wire.Innermost(err), "")
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", c.userAgent)
	if !c.token.IsZero() {
		req.Header.Set("Authorization", "Bearer "+c.token.Reveal())
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.network(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return c.network(ctx, err)
	}
	if resp.StatusCode != http.StatusOK {
		return c.status(resp, body)
	}
	if len(body) > maxAnswer {
		return c.fail(model.ErrUnavailable, fmt.Sprintf("an answer has more than %d bytes", maxAnswer), "")
	}
	if err := json.Unmarshal(body, into); err != nil {
		if strings.HasPrefix(strings.TrimSpace(string(body[:min(len(body), 100)])), "<") {
			return c.fail(model.ErrUnauthenticated, "answers with a web page, as a proxy that wants a login does", c.credentialHint())
		}
		return c.fail(model.ErrUnavailable, "the answer is not what the API has", "check that the host is a Kubeflow Model Registry")
	}
	return nil
}

// fail makes a failure of this lookup. why and hint are sentences without an end; hint may be empty.
func (c *client) fail(kind error, why, hint string) *wire.Failure {
	text := fmt.Sprintf("%s: model registry %s as %s: %s", c.ref, c.base.Host, c.identity, c.redact.Clean(why, wire.MaxCause))
	if hint != "" {
		text += "; " + hint
	}
	return &wire.Failure{Kind: kind, Text: text}
}

// network makes a failure of a request that got no answer.
func (c *client) network(ctx context.Context, err error) *wire.Failure {
	var request *url.Error
	switch {
	case ctx.Err() != nil:
		f := c.fail(model.ErrUnavailable, "gave up waiting: "+ctx.Err().Error(), "")
		f.Cause = ctx.Err()
		return f
	case errors.Is(err, errLogin):
		return c.fail(model.ErrUnauthenticated, "redirects to another host, as a proxy that wants a login does", c.credentialHint())
	case errors.Is(err, model.ErrDenied):
		return c.fail(model.ErrDenied, denial(err), "")
	case errors.As(err, &request) && request.Timeout():
		f := c.fail(model.ErrUnavailable, "no answer in time", "")
		f.Again = true
		return f
	case strings.Contains(err.Error(), "HTTP response to HTTPS client"):
		return c.fail(model.ErrUnavailable, "answers in plain HTTP", "if that is meant, the operator writes http:// into model-registry-url")
	}
	f := c.fail(model.ErrUnavailable, wire.Innermost(err), "")
	f.Again = true
	return f
}

// denial is the text of the error that says why a connection is not permitted, without the layers around it.
func denial(err error) string {
	for {
		inner := errors.Unwrap(err)
		if inner == nil || errors.Unwrap(inner) == nil {
			return err.Error() // what is inside is the kind
		}
		err = inner
	}
}

// status makes a failure of an answer that was not wanted.
func (c *client) status(resp *http.Response, body []byte) *wire.Failure {
	again, kind := wire.KindOf(resp.StatusCode)
	hint := ""
	switch {
	case errors.Is(kind, model.ErrUnauthenticated) || errors.Is(kind, model.ErrDenied):
		hint = c.credentialHint()
	case errors.Is(kind, model.ErrNotFound):
		hint = "check the names of the model and of its version"
	}
	why := fmt.Sprintf("HTTP %d", resp.StatusCode)
	if words := wire.ServerWords(body); words != "" {
		why += ": " + c.redact.Clean(words, wire.MaxDetail)
	}
	f := c.fail(kind, why, hint)
	f.Status, f.Again = resp.StatusCode, again
	if again {
		f.After = wire.RetryAfter(resp.Header.Get("Retry-After"), time.Now())
	}
	return f
}

func (c *client) credentialHint() string {
	if c.token.IsZero() {
		return fmt.Sprintf("give the pod's volume a nodePublishSecretRef with a docker config whose password for %s is a token", c.base.Host)
	}
	return "check that the token is valid and may read models"
}
