package registry_test

import (
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

func TestResolve(t *testing.T) {
	s := newServer(t, false)
	d, _, _ := s.model()
	tagged := s.ref("v1")
	for name, ref := range map[string]model.Ref{
		"tag":    tagged,
		"digest": {Registry: s.host(), Repository: repoName, Digest: d},
		"both":   tagged.Pinned(d),
		// With both the digest decides, even where the tag is gone.
		"digest and a tag that is gone": s.ref("gone").Pinned(d),
	} {
		t.Run(name, func(t *testing.T) {
			s.forget()
			snap, err := open(t, registry.Options{}, ref, model.Credential{}).Resolve(t.Context(), model.Selection{Platform: "linux/amd64"})
			if err != nil {
				t.Fatal(err)
			}
			if snap.Digest != d || snap.Index != "" || snap.MediaType != ociManifest || digest.FromBytes(snap.Manifest) != d {
				t.Errorf("snapshot %s of type %s, index %q", snap.Digest, snap.MediaType, snap.Index)
			}
			if string(snap.Config) != `{"descriptor":{"name":"llm"}}` {
				t.Errorf("config %q", snap.Config)
			}
			accept := s.header("Accept")[0]
			for _, kind := range []string{
				ociManifest, ociIndex, "application/vnd.docker.distribution.manifest.v2+json",
				"application/vnd.docker.distribution.manifest.list.v2+json",
				"application/vnd.oci.artifact.manifest.v1+json", "application/vnd.cnai.model.manifest.v1+json",
			} {
				if !strings.Contains(accept, kind) {
					t.Errorf("Accept lacks %s: %s", kind, accept)
				}
			}
		})
	}
}

func TestResolveSHA512(t *testing.T) {
	s := newServer(t, false)
	data := []byte(`{"schemaVersion":2,"layers":[]}`)
	sum := sha512.Sum512(data)
	d := digest.NewDigestFromEncoded(digest.SHA512, hex.EncodeToString(sum[:]))
	s.content["manifests/"+d.String()] = item{data: data, kind: ociManifest, digest: "-"}
	snap, err := open(t, registry.Options{}, s.ref("").Pinned(d), model.Credential{}).Resolve(t.Context(), model.Selection{})
	if err != nil || snap.Digest != d {
		t.Fatalf("got %s, %v", snap.Digest, err)
	}
	s.content["manifests/"+d.String()] = item{data: append(data, ' '), kind: ociManifest, digest: "-"}
	if _, err := open(t, registry.Options{}, s.ref("").Pinned(d), model.Credential{}).Resolve(t.Context(), model.Selection{}); !errors.Is(err, model.ErrCorrupt) {
		t.Errorf("other bytes: %v", err)
	}
}

func TestResolveRefuses(t *testing.T) {
	index := func(fields string) []byte {
		return []byte(`{"schemaVersion":2,"mediaType":"` + ociIndex + `",` + fields + `}`)
	}
	big := append([]byte(`{"schemaVersion":2,"layers":[],"annotations":{"x":"`), bytes.Repeat([]byte("x"), 4<<20)...)
	for name, test := range map[string]struct {
		it   item
		want error
	}{
		"not json":                   {item{data: []byte("<html>"), kind: "text/html"}, model.ErrInvalid},
		"not an object":              {item{data: []byte(`[]`)}, model.ErrInvalid},
		"null":                       {item{data: []byte(`null`)}, model.ErrInvalid},
		"no fields":                  {item{data: []byte(`{}`)}, model.ErrInvalid},
		"two documents":              {item{data: []byte(`{"layers":[]}{"manifests":[]}`)}, model.ErrInvalid},
		"manifests and layers":       {item{data: []byte(`{"manifests":[],"layers":[]}`)}, model.ErrInvalid},
		"manifests and config":       {item{data: []byte(`{"manifests":[],"config":{}}`)}, model.ErrInvalid},
		"layers and blobs":           {item{data: []byte(`{"blobs":[],"layers":[]}`)}, model.ErrInvalid},
		"index type, layers":         {item{data: index(`"layers":[]`)}, model.ErrInvalid},
		"manifest type, manifests":   {item{data: []byte(`{"mediaType":"` + ociManifest + `","manifests":[]}`)}, model.ErrInvalid},
		"header differs":             {item{data: index(`"manifests":[]`), kind: ociManifest}, model.ErrInvalid},
		"header differs in dialect":  {item{data: index(`"manifests":[]`), kind: "application/vnd.docker.distribution.manifest.list.v2+json"}, model.ErrInvalid},
		"header says index, layers":  {item{data: []byte(`{"layers":[]}`), kind: ociIndex}, model.ErrInvalid},
		"mediaType is a number":      {item{data: []byte(`{"mediaType":1,"layers":[]}`)}, model.ErrInvalid},
		"schema 1":                   {item{data: []byte(`{"schemaVersion":1,"fsLayers":[]}`)}, model.ErrUnsupported},
		"schema 1 by header":         {item{data: []byte(`{"layers":[]}`), kind: "application/vnd.docker.distribution.manifest.v1+json"}, model.ErrUnsupported},
		"too large":                  {item{data: append(big, `"}}`...)}, model.ErrTooLarge},
		"digest header differs":      {item{data: []byte(`{"layers":[]}`), digest: digest.FromString("x").String()}, model.ErrCorrupt},
		"empty":                      {item{}, model.ErrInvalid},
		"index that lists nothing":   {item{data: index(`"manifests":[]`)}, model.ErrNotFound},
		"index with a bad digest":    {item{data: index(`"manifests":[{"digest":"sha256:00"}]`)}, model.ErrInvalid},
		"index with a missing child": {item{data: index(`"manifests":[{"digest":"` + digest.FromString("y").String() + `"}]`)}, model.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, false)
			s.content["manifests/v1"] = test.it
			_, err := open(t, registry.Options{}, s.ref("v1"), model.Credential{}).Resolve(t.Context(), model.Selection{})
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if err != nil && !strings.Contains(err.Error(), s.host()) {
				t.Errorf("the error does not name the registry: %v", err)
			}
		})
	}
}

