package registry_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

// harbor answers as Harbor's core does to those who pull: its challenges, its token service, its projects that cache
// other registries, and its errors.
type harbor struct {
	*httptest.Server

	mu       sync.Mutex // guards what follows
	projects map[string]*project
	accounts map[string]account // by user name
	asked    []string           // "METHOD path" below /v2/
	scopes   []string
}

type account struct {
	secret   string
	projects []string
}

type project struct {
	public bool
	// content by "repository/manifests/reference" and "repository/blobs/digest".
	content map[string]item
	// upstream is what the registry behind a proxy project has; nil for others. What was pulled moves to content.
	upstream map[string]item
	// upstreamStatus is what that registry answers instead, if not 0.
	upstreamStatus int
	// dockerHub says that the registry behind is Docker Hub, whose names without a slash are in "library".
	dockerHub bool
	// rule is the message with which the project's rules keep manifests back.
	rule string
}

func newHarbor(t *testing.T) *harbor {
	h := &harbor{projects: map[string]*project{}, accounts: map[string]account{}}
	h.Server = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(h.Close)
	return h
}

func (h *harbor) host() string { return h.Listener.Addr().String() }

func (h *harbor) ref(t *testing.T, rest string) model.Ref {
	t.Helper()
	ref, err := model.ParseRef(h.host() + "/" + rest)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// model is an artifact with one layer, as the content of a project.
func harborModel(repository, tag string) (content map[string]item, manifest digest.Digest, layer model.Blob, data []byte) {
	data = bytes.Repeat([]byte("weights of "+repository), 500)
	layer = model.Blob{Digest: digest.FromBytes(data), Size: int64(len(data))}
	config := []byte("{}")
	m := manifestOf(model.Blob{Digest: digest.FromBytes(config), Size: 2}, layer)
	manifest = digest.FromBytes(m)
	return map[string]item{
		repository + "/manifests/" + tag:                           {data: m, kind: ociManifest},
		repository + "/manifests/" + manifest.String():             {data: m, kind: ociManifest},
		repository + "/blobs/" + layer.Digest.String():             {data: data},
		repository + "/blobs/" + digest.FromBytes(config).String(): {data: config},
	}, manifest, layer, data
}

func (h *harbor) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r.URL.Path == "/service/token" {
		h.token(w, r)
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	h.asked = append(h.asked, r.Method+" "+path)
	name, rest, _ := strings.Cut(path, "/")
	p := h.projects[name]
	repository := name + "/" + rest[:max(strings.LastIndex(rest, "/manifests/"), strings.LastIndex(rest, "/blobs/"), 0)]
	header := r.Header.Get("Authorization")
	switch {
	case p == nil: // what does not exist is answered like what may not be seen, without a challenge
		w.Header().Set("WWW-Authenticate", "")
	case header == "" && (r.Method == http.MethodHead || !p.public):
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/service/token",service="harbor-registry",scope="repository:%s:pull"`, h.URL, repository))
	case !h.may(r, name):
		w.Header().Set("WWW-Authenticate", `Basic realm="harbor"`)
	default:
		h.content(w, r, p, rest)
		return
	}
	text := fmt.Sprintf("unauthorized to access repository: %s, action: pull", repository)
	refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", text+": "+text)
}

// token issues a token to everybody who exists, for as much of the scope as he may have.
func (h *harbor) token(w http.ResponseWriter, r *http.Request) {
	user, secret, given := r.BasicAuth()
	if given && (h.accounts[user].secret == "" || h.accounts[user].secret != secret) || r.URL.Query().Get("service") != "harbor-registry" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	scope := r.URL.Query().Get("scope")
	h.scopes = append(h.scopes, scope)
	name, _, _ := strings.Cut(strings.TrimPrefix(scope, "repository:"), "/")
	if p := h.projects[name]; !(p != nil && p.public) && !slices.Contains(h.accounts[user].projects, name) {
		name = ""
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"token": "for:" + name, "access_token": "", "expires_in": 1800, "issued_at": time.Now().UTC().Format(time.RFC3339)})
}

// may reads tokens, which are for projects, and passwords.
func (h *harbor) may(r *http.Request, name string) bool {
	if h.projects[name].public {
		return true
	}
	if user, secret, ok := r.BasicAuth(); ok {
		a := h.accounts[user]
		return a.secret != "" && a.secret == secret && slices.Contains(a.projects, name)
	}
	return r.Header.Get("Authorization") == "Bearer for:"+name
}

