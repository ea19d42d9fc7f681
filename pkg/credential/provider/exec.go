package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unicode"

	providerv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"

	"github.com/model-csi/model-csi/pkg/model"
)

const (
	// maxAnswer is what a provider may write to its standard output: thousands of times what one has to say.
	maxAnswer = 1 << 20
	// maxComplaint is how much of its standard error is kept.
	maxComplaint = 4 << 10
	// endTime is how long the end of a provider that was killed is waited for, and the end of what it may have started
	// and left holding its output.
	endTime = 2 * time.Second
)

// passed are the variables of the plugin's environment that a provider gets: where programs and certificates are, and
// how to reach the network. What else it needs is in "env" of its configuration.
var passed = []string{
	"PATH", "HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
}

// program finds the program of a provider. Links are followed, and must not lead out of the directory.
func program(dir, name string) (string, error) {
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("directory of credential providers: %w", err)
	}
	path, err := filepath.EvalSymlinks(filepath.Join(root, name))
	if err != nil {
		return "", fmt.Errorf("credential provider %s is not in %s (%v): %w", name, dir, cause(err), model.ErrNotFound)
	}
	if !strings.HasPrefix(path, strings.TrimSuffix(root, "/")+"/") {
		return "", fmt.Errorf("credential provider %s leads out of %s, to %s: %w", name, dir, path, model.ErrDenied)
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return "", fmt.Errorf("credential provider %s: %w", name, err)
	case !info.Mode().IsRegular() || info.Mode()&0o111 == 0:
		return "", fmt.Errorf("credential provider %s: %s is not a program: %w", name, path, model.ErrInvalid)
	case info.Mode()&0o002 != 0:
		return "", fmt.Errorf("credential provider %s: everybody may write to %s, so it is not run: %w", name, path, model.ErrDenied)
	}
	return path, nil
}

func cause(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// run asks the provider once. It is started without a shell, in a process group of its own, all of which is killed when
// it takes too long.
func (p *provider) run(ctx context.Context, request providerv1.CredentialProviderRequest) (response, error) {
	path, err := program(p.dir, p.Name)
	if err != nil {
		return response{}, err
	}
	request.APIVersion, request.Kind = requestVersion, "CredentialProviderRequest"
	input, err := json.Marshal(request)
	if err != nil {
		return response{}, fmt.Errorf("credential provider %s: %w", p.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, p.opts.Timeout)
	defer cancel()
	stdout, stderr := &prefix{most: maxAnswer, full: cancel}, &prefix{most: maxComplaint}
	// The name is checked, the program lies in the operator's directory, and arguments are not interpreted.
	cmd := exec.CommandContext(ctx, path, p.Args...) //nolint:gosec // running this program is what the operator configured
	cmd.Env, cmd.Dir = p.environment(), "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = endTime
	err = cmd.Run()
	switch {
	case stdout.cut:
		return response{}, fmt.Errorf("credential provider %s: writes more than %d bytes: %w", p.Name, maxAnswer, model.ErrTooLarge)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return response{}, fmt.Errorf("credential provider %s: does not answer within %s%s: %w", p.Name, p.opts.Timeout, complaint(stderr, request), model.ErrUnavailable)
	case err != nil:
		// The cloud behind it may be away, and asking again is for kubelet to pace.
		return response{}, fmt.Errorf("credential provider %s: %v%s: %w", p.Name, cause(err), complaint(stderr, request), model.ErrUnavailable)
	}
	answer, err := parseResponse(stdout.kept.Bytes())
	if err != nil {
		return response{}, fmt.Errorf("credential provider %s: %w", p.Name, err)
	}
	return answer, nil
}

func (p *provider) environment() []string {
	var env []string
	for _, name := range passed {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	// exec keeps the last of those with the same name.
	for _, e := range p.Env {
		env = append(env, e.Name+"="+e.Value)
	}
	return env
}

// complaint is the beginning of the standard error as one line, without the token that the provider was given.
func complaint(stderr *prefix, request providerv1.CredentialProviderRequest) string {
	text := strings.ToValidUTF8(stderr.kept.String(), "")
	if request.ServiceAccountToken != "" {
		// Its signature alone is worth hiding too: the rest of the token is easily guessed.
		for _, part := range append(strings.Split(request.ServiceAccountToken, "."), request.ServiceAccountToken) {
			if len(part) >= 16 {
				text = strings.ReplaceAll(text, part, "[redacted]")
			}
		}
	}
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if text == "" {
		return ""
	}
	return fmt.Sprintf(" (it says: %s)", shorten(text))
}

// prefix keeps the beginning of what is written to it, and calls full when there is more.
// The buffer is no embedded field, because its ReadFrom would then be used, and take everything.
type prefix struct {
	kept bytes.Buffer
	most int
	full func()
	cut  bool
}

// Write implements io.Writer. It takes everything: a program that complains at length is not stopped by it.
func (p *prefix) Write(b []byte) (int, error) {
	keep := min(len(b), p.most-p.kept.Len())
	if keep < len(b) && !p.cut {
		p.cut = true
		if p.full != nil {
			p.full()
		}
	}
	_, _ = p.kept.Write(b[:keep]) // never fails
	return len(b), nil
}

// cacheKeyTypes are those that a provider may answer.
var cacheKeyTypes = []providerv1.PluginCacheKeyType{
	providerv1.ImagePluginCacheKeyType, providerv1.RegistryPluginCacheKeyType, providerv1.GlobalPluginCacheKeyType,
}

// response is what a provider said, in sound form.
type response struct {
	providerv1.CredentialProviderResponse
}

// parseResponse reads what a provider wrote. Errors show nothing of it.
func parseResponse(data []byte) (response, error) {
	var r response
	if json.Unmarshal(data, &r.CredentialProviderResponse) != nil {
		return response{}, fmt.Errorf("its answer is not a CredentialProviderResponse in JSON: %w", model.ErrInvalid)
	}
	switch {
	case r.Kind != "CredentialProviderResponse" || r.APIVersion != requestVersion:
		return response{}, fmt.Errorf("its answer is not a CredentialProviderResponse of %s: %w", requestVersion, model.ErrInvalid)
	case !slices.Contains(cacheKeyTypes, r.CacheKeyType):
		return response{}, fmt.Errorf("its answer has none of the cacheKeyTypes %v: %w", cacheKeyTypes, model.ErrInvalid)
	}
	return r, nil
}

// lifetime is how long the answer may be used again; zero is not at all.
func (r response) lifetime(otherwise time.Duration) time.Duration {
	if r.CacheDuration == nil {
		return otherwise
	}
	return max(0, r.CacheDuration.Duration)
}
