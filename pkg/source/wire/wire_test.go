package wire

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, " 7 ": 7 * time.Second, "-7": 0, "soon": 0, "99999": MaxRetryAfter, "99999999999999999999": 0,
		"Thu, 01 Jan 2026 00:00:30 GMT": 30 * time.Second, "Wed, 31 Dec 2025 00:00:00 GMT": 0,
	} {
		if got := RetryAfter(value, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

func TestPause(t *testing.T) {
	for _, test := range []struct {
		attempt int
		after   time.Duration
		jitter  float64
		want    time.Duration
	}{
		{1, 0, 0, time.Second}, {3, 0, 0, 4 * time.Second}, {1, 0, 1, 1500 * time.Millisecond}, {1, 3 * time.Second, 0, 3 * time.Second},
	} {
		if got := pause(time.Second, test.attempt, test.after, test.jitter); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
}

func TestRetryGivesUp(t *testing.T) {
	for name, test := range map[string]struct {
		failure Failure
		want    int
	}{
		"may pass":            {Failure{Again: true}, attempts},
		"for good":            {Failure{}, 1},
		"asks for much later": {Failure{Again: true, After: longestPause + 1}, 1},
	} {
		calls := 0
		if f := Retry(t.Context(), time.Nanosecond, func() *Failure { calls++; return &test.failure }); f == nil || calls != test.want {
			t.Errorf("%s: %d attempts, %v", name, calls, f)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	if f := Retry(ctx, time.Hour, func() *Failure { calls++; cancel(); return &Failure{Again: true} }); f == nil || calls != 1 {
		t.Errorf("%d attempts after the context ended, %v", calls, f)
	}
}

func TestServerWords(t *testing.T) {
	for body, want := range map[string]string{
		`{"errors":[{"code":"DENIED","message":"no"},{"code":"X"}]}`:    "DENIED: no",
		`{"errors":[{"code":"DENIED"}]}`:                                "DENIED",
		`{"details":"incorrect username or password"}`:                  "incorrect username or password",
		`{"error":"invalid_grant","error_description":"expired token"}`: "invalid_grant: expired token",
		`{"code":403,"message":"no"}`:                                   "no",
		`<html>`:                                                        "",
		``:                                                              "",
	} {
		if got := ServerWords([]byte(body)); got != want {
			t.Errorf("%s: %q, want %q", body, got, want)
		}
	}
}

func TestRedactor(t *testing.T) {
	cred := model.Credential{Username: "ann", Password: model.NewSecret("p w/d+"), AccessToken: model.NewSecret("tok"), RefreshToken: model.NewSecret("refresh-me")}
	header := http.Header{"Authorization": {"Bearer header-token"}, "X-Short": {"true"}, "X-Key": {"a-long-api-key"}}
	r := NewRedactor(cred, header)
	text := "p w/d+ p+w%2Fd%2B YW5uOnAgdy9kKw== refresh-me header-token a-long-api-key true https://h/p?X-Sig=abc&y=z \x1b[31m"
	got := r.Clean(text, 500)
	for _, secret := range []string{"p w/d+", "p+w%2Fd%2B", "YW5uOnAgdy9kKw", "refresh-me", "header-token", "a-long-api-key", "X-Sig", "\x1b"} {
		if strings.Contains(got, secret) {
			t.Errorf("%q shows in %q", secret, got)
		}
	}
	if !strings.Contains(got, "true") || !strings.Contains(got, "https://h/p") {
		t.Errorf("too much is hidden: %q", got)
	}
	if got := r.Clean(strings.Repeat("é", 400), 101); len(got) != 100+len("...") {
		t.Errorf("cut to %d bytes", len(got))
	}
}
