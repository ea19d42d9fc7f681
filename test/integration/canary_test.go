package integration

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

// Every secret of this test holds the word, so that one search finds them all.
const canary = "canary+S3cret/="

// fixedTime is when the content of tests was made.
var fixedTime = time.Unix(1735689600, 0)

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// feathers are the forms in which a canary shows.
func feathers() map[string]string {
	out := map[string]string{
		"as it is": canary, "in JSON": strings.ReplaceAll(canary, "/", `\/`), "in a query": url.QueryEscape(canary), "in a path": url.PathEscape(canary),
		"in hex": hex.EncodeToString([]byte(canary)), "reversed": "=/terc3S+yranac",
	}
	// A text in Base64 begins at one of three places.
	for i := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", i) + canary + "yyy"))
		out[fmt.Sprintf("in Base64 %d", i)] = encoded[4 : len(encoded)-8]
	}
	return out
}

// secretForms are the secrets that a pod may bring.
func secretForms(host string) map[string]map[string]string {
	pair := base64.StdEncoding.EncodeToString([]byte("puller:" + canary))
	entry := func(format string, args ...any) map[string]string {
		return map[string]string{".dockerconfigjson": fmt.Sprintf(`{"auths":{%q:%s}}`, host, fmt.Sprintf(format, args...))}
	}
	return map[string]map[string]string{
		"user and password": {"username": "puller", "password": canary},
		"token":             {"token": "t" + canary},
		"auth":              entry(`{"auth":%q}`, pair),
		"auth fields":       entry(`{"username":"puller","password":%q}`, canary),
		"identity token":    entry(`{"identitytoken":%q}`, canary),
		"registry token":    entry(`{"registrytoken":%q}`, canary),
		"dockercfg":         {".dockercfg": fmt.Sprintf(`{%q:{"auth":%q}}`, host, pair)},
		"broken JSON":       {".dockerconfigjson": `{"auths":{"` + canary},
		"broken Base64":     entry(`{"auth":"!%s"}`, canary),
		"unknown key":       {"passwort": canary},
		"password alone":    {"password": canary},
		"token and pair":    {"username": "puller", "password": canary, "token": canary},
		"line end in token": {"token": canary + "\nX: y"},
	}
}