func TestDigestMismatch(t *testing.T) {
	s := newServer(t, false)
	d, _, _ := s.model()
	s.content["manifests/"+d.String()] = item{data: []byte(`{"layers":[]}`), digest: d.String()}
	repo := open(t, registry.Options{}, s.ref("v1").Pinned(d), model.Credential{})
	if _, err := repo.Resolve(t.Context(), model.Selection{}); !errors.Is(err, model.ErrCorrupt) {
		t.Errorf("got %v, want %v", err, model.ErrCorrupt)
	}
}

func TestMediaType(t *testing.T) {
	for name, test := range map[string]struct{ body, header, want string }{
		"body":                     {`{"mediaType":"` + ociManifest + `","layers":[]}`, "application/json", ociManifest},
		"header":                   {`{"layers":[]}`, "application/vnd.docker.distribution.manifest.v2+json; charset=utf-8", "application/vnd.docker.distribution.manifest.v2+json"},
		"shape: manifest":          {`{"layers":[]}`, "text/plain", ociManifest},
		"shape: artifact":          {`{"blobs":[]}`, "", "application/vnd.oci.artifact.manifest.v1+json"},
		"cnai":                     {`{"mediaType":"application/vnd.cnai.model.manifest.v1+json","layers":[]}`, "application/vnd.cnai.model.manifest.v1+json", "application/vnd.cnai.model.manifest.v1+json"},
		"one of its own":           {`{"mediaType":"application/vnd.example+json","layers":[]}`, "application/octet-stream", "application/vnd.example+json"},
		"null where nothing is":    {`{"layers":[],"manifests":null}`, "", ociManifest},
		"config without layers":    {`{"config":{}}`, "", ociManifest},
		"config that is no object": {`{"config":7,"layers":[]}`, "", ociManifest},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, false)
			s.content["manifests/v1"] = item{data: []byte(test.body), kind: test.header}
			snap, err := open(t, registry.Options{}, s.ref("v1"), model.Credential{}).Resolve(t.Context(), model.Selection{})
			if err != nil || snap.MediaType != test.want {
				t.Errorf("got %q, %v, want %q", snap.MediaType, err, test.want)
			}
		})
	}
}

func TestIndex(t *testing.T) {
	s := newServer(t, false)
	d, _, _ := s.model()
	child, kind := d, ociManifest
	nest := func() {
		size := len(s.content["manifests/"+child.String()].data)
		data := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, ociIndex, kind, child, size)
		child, kind = s.put(data, ociIndex, "nested"), ociIndex
	}
	for range 3 {
		nest()
		snap, err := open(t, registry.Options{}, s.ref("nested"), model.Credential{}).Resolve(t.Context(), model.Selection{})
		if err != nil {
			t.Fatal(err)
		}
		if snap.Digest != d || snap.Index != child {
			t.Errorf("resolved to %s by %s, want %s by %s", snap.Digest, snap.Index, d, child)
		}
	}
	nest()
	if _, err := open(t, registry.Options{}, s.ref("nested"), model.Credential{}).Resolve(t.Context(), model.Selection{}); !errors.Is(err, model.ErrInvalid) {
		t.Errorf("four indexes: %v", err)
	}
	for name, entry := range map[string]string{
		"size":       fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":7}`, ociManifest, d),
		"media type": fmt.Sprintf(`{"mediaType":%q,"digest":%q}`, ociIndex, d),
	} {
		s.put([]byte(`{"manifests":[`+entry+`]}`), ociIndex, "wrong")
		_, err := open(t, registry.Options{}, s.ref("wrong"), model.Credential{}).Resolve(t.Context(), model.Selection{})
		if !errors.Is(err, model.ErrCorrupt) && !errors.Is(err, model.ErrInvalid) {
			t.Errorf("an index with the wrong %s of its manifest: %v", name, err)
		}
	}
}

