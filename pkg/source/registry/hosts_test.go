package registry_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

// configDir makes a hosts.toml directory for a registry; %s and so on in the text are filled with args.
func configDir(t *testing.T, registry, text string, args ...any) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, registry)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "hosts.toml"), fmt.Sprintf(text, args...))
	return root
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// authority writes the certificate of a TLS server and returns the file's path.
func authority(t *testing.T, s *server) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.pem")
	writeFile(t, file, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})))
	return file
}

// dirName is how containerd writes a host with a port.
func dirName(host string) string {
	name, port, _ := strings.Cut(host, ":")
	return name + "_" + port + "_"
}

func TestMirror(t *testing.T) {
	origin, first, second := newServer(t, false), newServer(t, false), newServer(t, false)
	d, layer, content := origin.model()
	second.model() // first has nothing
	dir := configDir(t, dirName(origin.host()), `
[host."http://%s"]
  capabilities = ["pull", "resolve"]
[host."http://%s"]
  capabilities = ["pull", "resolve", "push"]
  [host."http://%[2]s".header]
    X-Token = ["%s"]
`, first.host(), second.host(), canary)
	repo := open(t, registry.Options{ConfigDir: dir}, origin.ref("v1"), password("ann", canary))
	snap, err := repo.Resolve(t.Context(), model.Selection{})
	if err != nil || snap.Digest != d {
		t.Fatalf("got %s, %v", snap.Digest, err)
	}
	if body, got, err := readAll(t, repo, layer, 10, 10); err != nil || !bytes.Equal(got, content[10:20]) || body.Host != second.host() {
		t.Fatalf("got %q from %s, %v", got, body.Host, err)
	}
	// The server is asked for nothing but whether this identity may read what the mirror delivered.
	if want := []string{"HEAD /v2/acme/llm/manifests/" + d.String()}; !slices.Equal(origin.asked(), want) {
		t.Errorf("the server was asked %q, want %q", origin.asked(), want)
	}
	for _, m := range []*server{first, second} {
		if len(m.asked()) == 0 {
			t.Error("a mirror was not asked")
		}
		for _, r := range m.requests {
			if r.URL.Query().Get("ns") != origin.host() {
				t.Errorf("the mirror is not told which registry is meant: %s", r.URL)
			}
			if r.Header.Get("Authorization") != "" {
				t.Error("a mirror was sent the pod's credential")
			}
			if has := r.Header.Get("X-Token") != ""; has != (m == second) {
				t.Errorf("header of hosts.toml sent: %t", has)
			}
		}
	}
}

// A mirror that serves a private model to everybody does not make it public.
func TestMirrorProvesNothing(t *testing.T) {
	origin, mirror := newServer(t, false), newServer(t, false)
	d, _, _ := mirror.model()
	dir := configDir(t, dirName(origin.host()), "[host.\"http://%s\"]\n", mirror.host())
	for status, want := range map[int]error{401: model.ErrUnauthenticated, 403: model.ErrDenied, 404: model.ErrNotFound, 503: model.ErrUnavailable} {
		origin.on(func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(status)
			return true
		})
		repo := open(t, registry.Options{ConfigDir: dir}, origin.ref("v1"), model.Credential{})
		if _, err := repo.Resolve(t.Context(), model.Selection{}); !errors.Is(err, want) {
			t.Errorf("server answers %d: Resolve: %v, want %v", status, err, want)
		}
		if err := repo.Check(t.Context(), d); !errors.Is(err, want) {
			t.Errorf("server answers %d: Check: %v, want %v", status, err, want)
		}
	}
}

