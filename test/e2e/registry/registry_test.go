package registry_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/model-csi/model-csi/test/e2e/cluster"
	"github.com/model-csi/model-csi/test/e2e/registry"
)

const repository = "models/test"

// start starts a registry on loopback with one model in it, and returns a client that trusts it.
func start(t *testing.T, o registry.Options, file registry.File) (*registry.Registry, *http.Client) {
	t.Helper()
	ca, err := cluster.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	server, err := ca.ServerTLS("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	o.Address, o.TLS, o.Dir = "127.0.0.1:0", server, t.TempDir()
	r, err := registry.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	trust := x509.NewCertPool()
	trust.AppendCertsFromPEM(ca.PEM)
	if _, err := r.PushModel(t.Context(), trust, repository, "v1", []registry.File{file}); err != nil {
		t.Fatal(err)
	}
	return r, &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trust, MinVersion: tls.VersionTLS12}}}
}

// get fetches a blob and returns the digest of what came.
func get(t *testing.T, client *http.Client, r *registry.Registry, digest string) (status int, got string) {
	t.Helper()
	answer, err := client.Get("https://" + r.Address + "/v2/" + repository + "/blobs/" + digest)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, answer.Body); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, "sha256:" + hex.EncodeToString(hash.Sum(nil))
}

func TestCountsCorruptsAndThrottles(t *testing.T) {
	file := registry.File{Path: "weights", Data: make([]byte, 64<<10)}
	r, client := start(t, registry.Options{}, file)
	if status, got := get(t, client, r, file.Digest()); status != http.StatusOK || got != file.Digest() {
		t.Fatalf("status %d, digest %s", status, got)
	}
	// What a client has may be counted a moment later.
	want := registry.Traffic{Requests: 1, Bytes: 64 << 10}
	for deadline := time.Now().Add(time.Minute); r.Blob(file.Digest()) != want && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if sent := r.Blob(file.Digest()); sent != want {
		t.Errorf("after one request the count is %+v", sent)
	}
	r.Throttle(repository, 128<<10)
	began := time.Now()
	get(t, client, r, file.Digest())
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("64 KiB at 128 KiB/s took %s", took)
	}
	r.Throttle(repository, 0)
	r.Corrupt(file.Digest())
	if status, got := get(t, client, r, file.Digest()); status != http.StatusOK || got == file.Digest() {
		t.Errorf("the corrupt blob came with status %d and digest %s", status, got)
	}
}

func TestAsksForThePassword(t *testing.T) {
	file := registry.File{Path: "weights", Data: []byte("secret")}
	r, client := start(t, registry.Options{User: "reader", Password: "password"}, file)
	if status, _ := get(t, client, r, file.Digest()); status != http.StatusUnauthorized {
		t.Errorf("without a password the status is %d", status)
	}
	if sent := r.Blob(file.Digest()); sent.Bytes != 0 {
		t.Errorf("%d bytes were counted for a refusal", sent.Bytes)
	}
}

func TestWantsItsHeader(t *testing.T) {
	file := registry.File{Path: "weights", Data: []byte("mirrored")}
	r, client := start(t, registry.Options{Want: http.Header{"X-Upstream": {"https://registry.example.com"}}}, file)
	if status, _ := get(t, client, r, file.Digest()); status != http.StatusNotFound {
		t.Errorf("without the header the status is %d", status)
	}
	if sent := r.Blob(file.Digest()); sent.Requests > 0 {
		t.Errorf("%+v was counted for a request without the header", sent)
	}
}

func TestIndex(t *testing.T) {
	r, client := start(t, registry.Options{}, registry.File{Path: "weights", Data: []byte("of an index")})
	trust := client.Transport.(*http.Transport).TLSClientConfig.RootCAs
	manifest, err := r.Manifest(t.Context(), trust, repository, "v1")
	if err != nil {
		t.Fatal(err)
	}
	index := fmt.Appendf(nil, `{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d,"modelMetadata":{"a":1}}]}`,
		"application/vnd.oci.image.manifest.v1+json", registry.File{Data: manifest}.Digest(), len(manifest))
	if err := r.PushIndex(t.Context(), trust, repository, "all", index); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Manifest(t.Context(), trust, repository, "all"); err != nil || !bytes.Equal(got, index) {
		t.Errorf("the index came back as %s, %v", got, err)
	}
}

func TestThrottleIsLifted(t *testing.T) {
	file := registry.File{Path: "weights", Data: make([]byte, 256<<10)}
	r, client := start(t, registry.Options{}, file)
	r.Throttle(repository, 4<<10) // a minute for the blob
	timer := time.AfterFunc(100*time.Millisecond, func() { r.Throttle(repository, 0) })
	defer timer.Stop()
	began := time.Now()
	if status, got := get(t, client, r, file.Digest()); status != http.StatusOK || got != file.Digest() {
		t.Errorf("status %d, digest %s", status, got)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("an answer on its way took %s after the limit was lifted", took)
	}
}
