package store

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
)

// FuzzStateFiles starts on a root whose small files hold anything, as after a disk that lied: the store opens, what it
// believes makes sense, and nothing that it does with it fails badly.
func FuzzStateFiles(f *testing.F) {
	blob := model.Blob{Digest: digest.FromString("blob"), Size: 10_000}
	const lease = `{"volumeId":"csi-1","target":"/t","reference":"r.io/m:1","digest":"` + "sha256:" + `","view":"nothing","created":"2026-01-01T00:00:00Z"}`
	checkpoint := `{"blob":{"digest":"` + blob.Digest.String() + `","size":10000},"offset":4096,"state":"c3RhdGU="}`
	record := `{"name":"n","value":{"digest":"sha256:00","at":"2026-01-01T00:00:00Z"}}`
	kept := `{"reference":"r.io/m:1","tree":"t","blobs":["../..","sha256:x"],"bytes":-1}`
	f.Add([]byte(lease), []byte(checkpoint), []byte(record), []byte(kept))
	f.Add([]byte(`{"volumeId":"csi-1","target":"/t","view":"sha256:../../../etc"}`), []byte(`{"blob":{"digest":"`+blob.Digest.String()+`","size":10000},"offset":-4096}`), []byte(`{"name":"other"}`), []byte(`null`))
	f.Add([]byte(`[`), []byte(`{"offset":1e99}`), []byte(``), []byte(`{"reference":"r.io/m:1","tree":"sha256:","blobs":[""]}`))
	quiet := Options{Logger: slog.New(slog.DiscardHandler)}
	f.Fuzz(func(t *testing.T, lease, checkpoint, record, kept []byte) {
		root := t.TempDir()
		s := open(t, root, quiet)
		part := s.partPath(blob, "origin")
		_, _ = s.Record("kind", "n", new(any)), os.MkdirAll(filepath.Join(root, "records", "kind"), 0o700)
		for name, content := range map[string][]byte{
			s.leaseFile(leaseKey{"csi-1", "/t"}): lease, part: make([]byte, 8192), part + checkpointSuffix: checkpoint,
			s.recordFile("kind", "n"): record, s.keptFile("r.io/m:1"): kept,
		} {
			if err := os.WriteFile(name, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}

		s = open(t, root, quiet)
		for _, l := range s.Leases() {
			if l.VolumeID != "csi-1" || l.Target != "/t" {
				t.Errorf("a lease of %q at %q is believed", l.VolumeID, l.Target)
			}
			if dir := filepath.Dir(s.ViewPath(l.View)); dir != filepath.Join(root, "views") {
				t.Errorf("its view is in %s", dir)
			}
		}
		var value struct {
			Digest digest.Digest
			At     time.Time
		}
		s.Record("kind", "n", &value)
		if _, err := s.Usage(); err != nil {
			t.Errorf("usage: %v", err)
		}
		w, err := s.NewWriter(blob, WriterOptions{Origin: "origin"})
		if err != nil {
			t.Fatalf("writer: %v", err)
		}
		if from, _ := w.Resume(); from < 0 || from > 8192 {
			t.Errorf("resumes at %d of 8192 bytes", from)
		}
		if err := w.Close(); err != nil {
			t.Errorf("writer: %v", err)
		}
		s.Kept()
		if err := s.DropLease("csi-1", "/t"); err != nil {
			t.Errorf("lease: %v", err)
		}
		if _, err := s.Evict(t.Context(), Everything); err != nil {
			t.Errorf("evict: %v", err)
		}
	})
}