// Whatever is wrong with a mirror, the server has the last word.
func TestMirrorFails(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"401":           func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401) },
		"403":           func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403) },
		"404":           func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404) },
		"429":           func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(429) },
		"500":           func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) },
		"page":          func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"other bytes":   func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte(`{"layers":[]}`)) },
		"gone":          func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
		"redirect loop": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, 302) },
	} {
		t.Run(name, func(t *testing.T) {
			origin, mirror := newServer(t, false), newServer(t, false)
			d, layer, content := origin.model()
			mirror.on(func(w http.ResponseWriter, r *http.Request) bool { answer(w, r); return true })
			dir := configDir(t, dirName(origin.host()), "[host.\"http://%s\"]\n", mirror.host())
			repo := open(t, registry.Options{ConfigDir: dir}, origin.ref("v1").Pinned(d), model.Credential{})
			snap, err := repo.Resolve(t.Context(), model.Selection{})
			if err != nil || snap.Digest != d {
				t.Fatalf("got %s, %v", snap.Digest, err)
			}
			for range 3 {
				if _, got, err := readAll(t, repo, layer, 10, 10); err != nil || !bytes.Equal(got, content[10:20]) {
					t.Fatalf("got %q, %v", got, err)
				}
			}
			if n := len(mirror.asked()); n > 40 { // three times through the redirects
				t.Errorf("a mirror that fails was asked %d times", n)
			}
		})
	}
}

// A mirror that sends wrong bytes is asked for this blob no more, and only for this one.
func TestMirrorIsDistrusted(t *testing.T) {
	origin, mirror := newServer(t, false), newServer(t, false)
	d, layer, content := origin.model()
	other := mirror.blob([]byte("intact"))
	mirror.on(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, layer.Digest.String()) {
			return false
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(make([]byte, len(content))))
		return true
	})
	dir := configDir(t, dirName(origin.host()), "[host.\"http://%s\"]\n", mirror.host())
	repo := open(t, registry.Options{ConfigDir: dir}, origin.ref("v1").Pinned(d), model.Credential{})
	distrust := repo.(source.Distruster).Distrust
	if distrust(layer) {
		t.Error("a mirror is distrusted that sent nothing")
	}
	if _, got, err := readAll(t, repo, layer, 0, 10); err != nil || !bytes.Equal(got, make([]byte, 10)) {
		t.Fatalf("got %q, %v: the mirror was not asked", got, err)
	}
	if !distrust(layer) {
		t.Error("nobody else is left to ask")
	}
	if _, got, err := readAll(t, repo, layer, 0, 10); err != nil || !bytes.Equal(got, content[:10]) {
		t.Fatalf("got %q, %v", got, err)
	}
	if distrust(layer) {
		t.Error("the registry itself is distrusted")
	}
	if _, got, err := readAll(t, repo, other, 0, -1); err != nil || string(got) != "intact" {
		t.Errorf("another blob of the mirror: %q, %v", got, err)
	}
}

