package policy

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/model-csi/model-csi/pkg/model"
)

// project changes a file as kubelet changes a projected ConfigMap: by exchanging a link to a directory.
func project(t *testing.T, dir, version, text string) {
	t.Helper()
	data := filepath.Join(dir, version)
	if err := errors.Join(os.Mkdir(data, 0o755), os.WriteFile(filepath.Join(data, "policy.yaml"), []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(dir, "..data_tmp")
	if err := errors.Join(os.Symlink(version, next), os.Rename(next, filepath.Join(dir, "..data"))); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "policy.yaml")
	if err := os.Symlink("..data/policy.yaml", link); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
}

func TestFile(t *testing.T) {
	dir := t.TempDir()
	var log strings.Builder
	path := filepath.Join(dir, "policy.yaml")
	f := Open(path, slog.New(slog.NewTextHandler(&log, nil)))
	a, b := ref(t, "a.io/x"), ref(t, "b.io/x")
	expect := func(step string, whole bool, kinds ...error) {
		t.Helper()
		for i, r := range []model.Ref{a, b} {
			if err := f.Check("team", r); !errors.Is(err, kinds[i]) {
				t.Errorf("%s: %s: %v, want %v", step, r, err, kinds[i])
			}
		}
		if err := f.Err(); (err == nil) != whole {
			t.Errorf("%s: Err() = %v", step, err)
		}
	}
	expect("no file", false, model.ErrUnavailable, model.ErrUnavailable)
	if err := f.Check("team", a); !strings.Contains(err.Error(), path) {
		t.Errorf("%q does not name the file", err)
	}
	project(t, dir, "1", "defaults: {allow: [a.io/**], maxFiles: 3}")
	f.Reload()
	expect("first", true, nil, model.ErrDenied)
	if got := f.Limits("team"); got.Files != 3 {
		t.Errorf("limits %+v", got)
	}
	project(t, dir, "2", "defaults: {allow: [b.io]}")
	f.Reload()
	f.Reload()
	expect("broken", false, nil, model.ErrDenied)
	if n := strings.Count(log.String(), "b.io/**"); n != 1 {
		t.Errorf("the mistake is logged %d times: %s", n, log.String())
	}
	project(t, dir, "3", "defaults: {allow: [b.io/**]}")
	f.Reload()
	expect("mended", true, model.ErrDenied, nil)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f.Reload()
	expect("gone", false, model.ErrDenied, nil)
	project(t, dir, "4", "defaults: {allow: [b.io/**]}")
	f.Reload()
	expect("back", true, model.ErrDenied, nil)
	project(t, dir, "5", "#"+strings.Repeat("x", maxFile))
	f.Reload()
	expect("too large", false, model.ErrDenied, nil)
	project(t, dir, "6", "")
	f.Reload()
	expect("empty", true, nil, nil)
}

func TestFileFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		project(t, dir, "1", "defaults: {deny: ['**']}")
		f := Open(filepath.Join(dir, "policy.yaml"), slog.New(slog.DiscardHandler))
		go f.Run(t.Context()) //nolint:errcheck // it has none
		project(t, dir, "2", "defaults: {deny: []}")
		time.Sleep(rereadEvery + time.Second)
		if err := f.Check("x", ref(t, "a.io/x")); err != nil {
			t.Errorf("the change is not seen: %v", err)
		}
	})
}

// What the puller asks about has its host; a person writes names at the operator's model registry without it.
func TestShortNames(t *testing.T) {
	for _, test := range []struct {
		policy, ref string
		allowed     bool
	}{
		{"deny: [model-registry://fraud-*]", "model-registry://mr.io:8080/fraud-1/1", false},
		{"deny: [model-registry://fraud-*]", "model-registry://mr.io:08080/fraud-1/1", false},
		{"deny: [model-registry://fraud-*]", "model-registry://MR.io:8080/iris/1", true},
		{"deny: [model-registry://fraud-*]", "model-registry://other.io/fraud-1/1", true},
		{"deny: [mr.io:8080/**]", "model-registry://mr.io:8080/iris/1", false},
		{"allow: [model-registry://fraud-*]", "model-registry://mr.io:8080/fraud-1/1", true},
		{"allow: [model-registry://fraud-*]", "model-registry://mr.io:8080/iris/1", false},
		{"allow: [model-registry://fraud-*]", "model-registry://other.io/fraud-1/1", false},
		{"allow: [mr.io:8080/**]", "model-registry://mr.io:8080/iris/1", true},
		{"{allow: [mr.io:8080/**], deny: [model-registry://iris]}", "model-registry://mr.io:8080/iris/1", false},
		{"allow: [r.io/**]", "r.io/fraud-1", true},
	} {
		path := filepath.Join(t.TempDir(), "policy.yaml")
		rules := test.policy
		if !strings.HasPrefix(rules, "{") {
			rules = "{" + rules + "}"
		}
		if err := os.WriteFile(path, []byte("defaults: "+rules), 0o600); err != nil {
			t.Fatal(err)
		}
		f := Open(path, slog.New(slog.DiscardHandler))
		f.ShortNames("MR.io:8080")
		err := f.Check("", ref(t, test.ref))
		if (err == nil) != test.allowed || err != nil && (!errors.Is(err, model.ErrDenied) || !strings.Contains(err.Error(), "model-registry://")) {
			t.Errorf("%s: %s: %v", test.policy, test.ref, err)
		}
	}
}
