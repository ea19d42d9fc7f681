package registry

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const tokenPath = "/token"

// tokens is a token service as docs.docker.com/registry/spec/auth/token describes it, and what checks its tokens.
type tokens struct {
	realm string
	users map[string]string

	mu     sync.Mutex
	ttl    time.Duration
	issued map[string]grant
}

type grant struct {
	scopes  []string
	expires time.Time
	used    bool
}

func newTokens(address string, users map[string]string, ttl time.Duration) *tokens {
	return &tokens{realm: "http://" + address + tokenPath, users: users, ttl: ttl, issued: map[string]grant{}}
}

// ExpireTokens makes every token worthless that was used so far. One that was issued and not used yet goes on: a client may
// take a new token that is refused for a credential that is.
func (r *Registry) ExpireTokens() {
	if r.tokens == nil {
		return
	}
	r.tokens.mu.Lock()
	defer r.tokens.mu.Unlock()
	maps.DeleteFunc(r.tokens.issued, func(_ string, g grant) bool { return g.used })
}

func (t *tokens) serve(w http.ResponseWriter, q *http.Request) {
	user, password, given := q.BasicAuth()
	if q.Method == http.MethodPost {
		user, password, given = q.PostFormValue("username"), q.PostFormValue("password"), true
	}
	if len(t.users) > 0 && (!given || t.users[user] == "" || t.users[user] != password) {
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"unknown user or wrong password"}]}`, http.StatusUnauthorized)
		return
	}
	token := rand.Text()
	t.mu.Lock()
	ttl := t.ttl
	t.issued[token] = grant{scopes: slices.Concat(strings.Fields(strings.Join(q.URL.Query()["scope"], " ")), strings.Fields(q.PostFormValue("scope"))), expires: time.Now().Add(ttl)}
	t.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"token": token, "access_token": token, "issued_at": time.Now().UTC().Format(time.RFC3339),
		// The distribution specification's minimum; the token may live shorter, as if it had been revoked.
		"expires_in": max(60, int(ttl.Seconds())),
	})
}

// allow answers 401 itself where it returns false.
func (t *tokens) allow(w http.ResponseWriter, q *http.Request, entry Request) bool {
	action := "pull"
	if q.Method != http.MethodGet && q.Method != http.MethodHead {
		action = "pull,push"
	}
	token, _ := strings.CutPrefix(q.Header.Get("Authorization"), "Bearer ")
	t.mu.Lock()
	g, ok := t.issued[token]
	ok = ok && time.Now().Before(g.expires) && (entry.Repository == "" || slices.ContainsFunc(g.scopes, func(s string) bool {
		return strings.HasPrefix(s, "repository:"+entry.Repository+":") && strings.Contains(s, action[len(action)-4:])
	}))
	if ok {
		g.used = true
		t.issued[token] = g
	}
	t.mu.Unlock()
	if ok {
		return true
	}
	challenge := fmt.Sprintf(`Bearer realm=%q,service="test"`, t.realm)
	if entry.Repository != "" {
		challenge += fmt.Sprintf(`,scope="repository:%s:%s"`, entry.Repository, action)
	}
	w.Header().Set("WWW-Authenticate", challenge)
	http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
	return false
}