func TestMirrorCredential(t *testing.T) {
	origin, mirror := newServer(t, false), newServer(t, false)
	mirror.model()
	origin.model()
	mirror.on(func(w http.ResponseWriter, r *http.Request) bool {
		if user, pass, _ := r.BasicAuth(); user == "node" && pass == "node-password" {
			return false
		}
		w.Header().Set("WWW-Authenticate", "Basic")
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	dir := configDir(t, dirName(origin.host()), "[host.\"http://%s\"]\n", mirror.host())
	keys := keychain{mirror.host(): password("node", "node-password")}
	repo := open(t, registry.Options{ConfigDir: dir, MirrorKeychain: keys}, origin.ref("v1"), model.Credential{})
	if _, err := repo.Resolve(t.Context(), model.Selection{}); err != nil {
		t.Fatal(err)
	}
	if n := len(origin.asked()); n != 1 {
		t.Errorf("the server was asked %q", origin.asked())
	}
}

type keychain map[string]model.Credential

func (k keychain) Credentials(_ context.Context, ref model.Ref) ([]model.Credential, error) {
	if c, ok := k[ref.Registry]; ok {
		return []model.Credential{c}, nil
	}
	return nil, nil
}

// A mirror without the capability to resolve is asked for digests alone.
func TestCapabilities(t *testing.T) {
	origin, mirror := newServer(t, false), newServer(t, false)
	d, layer, _ := origin.model()
	mirror.model()
	dir := configDir(t, "_default", "[host.\"http://%s\"]\ncapabilities = [\"pull\"]\n", mirror.host())
	repo := open(t, registry.Options{ConfigDir: dir}, origin.ref("v1"), model.Credential{})
	if _, err := repo.Resolve(t.Context(), model.Selection{}); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(mirror.asked(), "GET /v2/acme/llm/manifests/v1") {
		t.Error("the mirror was asked for a tag")
	}
	if body, _, err := readAll(t, repo, layer, 0, 10); err != nil || body.Host != mirror.host() {
		t.Errorf("the blob came from %s, %v", body.Host, err)
	}
	dir = configDir(t, origin.host(), "capabilities = [\"push\"]\n")
	repo = open(t, registry.Options{ConfigDir: dir}, origin.ref("v1").Pinned(d), model.Credential{})
	if _, err := repo.Resolve(t.Context(), model.Selection{}); !errors.Is(err, model.ErrInvalid) {
		t.Errorf("nobody may be asked: %v", err)
	}
}

// The server of hosts.toml stands for the registry: it gets the credential, and it proves permissions.
func TestServer(t *testing.T) {
	s := newServer(t, true)
	d, _, _ := s.model()
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if _, pass, _ := r.BasicAuth(); pass == canary {
			return false
		}
		w.Header().Set("WWW-Authenticate", "Basic")
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	ref := model.Ref{Registry: "registry.example.com", Repository: repoName, Tag: "v1"}
	dir := configDir(t, "registry.example.com", "server = \"https://%s\"\nca = %q\n", s.host(), authority(t, s))
	snap, err := open(t, registry.Options{ConfigDir: dir}, ref, password("ann", canary)).Resolve(t.Context(), model.Selection{})
	if err != nil || snap.Digest != d {
		t.Fatalf("got %s, %v", snap.Digest, err)
	}
	if got := s.requests[0].URL.Query().Get("ns"); got != "registry.example.com" {
		t.Errorf("ns=%q", got)
	}
}

func TestOverridePath(t *testing.T) {
	s := newServer(t, false)
	s.model()
	dir := configDir(t, "registry.example.com", "server = \"http://%s/v2/acme\"\noverride_path = true\n", s.host())
	ref := model.Ref{Registry: "registry.example.com", Repository: "llm", Tag: "v1"}
	if _, err := open(t, registry.Options{ConfigDir: dir}, ref, model.Credential{}).Resolve(t.Context(), model.Selection{}); err != nil {
		t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	s := newServer(t, true)
	s.model()
	ca := authority(t, s)
	for name, test := range map[string]struct {
		text string
		want error
		log  string
	}{
		"unknown authority":  {"server = \"https://%s\"\n", model.ErrUnavailable, ""},
		"authority":          {"server = \"https://%s\"\nca = \"" + ca + "\"\n", nil, ""},
		"authorities":        {"server = \"https://%s\"\nca = [\"" + ca + "\"]\n", nil, ""},
		"not verified":       {"server = \"https://%s\"\nskip_verify = true\n", nil, "skip_verify"},
		"authority missing":  {"server = \"https://%s\"\nca = \"/nowhere/ca.pem\"\n", model.ErrInvalid, ""},
		"authority is empty": {"server = \"https://%s\"\nca = \"" + os.DevNull + "\"\n", model.ErrInvalid, ""},
		"plain":              {"server = \"http://%s\"\n", model.ErrInvalid, ""}, // 400 from the TLS server
	} {
		t.Run(name, func(t *testing.T) {
			var log logBuffer
			dir := configDir(t, dirName(s.host()), test.text, s.host())
			o := registry.Options{ConfigDir: dir, Logger: log.logger()}
			_, err := open(t, o, s.ref("v1"), model.Credential{}).Resolve(t.Context(), model.Selection{})
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if name == "unknown authority" && (err == nil || !strings.Contains(err.Error(), "ca") || !strings.Contains(err.Error(), "hosts.toml")) {
				t.Errorf("the error does not say what to do: %v", err)
			}
			if got := log.String(); strings.Count(got, "skip_verify") != strings.Count(test.log, "skip_verify") {
				t.Errorf("logged %s", got)
			}
		})
	}
}

// skip_verify is for the host that it is written under, not for hosts to which that one refers.
func TestSkipVerifyIsForOneHost(t *testing.T) {
	storage := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Error("the storage was asked") }))
	storage.Config.ErrorLog = nil
	t.Cleanup(storage.Close)
	s := newServer(t, true)
	_, layer, _ := s.model()
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, strings.Replace(storage.URL, "127.0.0.1", "127.0.0.2", 1), http.StatusTemporaryRedirect)
		return true
	})
	dir := configDir(t, dirName(s.host()), "server = \"https://%s\"\nskip_verify = true\n", s.host())
	repo := open(t, registry.Options{ConfigDir: dir}, s.ref("v1"), model.Credential{})
	if _, _, err := readAll(t, repo, layer, 0, 10); !errors.Is(err, model.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

// A server with TLS that lists its files the way docker does, and wants a client certificate.
func TestClientCertificate(t *testing.T) {
	certPEM, keyPEM, cert := clientCertificate(t)
	s := &server{content: map[string]item{}}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	s.StartTLS()
	t.Cleanup(s.Close)
	s.model()
	data, err := os.ReadFile(authority(t, s))
	if err != nil {
		t.Fatal(err)
	}
	dir := configDir(t, "registry.example.com", "server = \"https://%s\"\nca = \"ca.crt\"\nclient = [[\"c.cert\", \"c.key\"]]\n", s.host())
	host := filepath.Join(dir, "registry.example.com")
	writeFile(t, filepath.Join(host, "ca.crt"), string(data))
	writeFile(t, filepath.Join(host, "c.cert"), certPEM)
	writeFile(t, filepath.Join(host, "c.key"), keyPEM)
	writeFile(t, filepath.Join(host, "both.pem"), certPEM+keyPEM)
	ref := model.Ref{Registry: "registry.example.com", Repository: repoName, Tag: "v1"}
	o := registry.Options{ConfigDir: dir}
	if _, err := open(t, o, ref, model.Credential{}).Resolve(t.Context(), model.Selection{}); err != nil {
		t.Errorf("pair of files: %v", err)
	}
	writeFile(t, filepath.Join(host, "hosts.toml"), fmt.Sprintf("server = \"https://%s\"\nca = \"ca.crt\"\nclient = \"both.pem\"\n", s.host()))
	if _, err := open(t, o, ref, model.Credential{}).Resolve(t.Context(), model.Selection{}); err != nil {
		t.Errorf("one file: %v", err)
	}
	// Docker's layout has no hosts.toml; the registry is then reached under its own name, through a proxy here.
	if err := os.Remove(filepath.Join(host, "hosts.toml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(host, filepath.Join(dir, "example.com")); err != nil {
		t.Fatal(err)
	}
	o.Proxy = newProxy(t, map[string]string{"example.com:443": s.host()}).choose
	ref.Registry = "example.com"
	if _, err := open(t, o, ref, model.Credential{}).Resolve(t.Context(), model.Selection{}); err != nil {
		t.Errorf("certificates without hosts.toml: %v", err)
	}
}

func clientCertificate(t *testing.T) (certPEM, keyPEM string, cert *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err = x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), cert
}

// Repositories opened after a change see it, and a file that cannot be read stops them: going on without it would go
// past the operator's mirrors.
func TestHostsChange(t *testing.T) {
	s := newServer(t, false)
	s.model()
	dir := configDir(t, "registry.example.com", "server = \"http://%s\"\n", s.host())
	ref := model.Ref{Registry: "registry.example.com", Repository: repoName, Tag: "v1"}
	o := registry.Options{ConfigDir: "/nowhere:" + dir}
	if _, err := open(t, o, ref, model.Credential{}).Resolve(t.Context(), model.Selection{}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "registry.example.com", "hosts.toml")
	for name, text := range map[string]string{
		"not TOML":         "server = " + canary,
		"scheme":           "server = \"ftp://" + canary + "\"",
		"user":             "server = \"https://u:" + canary + "@x\"",
		"query":            "server = \"https://x?" + canary + "\"",
		"capability":       "capabilities = [\"fly\"]",
		"capability type":  "capabilities = \"" + canary + "\"",
		"ca":               "ca = 7",
		"ca in a list":     "ca = [7]",
		"client":           "client = [[\"a\"]]",
		"header":           "[header]\nx = 7",
		"header value":     "[header]\nx = \"a\\n" + canary + "\"",
		"dial_timeout":     "dial_timeout = \"soon\"",
		"host is empty":    "[host.\"\"]",
		"host is no URL":   "[host.\"https://%zz\"]",
		"header of a host": "[host.\"https://x\".header]\n\"a b\" = \"" + canary + "\"",
	} {
		writeFile(t, file, text)
		_, err := open(t, o, ref, model.Credential{}).Resolve(t.Context(), model.Selection{})
		if !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
