package provider

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
)

var nobody credential.Caller

func TestProtocol(t *testing.T) {
	t.Setenv("PLUGIN_SECRET", canary)
	t.Setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
	w := newWorld(t, "cloud", "second")
	ps := w.load(t, Options{},
		w.provider("cloud", "answer", reply("Registry", "*.example.com", "AWS", "pw1", ""), "  args: [get-credentials, --region, 'a b $HOME; id']\n"),
		w.provider("second", "answer", reply("Registry", "registry.example.com/a", "two", "pw2", ""), ""))
	const ref = "registry.example.com/a/model:v1"
	if got, want := logins(t, ps, nobody, ref), "credential provider cloud=AWS:pw1 credential provider second=two:pw2"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	runs := w.runs(t)
	if len(runs) != 2 {
		t.Fatalf("%d runs", len(runs))
	}
	i := slices.IndexFunc(runs, func(r record) bool { return len(r.Args) > 0 })
	if i < 0 {
		t.Fatal("the arguments are lost")
	}
	r := runs[i]
	if want := `{"kind":"CredentialProviderRequest","apiVersion":"credentialprovider.kubelet.k8s.io/v1","image":"registry.example.com/a/model"}`; r.Raw != want {
		t.Errorf("request %s, want %s", r.Raw, want)
	}
	if want := []string{"get-credentials", "--region", "a b $HOME; id"}; !slices.Equal(r.Args, want) {
		t.Errorf("args %q, want %q", r.Args, want)
	}
	environ := strings.Join(r.Environ, "\n")
	if strings.Contains(environ, canary) || !strings.Contains(environ, "HTTPS_PROXY=http://proxy.example.com:3128") || !strings.Contains(environ, actAs+"=answer") {
		t.Errorf("environment %s", environ)
	}
}

func TestMatchImages(t *testing.T) {
	w := newWorld(t, "cloud")
	all := `{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Global","auth":{` +
		`"*.example.com":{"username":"u","password":"p"},"registry.example.org:5000":{"username":"u","password":"p"}}}`
	ps := w.load(t, Options{}, w.provider("cloud", "answer", all, ""))
	for ref, want := range map[string]bool{
		"registry.example.com/a":             true,
		"example.com/a":                      false,
		"a.b.example.com/a":                  false,
		"registry.example.com:5000/a":        false,
		"registry.example.com.evil.org/a":    false,
		"registry.example.org:5000/team/a":   true,
		"registry.example.org:5000/team-b/a": true, // the beginning of the path, as kubelet has it
		"registry.example.org:5000/other/a":  false,
		"registry.example.org/team/a":        false,
		"hf://org/name":                      false,
	} {
		if got := logins(t, ps, nobody, ref) != ""; got != want {
			t.Errorf("%s: got %t, want %t", ref, got, want)
		}
	}
	if n := len(w.runs(t)); n != 1 {
		t.Errorf("an answer for everything was asked for %d times", n)
	}
}

func TestCache(t *testing.T) {
	refs := []string{"a.example.com/x:1", "a.example.com/x:2", "a.example.com/y:1", "b.example.com/x:1"}
	for name, test := range map[string]struct {
		kind, more string
		runs       int // for the references above, each twice
		later      int // once more after half an hour
		expired    int // and after an hour and a half
	}{
		"image":    {"Image", "", 3, 3, 6},
		"registry": {"Registry", "", 2, 2, 4},
		"global":   {"Global", "", 1, 1, 2},
		"own time": {"Global", `,"cacheDuration":"10m"`, 1, 2, 3},
		"no time":  {"Global", `,"cacheDuration":"0s"`, 8, 12, 16},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			now := time.Now()
			w := newWorld(t, "cloud")
			ps := w.load(t, Options{Now: func() time.Time { return now }},
				w.provider("cloud", "answer", reply(test.kind, "*.example.com", "u", "p", test.more), ""))
			ask := func(times, want int) {
				t.Helper()
				for range times {
					for _, ref := range refs {
						if logins(t, ps, nobody, ref) == "" {
							t.Errorf("%s has no credential", ref)
						}
					}
				}
				if n := len(w.runs(t)); n != want {
					t.Errorf("%d runs, want %d", n, want)
				}
			}
			ask(2, test.runs)
			now = now.Add(30 * time.Minute)
			ask(1, test.later)
			now = now.Add(time.Hour)
			ask(1, test.expired)
			if n := len(ps[0].cache.answers); n > test.runs {
				t.Errorf("%d answers are kept", n)
			}
		})
	}
}