// echo is a registry that repeats what it was sent, in every part of an answer.
func echo(c *registry.Call) {
	auth := c.Header.Get("Authorization")
	_, value, _ := strings.Cut(auth, " ")
	plain := value
	if b, err := base64.StdEncoding.DecodeString(value); err == nil {
		plain = string(b)
	}
	if _, password, ok := strings.Cut(plain, ":"); ok {
		plain = password
	}
	said := strings.NewReplacer("\r", "", "\n", "").Replace(plain)
	words, _ := json.Marshal(map[string]any{"errors": []map[string]string{{"code": said, "message": auth + " " + c.Body + " " + url.QueryEscape(said)}}, "details": said})
	header := []string{"X-Echo", auth, "Content-Type", "text/" + url.PathEscape(said), "Docker-Content-Digest", said, "Retry-After", said, "Content-Range", "bytes " + said}
	proxied := c.Header.Get("Proxy-Authorization")
	switch {
	case c.Method == http.MethodConnect && strings.HasPrefix(c.Host, "words."):
		c.Raw("HTTP/1.1 407 " + proxied + "\r\nContent-Length: 0\r\n\r\n")
	case c.Method == http.MethodConnect:
		c.Send(407, []byte(proxied), "Proxy-Authenticate", "Basic realm="+proxied)
	case strings.HasSuffix(c.URL.Path, "/token"):
		c.Send(401, words, header...)
	case auth == "" && !strings.HasPrefix(c.URL.Path, "/v2/echo/realm/"):
		c.Send(401, words, "WWW-Authenticate", `Basic realm="r"`)
	case strings.HasPrefix(c.URL.Path, "/v2/echo/realm/"):
		c.Send(401, words, append(header, "WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/%s/token?x=%s",service=%q`, c.Host, url.PathEscape(said), url.QueryEscape(said), said))...)
	case strings.HasPrefix(c.URL.Path, "/v2/echo/redirect/"):
		c.Send(302, words, append(header, "Location", fmt.Sprintf("http://127.0.0.1:1/%s?x=%s", url.PathEscape(said), url.QueryEscape(said)))...)
	case strings.HasPrefix(c.URL.Path, "/v2/echo/location/"):
		c.Send(302, words, "Location", "http://%zz/"+said)
	case strings.HasPrefix(c.URL.Path, "/v2/echo/type/"):
		c.Send(200, words, header...)
	case strings.HasPrefix(c.URL.Path, "/v2/echo/garbage/"):
		c.Raw("HTTP/1.1 " + said + "\r\n\r\n")
	case strings.HasPrefix(c.URL.Path, "/v2/echo/header/"):
		c.Raw("HTTP/1.1 200 OK\r\n" + said + "\r\n\r\n")
	case strings.HasPrefix(c.URL.Path, "/v2/echo/length/"):
		c.Raw("HTTP/1.1 200 OK\r\nContent-Length: " + said + "\r\n\r\n")
	case strings.HasPrefix(c.URL.Path, "/v2/echo/busy/"):
		c.Send(503, words, header...)
	default:
		c.Send(403, words, header...)
	}
}

var echoModes = []string{"denied", "realm", "redirect", "location", "type", "garbage", "header", "length", "busy"}

// TestThreatSecrets gives the daemon secrets in every form, of which registries repeat some, and looks for them in all that it
// writes at the highest verbosity, in what it answers, and where the kernel shows its processes.
func TestThreatSecrets(t *testing.T) {
	t.Parallel()
	stage := registry.NewStage(echo)
	t.Cleanup(func() { _ = stage.Close() })
	listening, err := stage.Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	address, kept := listening.String(), t.TempDir()
	write := func(name string, mode os.FileMode, content string) string {
		file := filepath.Join(kept, name)
		if err := os.WriteFile(file, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	docker := write("docker.json", 0o600, fmt.Sprintf(`{"auths":{"127.0.0.2:1":{"auth":%q},%q:{"username":"node","password":%q}}}`,
		base64.StdEncoding.EncodeToString([]byte("node:"+canary)), address, canary+"-of-the-node"))
	provider := write("provider.yaml", 0o600, `apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: helper
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  defaultCacheDuration: 0s
  matchImages: ["127.0.0.1:*", "`+address+`/echo", "*.example.com"]
`)
	write("helper", 0o700, "#!/bin/sh\ncat > /dev/null\n"+`echo '{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry","auth":{"`+
		address+`":{"username":"helper","password":"`+canary+`-of-the-helper"}}}'`+"\n")
	settings := write("config.yaml", 0o600, fmt.Sprintf("https-proxy: http://proxy:%s-of-the-proxy@%s\n", url.QueryEscape(canary), address))
	w := newWorld(t, registry.Options{Users: map[string]string{"puller": canary}, TokenTTL: time.Hour}, "--http-address", "127.0.0.1:0", "--config", settings,
		"--docker-config", docker, "--docker-config-registries", "127.0.0.2:1,"+address, "--pull-linger", "1s", "--grant-ttl", "1ms",
		"--credential-provider-config", provider, "--credential-provider-bin-dir", kept)
	files := []artifact.File{artifact.Random("weights.bin", 100<<10, 1)}
	good, _ := w.push("m/private", files, artifact.Options{User: "puller", Password: canary})

	var mu sync.Mutex
	var said strings.Builder // everything that the daemon answers
	var mounted []string
	var group sync.WaitGroup
	room := make(chan struct{}, 64)
	number := 0
	try := func(reference string, secrets map[string]string, more ...string) {
		number++
		v := volume(fmt.Sprintf("csi-canary-%d", number), reference, more...)
		v.Secrets = secrets
		group.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := w.node.Publish(ctx, v)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				mounted = append(mounted, v.ID)
				return
			}
			s := status.Convert(err)
			fmt.Fprintf(&said, "%v\n%v\n%v\n", err, s.Message(), s.Details())
		})
	}
	for _, secrets := range secretForms(w.registry.Host()) {
		try(good, secrets)
		try(good, secrets, "pullPolicy", "Always")
		try(strings.Replace(good, ":v1", ":absent", 1), secrets)
	}
	for name, secrets := range secretForms(address) {
		for _, mode := range echoModes {
			if mode == "busy" && name != "auth" { // it takes seconds each
				continue
			}
			try(fmt.Sprintf("%s/echo/%s:v1", address, mode), secrets)
		}
	}
	for _, mode := range echoModes {
		try(fmt.Sprintf("%s/echo/%s:v1", address, mode), nil) // with the node's own
	}
	for _, host := range []string{"h.example.com", "words.example.com"} { // through the proxy, which repeats its own
		try(host+"/m/x:v1", nil)
		try(host+"/m/x:v1", secretForms(host)["auth"])
	}
	// Attributes that nobody should write, but people do.
	try(good, nil, "password", canary)
	try(good, nil, "csi.storage.k8s.io/serviceAccount.tokens", `{"":{"token":"`+canary+`"}}`)
	group.Wait()
	t.Logf("%d requests, %d mounted", number, len(mounted))
	if len(mounted) == 0 {
		t.Error("none of the secrets was good for anything")
	}

	commands := [][]string{{"status"}, {"status", "-o", "json"}, {"cache", "gc", "-o", "json"}, {"cache", "ls", "-o", "json"},
		{"prefetch", good}, {"prefetch", address + "/echo/denied:v1"}, {"cache", "pin", address + "/echo/realm:v1"}}
	for i := range number {
		if i%10 == 0 {
			commands = append(commands, []string{"why", fmt.Sprintf("default/pod-csi-canary-%d", i+1), "-o", "json"})
		}
	}
	answered := 0
	for _, args := range commands {
		// That a command fails is an answer, too.
		cmd := exec.Command(binary, append(args, "--root", w.node.Root())...)
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
		out, err := cmd.CombinedOutput()
		if err == nil {
			answered++
		}
		said.Write(out)
	}
	if answered < 4 {
		t.Errorf("the command line got %d answers: %s", answered, said.String())
	}
	metrics := w.httpAddress()
	for _, path := range []string{"/metrics", "/healthz", "/readyz", "/", "/debug/pprof/", "/debug/pprof/goroutine?debug=2", "/debug/vars", "/v1/status"} {
		answer, err := http.Get("http://" + metrics + path)
		if err != nil {
			t.Error(err)
			continue
		}
		body, _ := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		said.Write(body)
		if strings.HasPrefix(path, "/debug") && answer.StatusCode != http.StatusNotFound {
			t.Errorf("%s is served: %s", path, answer.Status)
		}
	}
	w.mustUnpublish(mounted...)
	lookFor(t, w, said.String())
}