func (h *harbor) content(w http.ResponseWriter, r *http.Request, p *project, rest string) {
	if p.dockerHub && strings.Count(rest, "/") == 2 {
		http.Redirect(w, r, strings.Replace(r.URL.Path, "/"+rest, "/library/"+rest, 1), http.StatusMovedPermanently)
		return
	}
	it, local := p.content[rest]
	manifest := strings.Contains(rest, "/manifests/")
	if !local && p.upstream != nil {
		var ok bool
		if it, ok = p.upstream[rest]; !ok || p.upstreamStatus != 0 {
			h.upstreamError(w, p, rest)
			return
		}
		if r.Method != http.MethodHead {
			p.content[rest] = it // Harbor keeps it, beside the answer
		}
	} else if !local {
		refuse(w, http.StatusNotFound, "NOT_FOUND", "artifact "+rest+" not found")
		return
	}
	if manifest && p.rule != "" {
		refuse(w, http.StatusPreconditionFailed, "PROJECTPOLICYVIOLATION", p.rule)
		return
	}
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(it.data).String())
	if manifest {
		w.Header().Set("Content-Type", it.kind)
	}
	if !manifest && local {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(it.data))
		return
	}
	// What comes from upstream is passed on as a whole, whatever range was asked for.
	w.Header().Set("Content-Length", strconv.Itoa(len(it.data)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(it.data)
	}
}

func (h *harbor) upstreamError(w http.ResponseWriter, p *project, rest string) {
	switch p.upstreamStatus {
	case 0, http.StatusNotFound:
		refuse(w, http.StatusNotFound, "NOT_FOUND", "artifact "+rest+" not found")
	case http.StatusTooManyRequests:
		refuse(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "http status code: 429, body: pull rate limit")
	default:
		refuse(w, http.StatusInternalServerError, "UNKNOWN", "internal server error")
	}
}

// robot is the pod's secret for a robot account, as kubectl makes it.
func robot(t *testing.T, host, user, secret string) model.Credential {
	t.Helper()
	config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(user+":"+secret)))
	keys, err := credential.ForPod(map[string]string{".dockerconfigjson": config})
	if err != nil {
		t.Fatal(err)
	}
	list, err := keys.Credentials(t.Context(), model.Ref{Scheme: model.SchemeOCI, Registry: host, Repository: "any"})
	if err != nil || len(list) != 1 || list[0].Username != user {
		t.Fatalf("%v, %v", list, err)
	}
	return list[0]
}

func TestHarborRobots(t *testing.T) {
	h := newHarbor(t)
	content, d, layer, data := harborModel("qwen/base", "v1")
	h.projects["private"] = &project{content: content}
	h.projects["other"] = &project{content: map[string]item{}}
	h.accounts["robot$system"] = account{"s1", []string{"private"}}
	h.accounts["robot$private+puller"] = account{"s2", []string{"private"}}
	h.accounts["robot$other+puller"] = account{"s3", []string{"other"}}
	ref := h.ref(t, "private/qwen/base:v1")
	for user, secret := range map[string]string{"robot$system": "s1", "robot$private+puller": "s2"} {
		repo := open(t, registry.Options{}, ref, robot(t, h.host(), user, secret))
		snap, err := repo.Resolve(t.Context(), model.Selection{})
		if err != nil || snap.Digest != d {
			t.Fatalf("%s: %s, %v", user, snap.Digest, err)
		}
		_, got, err := readAll(t, repo, layer, 5, 10)
		if err != nil || !bytes.Equal(got, data[5:15]) {
			t.Errorf("%s: %q, %v", user, got, err)
		}
		if err := repo.Check(t.Context(), d); err != nil {
			t.Errorf("%s: %v", user, err)
		}
	}
	if !slices.Contains(h.scopes, "repository:private/qwen/base:pull") {
		t.Errorf("scopes %q", h.scopes)
	}
	for user, tt := range map[string]struct{ secret, says string }{
		"robot$other+puller":   {"s3", "may pull from this project"}, // Harbor gives him a token without access
		"robot$private+puller": {"wrong", "has not expired"},         // the token service refuses
		"robot+puller":         {"s2", "a shell that made the secret"},
		"ann":                  {"x", "did not accept this credential"},
	} {
		repo := open(t, registry.Options{}, ref, robot(t, h.host(), user, tt.secret))
		_, err := repo.Resolve(t.Context(), model.Selection{})
		if !errors.Is(err, model.ErrUnauthenticated) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", user, err)
		}
		if err := repo.Check(t.Context(), d); !errors.Is(err, model.ErrUnauthenticated) {
			t.Errorf("%s checks: %v", user, err)
		}
	}
	for _, name := range []string{"private/qwen/base:v1", "nowhere/qwen/base:v1"} {
		_, err := open(t, registry.Options{}, h.ref(t, name), model.Credential{}).Resolve(t.Context(), model.Selection{})
		if !errors.Is(err, model.ErrUnauthenticated) || !strings.Contains(err.Error(), "nodePublishSecretRef") {
			t.Errorf("%s, anonymous: %v", name, err)
		}
	}
}