func TestOneRunForAll(t *testing.T) {
	w := newWorld(t, "cloud")
	ps := w.load(t, Options{}, w.provider("cloud", "slow", reply("Registry", "*.example.com", "u", "p", ""), ""))
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			if logins(t, ps, nobody, fmt.Sprintf("a.example.com/model-%d", i%10)) == "" {
				t.Error("no credential")
			}
		})
	}
	all.Wait()
	if n := len(w.runs(t)); n > atOnce {
		t.Errorf("%d runs for one registry, of which %d are possible at once", n, atOnce)
	}
}

// TestFailures: whatever a provider does, it ends in time, and its error names it and shows no secret.
func TestFailures(t *testing.T) {
	token := strings.Repeat("t0k3n", 10) + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"a":"`+strings.Repeat("claim", 8)+`"}`)) + "." + canary
	good := reply("Image", "*.example.com", "u", canary, "")
	for name, test := range map[string]struct {
		act, answer string
		kind        error
		says        string
	}{
		"fails":          {"fail", good, model.ErrUnavailable, "exit status 3 (it says: cannot [31m reach the cloud with [redacted]"},
		"hangs":          {"hang", "", model.ErrUnavailable, "does not answer within 1s"},
		"floods":         {"flood", "", model.ErrTooLarge, "1048576 bytes"},
		"says nothing":   {"answer", "", model.ErrInvalid, "not a CredentialProviderResponse"},
		"not JSON":       {"answer", canary, model.ErrInvalid, "not a CredentialProviderResponse"},
		"two answers":    {"answer", good + good, model.ErrInvalid, "not a CredentialProviderResponse"},
		"wrong type":     {"answer", `{"auth":{"a":"` + canary + `"}}`, model.ErrInvalid, "not a CredentialProviderResponse"},
		"wrong kind":     {"answer", strings.Replace(good, "CredentialProviderResponse", "Secret", 1), model.ErrInvalid, "not a CredentialProviderResponse"},
		"wrong version":  {"answer", strings.Replace(good, "k8s.io/v1", "k8s.io/v1beta1", 1), model.ErrInvalid, "k8s.io/v1"},
		"wrong cache":    {"answer", reply("Everything", "*.example.com", "u", canary, ""), model.ErrInvalid, "cacheKeyType"},
		"wrong duration": {"answer", reply("Image", "*.example.com", "u", canary, `,"cacheDuration":"`+canary+`"`), model.ErrInvalid, "JSON"},
		"echoes":         {"answer", reply("Image", "*.example.com", "u", "$TOKEN", ""), model.ErrInvalid, "cacheType Token"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "cloud")
			o := Options{}
			if test.act == "hang" {
				o.Timeout = time.Second
			}
			ps := w.load(t, o, w.provider("cloud", test.act, test.answer, "  tokenAttributes: {serviceAccountTokenAudience: aud, requireServiceAccount: true, cacheType: ServiceAccount}\n"))
			caller := credential.Caller{Namespace: "ns", ServiceAccount: "sa", Tokens: map[string]model.Secret{"aud": model.NewSecret(token)}}
			creds, err := ps.Keychain(caller).Credentials(t.Context(), reference(t, "a.example.com/x"))
			if len(creds) > 0 || !errors.Is(err, test.kind) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), "credential provider cloud") {
				t.Fatalf("got %d credentials and %v, want %q", len(creds), err, test.says)
			}
			if text := err.Error(); strings.Contains(text, canary) || strings.Contains(text, "t0k3n") || strings.Contains(text, "\x1b") || len(text) > 1000 {
				t.Errorf("the error shows too much: %s", text)
			}
		})
	}
}

// TestHangsOnce: whoever asks for many references waits once for a provider that does not answer, and so do all others.
func TestHangsOnce(t *testing.T) {
	w := newWorld(t)
	// A shell notes that it was started long before it is killed, wherever the test binary might not.
	script := fmt.Sprintf("#!/bin/sh\necho '{}' >>\"$%s\"\nexec sleep 3600\n", recordIn)
	if err := os.WriteFile(filepath.Join(w.dir, "cloud"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	var mu sync.Mutex
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	ps := w.load(t, Options{Timeout: time.Second, Now: clock}, w.provider("cloud", "hang", "", ""))
	ask := func(image string) {
		t.Helper()
		_, err := ps.Keychain(nobody).Credentials(t.Context(), reference(t, image))
		if !errors.Is(err, model.ErrUnavailable) || !strings.Contains(err.Error(), "does not answer within 1s") {
			t.Errorf("%s: %v", image, err)
		}
	}
	for _, image := range []string{"a.example.com/x", "a.example.com/y", "b.example.com/z"} {
		ask(image)
	}
	if n := len(w.runs(t)); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	mu.Lock()
	now = now.Add(silenceLife)
	mu.Unlock()
	ask("a.example.com/x")
	if n := len(w.runs(t)); n != 2 {
		t.Errorf("it was asked %d times after a while", n)
	}
}

// TestCallerLeaves: a caller who goes gets an answer at once; the run goes on for the next one.
func TestCallerLeaves(t *testing.T) {
	w := newWorld(t, "cloud")
	ps := w.load(t, Options{}, w.provider("cloud", "slow", reply("Image", "*.example.com", "u", "p", ""), ""))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := ps.Keychain(nobody).Credentials(ctx, reference(t, "a.example.com/x"))
	if !errors.Is(err, context.Canceled) || !errors.Is(err, model.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if logins(t, ps, nobody, "a.example.com/x") == "" || len(w.runs(t)) != 1 {
		t.Errorf("%d runs", len(w.runs(t)))
	}
}

// TestChildren: what a provider has started is killed with it.
func TestChildren(t *testing.T) {
	w := newWorld(t, "cloud")
	ps := w.load(t, Options{}, w.provider("cloud", "children", "", ""))
	if _, err := ps.Keychain(nobody).Credentials(t.Context(), reference(t, "a.example.com/x")); !errors.Is(err, model.ErrTooLarge) {
		t.Fatalf("got %v", err)
	}
	text, err := os.ReadFile(w.record + ".pid")
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		t.Fatal(err)
	}
	for range 3000 {
		// Nobody reaps it in a container without an init, so a zombie is an end as well.
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if syscall.Kill(pid, 0) != nil || err != nil || strings.Contains(string(state), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d goes on", pid)
}

func TestPrograms(t *testing.T) {
	w := newWorld(t, "good", "open")
	outside := newWorld(t, "outside")
	if err := os.Symlink(filepath.Join(outside.dir, "outside"), filepath.Join(w.dir, "escapes")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("good", filepath.Join(w.dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(w.dir, "directory"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"text": 0o644, "everybody": 0o777} {
		path := filepath.Join(w.dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, kind := range map[string]error{
		"good": nil, "link": nil, "missing": model.ErrNotFound, "escapes": model.ErrDenied,
		"directory": model.ErrInvalid, "text": model.ErrInvalid, "everybody": model.ErrDenied,
	} {
		if _, err := program(w.dir, name); !errors.Is(err, kind) || (err != nil && !strings.Contains(err.Error(), name)) {
			t.Errorf("%s: %v, want %v", name, err, kind)
		}
	}
	// A program that is exchanged after the start is looked at again.
	ps := w.load(t, Options{}, w.provider("good", "answer", reply("Image", "*.example.com", "u", "p", ""), ""))
	if err := os.Remove(filepath.Join(w.dir, "good")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/bin/sh", filepath.Join(w.dir, "good")); err != nil {
		t.Fatal(err)
	}
	if _, err := ps.Keychain(nobody).Credentials(t.Context(), reference(t, "a.example.com/x")); !errors.Is(err, model.ErrDenied) {
		t.Errorf("a program outside of the directory: %v", err)
	}
}
