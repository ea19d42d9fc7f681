package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

const size = 1 << 20

// start runs a registry that holds one model with one random blob of a MiB.
func start(t *testing.T, o registry.Options) (*registry.Registry, string, []byte) {
	t.Helper()
	r, err := registry.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	file := artifact.Random("model.bin", size, 7)
	options := artifact.Options{}
	for user, password := range o.Users {
		options.User, options.Password = user, password
	}
	a, err := artifact.Push(t.Context(), r.Host(), "m/random", "v1", []artifact.File{file}, options)
	if err != nil {
		t.Fatal(err)
	}
	body, err := file.Open()
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	if want := digest.FromBytes(content); a.Layers[0].Digest != want {
		t.Fatalf("layer %s, want %s", a.Layers[0].Digest, want)
	}
	r.ResetStats()
	return r, r.URL() + "/v2/m/random/blobs/" + a.Layers[0].Digest.String(), content
}

// get reads a range, and returns the error that reading the body ended with.
func get(ctx context.Context, url string, from, to int) (*http.Response, []byte, error) {
	return getUntil(ctx, url, from, to, -1)
}

// getUntil is get by a client who goes away when so much of the body has come.
func getUntil(ctx context.Context, url string, from, to, enough int) (*http.Response, []byte, error) {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, nil, err
	}
	q.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to))
	p, err := http.DefaultTransport.RoundTrip(q)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = p.Body.Close() }()
	if enough < 0 {
		body, err := io.ReadAll(p.Body)
		return p, body, err
	}
	body, err := io.ReadAll(io.LimitReader(p.Body, int64(enough)))
	if err != nil {
		return p, body, err
	}
	leave()
	rest, err := io.ReadAll(p.Body)
	return p, append(body, rest...), err
}

// idle waits until the registry has noted all that it has answered.
func idle(t *testing.T, r *registry.Registry) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); r.Stats().Active > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("requests do not end")
		}
	}
}

func TestServesRangesAndCountsThem(t *testing.T) {
	r, url, content := start(t, registry.Options{})
	p, body, err := get(t.Context(), url, 100, 199)
	if err != nil || p.StatusCode != http.StatusPartialContent || !bytes.Equal(body, content[100:200]) {
		t.Fatalf("range: %v %v, %d bytes", p, err, len(body))
	}
	idle(t, r)
	if s := r.Stats(); s.BlobBytes != 100 || s.RangedGets != 1 || len(s.BlobGets) != 1 {
		t.Errorf("stats %+v", s)
	}
}

func TestFaults(t *testing.T) {
	const from, to = 1000, 500_999
	tests := map[string]struct {
		fault  registry.Fault
		status int
		length int // of the body; -1: anything less than asked for
		fails  bool
		wrong  bool // the bytes are not those that were asked for
	}{
		"none":         {fault: func(h http.Handler) http.Handler { return h }, status: 206, length: 500_000},
		"status":       {fault: registry.Status(503, time.Second), status: 503, length: -1, wrong: true},
		"latency":      {fault: registry.Latency(20 * time.Millisecond), status: 206, length: 500_000},
		"ignore range": {fault: registry.IgnoreRange(), status: 200, length: size, wrong: true},
		"shift":        {fault: registry.ShiftRange(10), status: 206, length: 500_000, wrong: true},
		"truncate":     {fault: registry.Truncate(300_000), status: 206, length: 300_000, fails: true},
		"reset":        {fault: registry.Reset(300_000), status: 206, length: -1, fails: true},
		"stall":        {fault: registry.Stall(300_000), status: 206, length: 300_000, fails: true},
		"short":        {fault: registry.Short(300_000), status: 206, length: 300_000},
		"corrupt":      {fault: registry.Corrupt(2000), status: 206, length: 500_000, wrong: true},
		"corrupt else": {fault: registry.Corrupt(10), status: 206, length: 500_000},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, url, content := start(t, registry.Options{})
			injection := r.Inject(registry.Rule{Kind: registry.KindBlob, Method: http.MethodGet, Times: 1}, test.fault)
			enough := -1
			if name == "stall" {
				enough = test.length
			}
			p, body, err := getUntil(t.Context(), url, from, to, enough)
			if p == nil {
				t.Fatal(err)
			}
			if p.StatusCode != test.status || (err != nil) != test.fails {
				t.Errorf("status %d, error %v", p.StatusCode, err)
			}
			if test.length >= 0 && len(body) != test.length || test.length < 0 && len(body) >= to-from+1 {
				t.Errorf("%d bytes", len(body))
			}
			if right := bytes.HasPrefix(content[from:], body); right == test.wrong {
				t.Errorf("right bytes: %v", right)
			}
			if injection.Hits() != 1 {
				t.Errorf("%d hits", injection.Hits())
			}
			if _, body, err = get(t.Context(), url, from, to); err != nil || !bytes.Equal(body, content[from:to+1]) {
				t.Errorf("after the fault: %d bytes, %v", len(body), err)
			}
		})
	}
}

