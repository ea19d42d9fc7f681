package grant

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

func TestLedger(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	options := Options{TTL: time.Minute, Grace: time.Hour, Now: func() time.Time { return now }}
	l, err := Open(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := model.ParseRef("registry.example.com/team/m:1")
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("manifest")
	const canary = "canary-password"
	alice := model.Credential{Username: "alice", Password: model.NewSecret(canary)}
	key := l.Key(ref, d, alice)
	if err := l.Prove(key); err != nil {
		t.Fatal(err)
	}

	other := ref
	other.Repository = "team/other"
	strangers := map[string]string{
		"anonymous":        l.Key(ref, d, model.Credential{}),
		"another password": l.Key(ref, d, model.Credential{Username: "alice", Password: model.NewSecret("x")}),
		"shifted boundary": l.Key(ref, d, model.Credential{Username: "alicec", Password: model.NewSecret(canary[1:])}),
		"as a token":       l.Key(ref, d, model.Credential{Username: "alice", AccessToken: model.NewSecret(canary)}),
		"other repository": l.Key(other, d, alice),
		"other digest":     l.Key(ref, digest.FromString("x"), alice),
	}
	for name, k := range strangers {
		if got := l.State(k); got != None {
			t.Errorf("%s: %s", name, got)
		}
	}

	for _, step := range []struct {
		after time.Duration
		want  State
	}{{0, Valid}, {time.Minute, Valid}, {time.Minute + 1, Grace}, {time.Hour, Grace}, {time.Hour + 1, None}, {-time.Second, None}} {
		now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(step.after)
		if got := l.State(key); got != step.want {
			t.Errorf("after %s: %s, want %s", step.after, got, step.want)
		}
	}
	now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

	again, err := Open(dir, options)
	if err != nil {
		t.Fatal(err)
	}
	if got := again.State(again.Key(ref, d, alice)); got != Valid {
		t.Errorf("after a restart: %s", got)
	}
	if err := again.Revoke(key); err != nil {
		t.Fatal(err)
	}
	if got := again.State(key); got != None {
		t.Errorf("after the revocation: %s", got)
	}
	for _, name := range []string{ledgerFile, keyFile} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte(canary)) || bytes.Contains(data, []byte("alice")) {
			t.Errorf("%s shows who was granted", name)
		}
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s", name, info.Mode())
		}
	}
}

func TestLedgerForgets(t *testing.T) {
	now := time.Now()
	dir := t.TempDir()
	l, err := Open(dir, Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"a", "b"} {
		if err := l.Prove(key); err != nil {
			t.Fatal(err)
		}
		now = now.Add(25 * time.Hour)
	}
	if l.Len() != 1 {
		t.Errorf("%d proofs are kept, one of them is older than the grace time", l.Len())
	}
	if err := os.WriteFile(filepath.Join(dir, ledgerFile), []byte("{broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err = Open(dir, Options{}); err != nil || l.Len() != 0 {
		t.Errorf("a damaged ledger: %v, %d proofs", err, l.Len())
	}
}

// FuzzLedger opens a ledger whose file holds anything: it opens, and believes no proof from the future or of long ago.
func FuzzLedger(f *testing.F) {
	f.Add([]byte(`{"k":"2026-01-01T00:00:00Z"}`), []byte("key"))
	f.Add([]byte(`{"k":"9999-12-31T23:59:59Z","other":"0001-01-01T00:00:00Z"}`), make([]byte, keyLength))
	f.Add([]byte(`null`), []byte{})
	f.Add([]byte(`{"k":7}`), []byte{})
	f.Fuzz(func(t *testing.T, ledger, key []byte) {
		dir := t.TempDir()
		for name, content := range map[string][]byte{ledgerFile: ledger, keyFile: key} {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		now := time.Date(2026, 1, 1, 0, 5, 0, 0, time.UTC)
		l, err := Open(dir, Options{Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		for k, at := range l.proofs {
			if age := now.Sub(at); l.State(k) != None && (age < 0 || age > 24*time.Hour) {
				t.Errorf("a proof of %s is %s", at, l.State(k))
			}
		}
		secret := l.Key(model.Ref{Scheme: "oci", Registry: "r.io", Repository: "m"}, digest.FromString("m"), model.Credential{})
		if err := l.Prove(secret); err != nil || l.State(secret) != Valid {
			t.Errorf("a new proof is %s (%v)", l.State(secret), err)
		}
		again, err := Open(dir, Options{Now: func() time.Time { return now }})
		if err != nil || again.State(secret) != Valid {
			t.Errorf("the proof is lost: %v", err)
		}
	})
}
