package wire

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/model"
)

// queryPattern finds the query of a URL in a text. Signed URLs have their secret there.
var queryPattern = regexp.MustCompile(`(://[^\s"'<>?]*)\?[^\s"'<>]*`)

// From these lengths on a value is looked for in texts. Shorter ones would turn errors into riddles and protect nothing.
// Most header values are no secrets.
const (
	minSecret      = 4
	minHeaderValue = 12
)

// Redactor takes known secrets out of texts. A hostile server can put into its answers what it was sent, so nothing a
// server says reaches an error without passing here.
type Redactor []string

// NewRedactor looks for the secrets of a credential and for what headers hold.
func NewRedactor(cred model.Credential, header http.Header) Redactor {
	var r Redactor
	add := func(secrets ...string) {
		for _, s := range secrets {
			if len(s) >= minSecret {
				r = append(r, s, url.QueryEscape(s), url.PathEscape(s), base64.StdEncoding.EncodeToString([]byte(s)))
			}
		}
	}
	add(cred.Password.Reveal(), cred.RefreshToken.Reveal(), cred.AccessToken.Reveal())
	if !cred.Password.IsZero() {
		add(base64.StdEncoding.EncodeToString([]byte(cred.Username + ":" + cred.Password.Reveal())))
	}
	for _, values := range header {
		for _, v := range values {
			if _, token, ok := strings.Cut(v, " "); ok {
				add(token) // "Bearer x", "Basic x"
			}
			if len(v) >= minHeaderValue {
				add(v)
			}
		}
	}
	// The longest first, so that no part of a secret stays behind because another one is a part of it.
	slices.SortFunc(r, func(a, b string) int { return len(b) - len(a) })
	return slices.Compact(r)
}

// Clean returns the text without secrets, without queries of URLs, printable and at most limit bytes long.
func (r Redactor) Clean(text string, limit int) string {
	for _, secret := range r {
		text = strings.ReplaceAll(text, secret, "[redacted]")
	}
	return Printable(queryPattern.ReplaceAllString(text, "$1"), limit)
}