func TestResetEveryCountsAllAnswersTogether(t *testing.T) {
	r, url, _ := start(t, registry.Options{})
	r.Inject(registry.Rule{Kind: registry.KindBlob}, registry.ResetEvery(1_000_000))
	failed := 0
	for range 10 { // of 300,000 bytes each
		if _, _, err := get(t.Context(), url, 0, 299_999); err != nil {
			failed++
		}
	}
	if failed != 2 && failed != 3 {
		t.Errorf("%d of 10 answers were reset, 3,000,000 bytes in all", failed)
	}
}

func TestPaceLimitsEachConnection(t *testing.T) {
	r, url, _ := start(t, registry.Options{})
	r.SetPace(2 << 20)
	began := time.Now()
	if _, _, err := get(t.Context(), url, 0, size-1); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 300*time.Millisecond || took > 20*time.Second {
		t.Errorf("1 MiB at 2 MiB/s took %s", took)
	}
}

func TestTokensExpire(t *testing.T) {
	r, _, _ := start(t, registry.Options{Users: map[string]string{"user": "secret"}, TokenTTL: time.Hour})
	push := func(password string) error {
		_, err := artifact.Push(t.Context(), r.Host(), "m/other", "v1", artifact.TinyModel(0), artifact.Options{User: "user", Password: password})
		return err
	}
	if err := push("secret"); err != nil {
		t.Error(err)
	}
	if err := push("wrong"); err == nil {
		t.Error("a wrong password pushes")
	}
	r.ExpireTokens()
	if err := push("secret"); err != nil {
		t.Error(err)
	}
}

func TestBasicAuthentication(t *testing.T) {
	_, url, _ := start(t, registry.Options{Users: map[string]string{"user": "secret"}})
	p, _, err := get(t.Context(), url, 0, 9)
	if err != nil || p.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a password: %v, %v", p, err)
	}
}

func TestContentDeliveryURLsExpire(t *testing.T) {
	r, url, content := start(t, registry.Options{CDNTTL: time.Hour})
	p, _, err := get(t.Context(), url, 0, 9)
	if err != nil || p.StatusCode != http.StatusTemporaryRedirect {
		t.Fatalf("%v, %v", p, err)
	}
	where := p.Header.Get("Location")
	if _, body, err := get(t.Context(), where, 0, 9); err != nil || !bytes.Equal(body, content[:10]) {
		t.Errorf("%x, %v", body, err)
	}
	past := strings.Replace(where, "expires=", "expires=-", 1)
	if p, _, err = get(t.Context(), past, 0, 9); err != nil || p.StatusCode != http.StatusForbidden {
		t.Errorf("of the past: %v, %v", p, err)
	}
	r.ExpireURLs()
	if p, _, err = get(t.Context(), where, 0, 9); err != nil || p.StatusCode != http.StatusForbidden {
		t.Errorf("expired: %v, %v", p, err)
	}
	if err := r.Close(); err != nil && !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

func TestSetManifest(t *testing.T) {
	r, _, _ := start(t, registry.Options{})
	body := []byte(`{"schemaVersion":1}`)
	d := r.SetManifest("m/odd", "v1", "application/vnd.odd", body)
	for _, reference := range []string{"v1", d.String()} {
		p, got, err := get(t.Context(), r.URL()+"/v2/m/odd/manifests/"+reference, 0, 1000)
		if err != nil || !bytes.Equal(got, body) || p.Header.Get("Content-Type") != "application/vnd.odd" {
			t.Errorf("%s: %q, %v", reference, got, err)
		}
	}
}

// What a request is about that began before a reset counts for nothing after it.
func TestResetStatsForgetsWhatIsUnderWay(t *testing.T) {
	r, url, _ := start(t, registry.Options{})
	held, free := make(chan struct{}), make(chan struct{})
	i := r.Inject(registry.Rule{Kind: registry.KindBlob}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			close(held)
			<-free
			next.ServeHTTP(w, q)
		})
	})
	ended := make(chan error)
	go func() {
		_, _, err := get(t.Context(), url, 0, 99_999)
		ended <- err
	}()
	<-held
	i.Remove()
	r.ResetStats()
	close(free)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	idle(t, r)
	if s := r.Stats(); s.BlobBytes > 0 || s.Requests > 0 {
		t.Errorf("stats %+v", s)
	}
}
