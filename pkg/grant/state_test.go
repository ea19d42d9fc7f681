package grant

import (
	"os"
	"testing"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

// TestStateOfBefore opens a ledger as the first release left it: after an upgrade proofs hold as before, also for nodes
// whose registry is away just then.
func TestStateOfBefore(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/state-1")); err != nil {
		t.Fatal(err)
	}
	l, err := Open(dir, Options{Now: func() time.Time { return time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC) }})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := model.ParseRef("registry.example.com/team/m:v1")
	if err != nil {
		t.Fatal(err)
	}
	key := l.Key(ref, "sha256:1111111111111111111111111111111111111111111111111111111111111111",
		model.Credential{Username: "alice", Password: model.NewSecret("password")})
	if got := l.State(key); got != Grace {
		t.Errorf("the proof is %s", got)
	}
}
