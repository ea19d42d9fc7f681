package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

const (
	// maxTags bounds a list that people look at; registries with more are asked by other means.
	maxTags = 100_000
	// maxTagPage is far above what registries send in one answer.
	maxTagPage = 16 << 20
)

// Tags lists the tags of the repository of ref as cred may see them, sorted (OCI distribution specification, "Listing
// Tags"). Mirrors are not asked: they know what was pulled through them.
func (s *Source) Tags(ctx context.Context, ref model.Ref, cred model.Credential) ([]string, error) {
	opened, err := s.Repository(ref, cred)
	if err != nil {
		return nil, err
	}
	r := opened.(*repository) //nolint:forcetypeassert // Repository returns no other
	var tags []string
	err = r.each(ctx, func(e *endpoint) bool { return !e.mirror }, func(ctx context.Context, c *client) *failure {
		tags = nil
		query := url.Values{"n": {"1000"}}
		for len(tags) < maxTags {
			page, next, f := r.tagPage(ctx, c, query)
			if f != nil {
				return f
			}
			tags = append(tags, page...)
			if next == nil || len(page) == 0 {
				return nil
			}
			query = next
		}
		return r.subject(c, "list of tags").fail(model.ErrTooLarge, fmt.Sprintf("it has more than %d", maxTags), "")
	})
	slices.Sort(tags)
	return slices.Compact(tags), err
}

// tagPage returns one page and the query of the next one.
func (r *repository) tagPage(ctx context.Context, c *client, query url.Values) (tags []string, next url.Values, _ *failure) {
	s := r.subject(c, "list of tags")
	u := c.url(r.ref.Repository, "tags", "list")
	u.RawQuery = query.Encode()
	body, header, f := r.readURL(ctx, c, s, u, http.Header{"Accept": {"application/json"}}, maxTagPage)
	if f != nil {
		return nil, nil, f
	}
	var list struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, nil, s.fail(model.ErrCorrupt, "the answer is not the JSON of a list of tags", "")
	}
	return list.Tags, nextPage(header.Get("Link")), nil
}

// nextPage takes the query out of a Link header (RFC 8288). Where the link leads otherwise is not looked at: the next
// page is asked for at the same place as the first.
func nextPage(link string) url.Values {
	target, params, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(link), "<"), ">")
	if !ok || !strings.Contains(params, `rel="next"`) && !strings.Contains(params, "rel=next") {
		return nil
	}
	u, err := url.Parse(target)
	if err != nil {
		return nil
	}
	return u.Query()
}