// lookFor searches what was said, the log, all files of the node, and what the kernel tells about the daemon.
func lookFor(t *testing.T, w *world, said string) {
	t.Helper()
	places := map[string]string{"answers": said, "log": w.node.Log()}
	dir := fmt.Sprintf("/proc/%d", w.node.PID())
	for _, name := range []string{"cmdline", "environ", "comm", "status", "maps", "mountinfo", "stat", "wchan", "limits", "cgroup"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Errorf("/proc: %v", err)
		}
		places["/proc "+name] = string(content)
	}
	open, err := w.node.OpenFiles()
	if err != nil {
		t.Error(err)
	}
	places["open files"] = strings.Join(open, "\n")
	err = filepath.WalkDir(w.dir, func(name string, e os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the daemon goes on working
		}
		if err != nil {
			return err
		}
		places["name of a file"] += name + "\n"
		if !e.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		places[name] = string(content)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	for place, text := range places {
		for form, feather := range feathers() {
			if i := strings.Index(text, feather); i >= 0 {
				t.Errorf("%s: the secret shows %s: %.400q", place, form, text[max(0, i-300):])
				break
			}
		}
	}
}

// TestThreatCoreFiles: a daemon that dies leaves no image of its memory, whatever the limits say.
func TestThreatCoreFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	crash := func(name string, args ...string) (dumped bool) {
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOTRACEBACK=crash")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for begun := time.Now(); len(args) > 2; time.Sleep(10 * time.Millisecond) { // until the daemon serves
			if _, err := os.Stat(filepath.Join(dir, "csi.sock")); err == nil {
				break
			}
			if time.Since(begun) > time.Minute {
				t.Fatalf("the daemon does not serve: %s", &stderr)
			}
		}
		none := &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
		if err := unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_CORE, none, nil); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGABRT); err != nil {
			t.Fatal(err)
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) {
			t.Fatalf("%s survived: %v", name, err)
		}
		return exit.Sys().(syscall.WaitStatus).CoreDump()
	}
	sock := filepath.Join(dir, "csi.sock")
	if crash(binary, "node", "--endpoint", "unix://"+sock, "--root", filepath.Join(dir, "root"), "--node-id", strconv.Itoa(os.Getpid()), "--registration-dir", "") {
		t.Error("the daemon left a core file")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "core*")); len(left) > 0 {
		t.Errorf("core files: %v", left)
	}
	t.Logf("another program leaves one here: %t", crash("sleep", "60"))
}