func TestConfig(t *testing.T) {
	missing := digest.FromString("missing").String()
	content := []byte(`{"a":1}`)
	for name, test := range map[string]struct {
		config string
		want   string
		err    error
	}{
		"none":                {"", "", nil},
		"missing":             {`"config":{"digest":"` + missing + `","size":5},`, "", nil},
		"not a digest":        {`"config":{"digest":"sha256:no","size":5},`, "", nil},
		"too large to matter": {`"config":{"digest":"` + missing + `","size":8388609},`, "", nil},
		"empty descriptor":    {`"config":{"digest":"` + digest.FromString("{}").String() + `","size":2},`, "{}", nil},
		"embedded":            {`"config":{"digest":"` + digest.FromString("[]").String() + `","size":2,"data":"W10="},`, "[]", nil},
		"embedded, damaged":   {`"config":{"digest":"` + missing + `","size":2,"data":"W10="},`, "", nil},
		"stored":              {`"config":{"digest":"` + digest.FromBytes(content).String() + `","size":7},`, string(content), nil},
		"size says more":      {`"config":{"digest":"` + digest.FromBytes(content).String() + `","size":9},`, "", model.ErrCorrupt},
		"size says less":      {`"config":{"digest":"` + digest.FromBytes(content).String() + `","size":3},`, "", model.ErrCorrupt},
		"damaged":             {`"config":{"digest":"` + digest.FromString("damaged").String() + `","size":7},`, "", model.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, false)
			s.blob(content)
			s.content["blobs/"+digest.FromString("damaged").String()] = item{data: content}
			s.put([]byte(`{`+test.config+`"layers":[]}`), ociManifest, "v1")
			snap, err := open(t, registry.Options{}, s.ref("v1"), model.Credential{}).Resolve(t.Context(), model.Selection{})
			if !errors.Is(err, test.err) || string(snap.Config) != test.want {
				t.Errorf("got %q, %v, want %q, %v", snap.Config, err, test.want, test.err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	s := newServer(t, false)
	d, _, _ := s.model()
	repo := open(t, registry.Options{}, s.ref("v1"), model.Credential{})
	s.forget()
	if err := repo.Check(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if want := []string{"HEAD /v2/acme/llm/manifests/" + d.String()}; !slices.Equal(s.asked(), want) {
		t.Errorf("asked %q, want %q", s.asked(), want)
	}
	for status, want := range map[int]error{
		400: model.ErrInvalid, 401: model.ErrUnauthenticated, 403: model.ErrDenied, 404: model.ErrNotFound, 410: model.ErrNotFound,
		429: model.ErrUnavailable, 451: model.ErrDenied, 500: model.ErrUnavailable, 503: model.ErrUnavailable, 304: model.ErrUnavailable,
	} {
		s.on(func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Retry-After", "70")
			w.WriteHeader(status)
			return true
		})
		err := repo.Check(t.Context(), d)
		if !errors.Is(err, want) {
			t.Errorf("status %d: %v, want %v", status, err, want)
		}
		var later *model.RetryAfterError
		if got := errors.As(err, &later); got != (status == 429 || status >= 500) {
			t.Errorf("status %d: Retry-After arrives: %t", status, got)
		} else if got && later.After != 70*time.Second {
			t.Errorf("status %d: Retry-After arrives as %s", status, later.After)
		}
	}
	for _, status := range []int{400, 404, 405, 501} {
		s.on(func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodHead {
				w.WriteHeader(status)
				return true
			}
			return false
		})
		if err := repo.Check(t.Context(), d); err != nil {
			t.Errorf("HEAD refused with %d: %v", status, err)
		}
	}
	s.on(nil)
	s.content["manifests/"+d.String()] = item{data: []byte("{}"), digest: digest.FromString("other").String()}
	if err := repo.Check(t.Context(), d); !errors.Is(err, model.ErrCorrupt) {
		t.Errorf("an answer about another digest: %v", err)
	}
	s.Close()
	if err := repo.Check(t.Context(), d); !errors.Is(err, model.ErrUnavailable) {
		t.Errorf("a registry that is gone: %v", err)
	}
}

func TestRetry(t *testing.T) {
	s := newServer(t, false)
	d, _, _ := s.model()
	var calls atomic.Int64
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/manifests/") {
			return false
		}
		switch calls.Add(1) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2: // a body that ends early
			w.Header().Set("Content-Length", "500")
			_, _ = w.Write([]byte("{"))
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	})
	snap, err := open(t, registry.Options{}, s.ref("v1"), model.Credential{}).Resolve(t.Context(), model.Selection{})
	if err != nil || snap.Digest != d || calls.Load() != 3 {
		t.Errorf("got %s after %d requests, %v", snap.Digest, calls.Load(), err)
	}
	calls.Store(0)
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		calls.Add(1)
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	if _, err = open(t, registry.Options{}, s.ref("v1"), model.Credential{}).Resolve(t.Context(), model.Selection{}); !errors.Is(err, model.ErrDenied) || calls.Load() != 1 {
		t.Errorf("%d requests after a refusal, %v", calls.Load(), err)
	}
}

func TestContextEnds(t *testing.T) {
	s := newServer(t, false)
	release := make(chan struct{})
	s.on(func(http.ResponseWriter, *http.Request) bool {
		<-release
		return true
	})
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := open(t, registry.Options{}, s.ref("v1"), model.Credential{}).Resolve(ctx, model.Selection{})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, model.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}