// TestHarborPublic: HEAD needs a token even where GET does not.
func TestHarborPublic(t *testing.T) {
	h := newHarbor(t)
	content, d, layer, data := harborModel("m", "v1")
	h.projects["public"] = &project{public: true, content: content}
	repo := open(t, registry.Options{}, h.ref(t, "public/m:v1"), model.Credential{})
	if err := repo.Check(t.Context(), d); err != nil {
		t.Error(err)
	}
	if _, err := repo.Resolve(t.Context(), model.Selection{}); err != nil {
		t.Error(err)
	}
	if _, got, err := readAll(t, repo, layer, 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := open(t, registry.Options{}, h.ref(t, "public/m:v2"), model.Credential{}).Resolve(t.Context(), model.Selection{}); !errors.Is(err, model.ErrNotFound) {
		t.Errorf("no such tag: %v", err)
	}
}

func TestHarborProxyCache(t *testing.T) {
	h := newHarbor(t)
	upstream, d, layer, data := harborModel("library/llm", "v1")
	h.projects["hub"] = &project{public: true, content: map[string]item{}, upstream: upstream, dockerHub: true}
	for _, name := range []string{"hub/library/llm:v1", "hub/llm:v1"} { // the second is sent on to the first
		repo := open(t, registry.Options{}, h.ref(t, name), model.Credential{})
		snap, err := repo.Resolve(t.Context(), model.Selection{})
		if err != nil || snap.Digest != d {
			t.Fatalf("%s: %s, %v", name, snap.Digest, err)
		}
		if err := repo.Check(t.Context(), d); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		// The first range is answered with the whole blob, later ones as asked.
		for _, offset := range []int64{100, 200} {
			body, err := repo.ReadRange(t.Context(), layer, offset, 50)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got := make([]byte, 50)
			if err := skipTo(body, offset, got); err != nil || !bytes.Equal(got, data[offset:offset+50]) {
				t.Errorf("%s at %d: body from %d: %v", name, offset, body.Offset, err)
			}
		}
		delete(h.projects["hub"].content, "library/llm/blobs/"+layer.Digest.String())
	}
	p := h.projects["hub"]
	for status, kind := range map[int]error{404: model.ErrNotFound, 429: model.ErrUnavailable, 500: model.ErrUnavailable} {
		p.content, p.upstreamStatus = map[string]item{}, status
		_, err := open(t, registry.Options{}, h.ref(t, "hub/library/llm:v1"), model.Credential{}).Resolve(t.Context(), model.Selection{})
		if !errors.Is(err, kind) {
			t.Errorf("upstream %d: %v", status, err)
		}
	}
}

// skipTo reads into got what is at offset of the blob, wherever the body begins.
func skipTo(body source.Body, offset int64, got []byte) error {
	defer func() { _ = body.Close() }()
	all := make([]byte, offset-body.Offset+int64(len(got)))
	for n := 0; n < len(all); {
		m, err := body.Read(all[n:])
		n += m
		if err != nil && n < len(all) {
			return err
		}
	}
	copy(got, all[offset-body.Offset:])
	return nil
}

func TestHarborRules(t *testing.T) {
	h := newHarbor(t)
	content, d, _, _ := harborModel("m", "v1")
	p := &project{public: true, content: content}
	h.projects["public"] = p
	for rule, says := range map[string]string{
		`current image with 3 vulnerabilities cannot be pulled due to configured policy in 'Prevent images with vulnerability severity of "High" or higher from running.' To continue with pull, please contact your project administrator to exempt matched vulnerabilities through configuring the CVE allowlist.`: "CVE allowlist",
		`current image without vulnerability scanning cannot be pulled due to configured policy in 'Prevent images with vulnerability severity of "Low" or higher from running.' To continue with pull, please contact your project administrator for help.`:                                                         "can scan the artifact",
		"The image is not signed in Cosign.": "cosign",
		"something that a later release has": "ask the project's administrator",
		"adding 8.0 GiB of storage resource, which when updated to current usage of 9.5 GiB will exceed the configured upper limit of 10.0 GiB.": "storage quota",
	} {
		p.rule = rule
		repo := open(t, registry.Options{}, h.ref(t, "public/m:v1"), model.Credential{})
		_, err := repo.Resolve(t.Context(), model.Selection{})
		if !errors.Is(err, model.ErrDenied) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), rule[:30]) {
			t.Errorf("resolve: %v", err)
		}
		if err := repo.Check(t.Context(), d); !errors.Is(err, model.ErrDenied) || !strings.Contains(err.Error(), says) {
			t.Errorf("check: %v", err)
		}
	}
}
