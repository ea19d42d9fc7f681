package provider

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	providerv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
)

// actAs selects what the test binary does when it is a provider; recordIn names the file that it adds requests to.
const (
	actAs    = "TEST_PROVIDER"
	answer   = "TEST_ANSWER"
	recordIn = "TEST_RECORD"
)

const canary = "c4n4ry-s3cr3t-of-a-provider"

// TestMain makes the test binary a credential provider when it is started as one.
func TestMain(m *testing.M) {
	if act := os.Getenv(actAs); act != "" {
		os.Exit(play(act))
	}
	goleak.VerifyTestMain(m)
}

// record is what a provider notes of one run.
type record struct {
	Request providerv1.CredentialProviderRequest
	Raw     string
	Args    []string
	Environ []string
}

func play(act string) int {
	input, _ := io.ReadAll(os.Stdin)
	r := record{Raw: string(input), Args: os.Args[1:], Environ: os.Environ()}
	_ = json.Unmarshal(input, &r.Request)
	if path := os.Getenv(recordIn); path != "" {
		line, _ := json.Marshal(r)
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return 9
		}
		_, _ = f.Write(append(line, '\n'))
		_ = f.Close()
	}
	switch act {
	case "answer":
		fmt.Print(strings.ReplaceAll(os.Getenv(answer), "$TOKEN", r.Request.ServiceAccountToken))
	case "slow":
		time.Sleep(200 * time.Millisecond)
		fmt.Print(os.Getenv(answer))
	case "fail":
		fmt.Print(os.Getenv(answer)) // what it printed before it failed may be a secret
		fmt.Fprintf(os.Stderr, "cannot\x1b[31m reach\nthe cloud with %s %s", r.Request.ServiceAccountToken, strings.Repeat("x", 1<<20))
		return 3
	case "hang":
		fmt.Fprint(os.Stderr, "waiting for the metadata service")
		time.Sleep(time.Hour)
	case "flood":
		flood()
	case "children":
		child := exec.Command("/proc/self/exe")
		child.Env = append(os.Environ(), actAs+"=hang")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if child.Start() != nil {
			return 9
		}
		_ = os.WriteFile(os.Getenv(recordIn)+".pid", fmt.Append(nil, child.Process.Pid), 0o600)
		flood()
	}
	return 0
}

// flood writes without end, and does not mind that nobody reads it.
func flood() {
	w := bufio.NewWriter(os.Stdout)
	for {
		if _, err := w.WriteString(canary); err != nil {
			time.Sleep(time.Hour)
		}
	}
}

// world is a directory of providers with its configuration.
type world struct {
	dir, config, record string
}

// newWorld makes the test binary a provider of each name.
func newWorld(t *testing.T, names ...string) world {
	t.Helper()
	w := world{dir: t.TempDir(), record: filepath.Join(t.TempDir(), "record")}
	w.config = filepath.Join(t.TempDir(), "config.yaml")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := filepath.Join(w.dir, name)
		if os.Link(self, path) == nil {
			continue
		}
		if err := os.WriteFile(path, program, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// provider is the text of a provider's entry.
func (w world) provider(name, act, response, more string) string {
	return fmt.Sprintf(`
- name: %s
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  defaultCacheDuration: 1h
  matchImages: ["*.example.com", "registry.example.org:5000/team"]
  env:
  - {name: %s, value: %s}
  - {name: %s, value: %q}
  - {name: %s, value: %q}
  - {name: GORACE, value: atexit_sleep_ms=0} # the race detector waits for a second otherwise
%s`, name, actAs, act, answer, response, recordIn, w.record, more)
}

func (w world) load(t *testing.T, o Options, providers ...string) Providers {
	t.Helper()
	text := "kind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\nproviders:" + strings.Join(providers, "")
	if err := os.WriteFile(w.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ps, err := Load(w.config, w.dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

// runs are the runs of all providers so far.
func (w world) runs(t *testing.T) []record {
	t.Helper()
	text, err := os.ReadFile(w.record)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var out []record
	for line := range strings.Lines(string(text)) {
		var r record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// response is the text of an answer with one login; more are further fields.
func reply(kind, pattern, user, password, more string) string {
	return fmt.Sprintf(`{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":%q,"auth":{%q:{"username":%q,"password":%q}}%s}`,
		kind, pattern, user, password, more)
}

func reference(t *testing.T, s string) model.Ref {
	t.Helper()
	ref, err := model.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// logins are the credentials that a caller gets, as name=user:password.
func logins(t *testing.T, ps Providers, c credential.Caller, ref string) string {
	t.Helper()
	creds, err := ps.Keychain(c).Credentials(t.Context(), reference(t, ref))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, c := range creds {
		out = append(out, fmt.Sprintf("%s=%s:%s", c, c.Username, c.Password.Reveal()))
	}
	return strings.Join(out, " ")
}
