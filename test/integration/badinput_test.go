package integration

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/model-csi/model-csi/test/artifact"
	"github.com/model-csi/model-csi/test/registry"
)

func TestBadAttributesAreRefused(t *testing.T) {
	w := newWorld(t, registry.Options{})
	good, _ := w.push("m/tiny", artifact.TinyModel(0), artifact.Options{})
	cold, _ := w.push("m/cold", []artifact.File{artifact.Text("cold.txt", "never pulled")}, artifact.Options{})
	repository := strings.TrimSuffix(good, ":v1")
	absent := digest.FromString("absent").String()
	tests := map[string]struct {
		reference  string
		attributes []string
		code       codes.Code
		words      []string
	}{
		"no reference":      {"", nil, codes.InvalidArgument, []string{"reference"}},
		"no registry":       {"qwen3:8b", nil, codes.InvalidArgument, []string{"registry"}},
		"upper case":        {w.registry.Host() + "/M/Tiny:v1", nil, codes.InvalidArgument, nil},
		"bad tag":           {repository + ":..", nil, codes.InvalidArgument, []string{"tag"}},
		"md5":               {repository + "@md5:d41d8cd98f00b204e9800998ecf8427e", nil, codes.InvalidArgument, nil},
		"upper case digest": {repository + "@sha256:" + strings.Repeat("A", 64), nil, codes.InvalidArgument, nil},
		"unknown scheme":    {"gopher://x/y", nil, codes.InvalidArgument, []string{"gopher"}},
		"missing tag":       {repository + ":absent", nil, codes.NotFound, []string{repository + ":absent"}},
		"missing digest":    {repository + "@" + absent, nil, codes.NotFound, []string{absent}},
		"missing repo":      {w.registry.Host() + "/m/absent:v1", nil, codes.NotFound, []string{"m/absent"}},
		"nobody listens":    {"127.0.0.1:1/m/tiny:v1", nil, codes.Unavailable, []string{"127.0.0.1:1"}},
		"unknown attribute": {good, []string{"referense", "x"}, codes.InvalidArgument, []string{"referense", `"reference"`}},
		"empty attribute":   {good, []string{"", "x"}, codes.InvalidArgument, nil},
		"policy":            {good, []string{"pullPolicy", "Sometimes"}, codes.InvalidArgument, []string{"Sometimes", "IfNotPresent"}},
		"never":             {cold, []string{"pullPolicy", "Never"}, codes.NotFound, []string{"Never"}},
		"exec":              {good, []string{"exec", "perhaps"}, codes.InvalidArgument, []string{"exec"}},
		"tokens":            {good, []string{"csi.storage.k8s.io/serviceAccount.tokens", "{}"}, codes.InvalidArgument, nil},
		"sub path up":       {good, []string{"subPath", "../.."}, codes.InvalidArgument, []string{"subPath"}},
		"sub path absolute": {good, []string{"subPath", "/etc"}, codes.InvalidArgument, []string{"subPath"}},
		"sub path absent":   {good, []string{"subPath", "absent"}, codes.InvalidArgument, []string{"absent"}},
		"nothing selected":  {good, []string{"include", "*.absent"}, codes.InvalidArgument, []string{"no file"}},
		"given twice":       {good, []string{"model.csi.cnai.io/reference", good}, codes.InvalidArgument, []string{"twice"}},
		"long":              {good, []string{"include", strings.Repeat("a", 5000)}, codes.InvalidArgument, []string{"include"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			v := volume("csi-bad", test.reference, test.attributes...)
			if test.reference == "" {
				delete(v.Attributes, "reference")
			}
			w.t = t
			w.refused(v, w.node.Publish(t.Context(), v), test.code, test.words...)
		})
	}
	w.t = t
	shows(t, w.mustPublish(volume("csi-good", good)), artifact.TinyModel(0))
	w.mustUnpublish("csi-good")
}

func TestBadRequestsAreRefused(t *testing.T) {
	w := newWorld(t, registry.Options{})
	reference, _ := w.push("m/tiny", artifact.TinyModel(0), artifact.Options{})
	before := listing(t, w.dir)
	client := csi.NewNodeClient(w.node.Conn())
	good := func() *csi.NodePublishVolumeRequest {
		return &csi.NodePublishVolumeRequest{
			VolumeId: "csi-x", TargetPath: w.node.Target("csi-x"), VolumeContext: map[string]string{"reference": reference},
			VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}},
		}
	}
	for name, spoil := range map[string]func(*csi.NodePublishVolumeRequest){
		"no volume":       func(q *csi.NodePublishVolumeRequest) { q.VolumeId = "" },
		"no target":       func(q *csi.NodePublishVolumeRequest) { q.TargetPath = "" },
		"relative target": func(q *csi.NodePublishVolumeRequest) { q.TargetPath = "pods/x/mount" },
		"target with ..": func(q *csi.NodePublishVolumeRequest) {
			q.TargetPath = w.dir + "/pods/../../../" + filepath.Base(w.dir) + "/evil"
		},
		"no capability": func(q *csi.NodePublishVolumeRequest) { q.VolumeCapability = nil },
		"block device": func(q *csi.NodePublishVolumeRequest) {
			q.VolumeCapability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		},
		"target in root": func(q *csi.NodePublishVolumeRequest) { q.TargetPath = w.node.Root() + "/blobs" },
	} {
		q := good()
		spoil(q)
		if _, err := client.NodePublishVolume(t.Context(), q); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A volume id is a name, whatever it looks like: it never becomes a path.
	for _, id := range []string{"../../../evil", "/etc/evil", "a/b", strings.Repeat("x", 200)} {
		q := good()
		q.VolumeId = id
		q.TargetPath = filepath.Join(w.dir, "pods", "odd", "mount")
		if err := os.MkdirAll(filepath.Dir(q.TargetPath), 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := client.NodePublishVolume(t.Context(), q)
		if err != nil && status.Code(err) != codes.InvalidArgument {
			t.Errorf("volume id %q: %v", id, err)
		}
		if _, err := client.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: q.TargetPath}); err != nil {
			t.Errorf("unpublish %q: %v", id, err)
		}
	}
	if err := os.RemoveAll(filepath.Join(w.dir, "pods", "odd")); err != nil {
		t.Fatal(err)
	}
	if after := listing(t, w.dir); !slices.Equal(before, after) {
		t.Errorf("around the root there was %v, now %v", before, after)
	}
}

// listing names everything outside of the state root.
func listing(t *testing.T, dir string) (out []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name == filepath.Join(dir, "root") {
			return filepath.SkipDir
		}
		out = append(out, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// entries of a hostile archive.
func archive(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := []byte("content of " + h.Name)
		if h.Typeflag == 0 || h.Typeflag == tar.TypeReg {
			h.Typeflag, h.Size = tar.TypeReg, int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestBadArtifactsAreRefused(t *testing.T) {
	w := newWorld(t, registry.Options{})
	outside := filepath.Join(w.dir, "evil")
	const raw, tarType = "application/vnd.cncf.model.weight.v1.raw", "application/vnd.cncf.model.weight.v1.tar"
	type layer struct {
		mediaType, path string
		content         []byte
		spoil           func(*ocispec.Descriptor)
	}
	one := func(path string) []layer { return []layer{{raw, path, []byte("x"), nil}} }
	packed := func(headers ...tar.Header) []layer { return []layer{{tarType, "", archive(t, headers...), nil}} }
	tests := map[string]struct {
		layers   []layer
		manifest []byte // instead of one made of the layers
		codes    []codes.Code
	}{
		"path up":           {layers: one("../../evil"), codes: []codes.Code{codes.InvalidArgument}},
		"path absolute":     {layers: one(outside), codes: []codes.Code{codes.InvalidArgument}},
		"path NUL":          {layers: one("a\x00b"), codes: []codes.Code{codes.InvalidArgument}},
		"path long":         {layers: one(strings.Repeat("a", 300)), codes: []codes.Code{codes.InvalidArgument}},
		"path deep":         {layers: one(strings.Repeat("a/", 200) + "x"), codes: []codes.Code{codes.InvalidArgument}},
		"file in file":      {layers: append(one("a"), one("a/b")...), codes: []codes.Code{codes.InvalidArgument}},
		"tar up":            {layers: packed(tar.Header{Name: "../../evil"}, tar.Header{Name: "x"}), codes: []codes.Code{codes.InvalidArgument}},
		"tar absolute":      {layers: packed(tar.Header{Name: outside}, tar.Header{Name: "x"}), codes: []codes.Code{codes.InvalidArgument}},
		"tar link out":      {layers: packed(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../../../etc/passwd"}), codes: []codes.Code{codes.InvalidArgument}},
		"tar link absolute": {layers: packed(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}), codes: []codes.Code{codes.InvalidArgument}},
		"tar through link": {layers: packed(tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "/tmp"},
			tar.Header{Name: "d/evil"}), codes: []codes.Code{codes.InvalidArgument}},
		"tar hard link out": {layers: packed(tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}), codes: []codes.Code{codes.InvalidArgument}},
		"tar device":        {layers: packed(tar.Header{Name: "null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}), codes: []codes.Code{codes.InvalidArgument, codes.FailedPrecondition}},
		"tar fifo":          {layers: packed(tar.Header{Name: "pipe", Typeflag: tar.TypeFifo}), codes: []codes.Code{codes.InvalidArgument, codes.FailedPrecondition}},
		"tar cut off": {layers: []layer{{tarType, "", archive(t, tar.Header{Name: "x"}, tar.Header{Name: "y"})[:1100], nil}},
			codes: []codes.Code{codes.InvalidArgument, codes.DataLoss}},
		"not a tar": {layers: []layer{{tarType, "", bytes.Repeat([]byte("no tar "), 1000), nil}}, codes: []codes.Code{codes.InvalidArgument, codes.DataLoss}},
		"size too small": {layers: []layer{{raw, "x", []byte("ten bytes!"), func(d *ocispec.Descriptor) { d.Size = 5 }}},
			codes: []codes.Code{codes.DataLoss}},
		"size too large": {layers: []layer{{raw, "x", []byte("ten bytes!"), func(d *ocispec.Descriptor) { d.Size = 5000 }}},
			codes: []codes.Code{codes.DataLoss}},
		"size negative": {layers: []layer{{raw, "x", []byte("ten bytes!"), func(d *ocispec.Descriptor) { d.Size = -1 }}},
			codes: []codes.Code{codes.InvalidArgument, codes.DataLoss}},
		"size huge": {layers: []layer{{raw, "x", []byte("ten bytes!"), func(d *ocispec.Descriptor) { d.Size = 1 << 60 }}},
			codes: []codes.Code{codes.ResourceExhausted, codes.OutOfRange}},
		"digest md5": {layers: []layer{{raw, "x", []byte("x"), func(d *ocispec.Descriptor) { d.Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" }}},
			codes: []codes.Code{codes.InvalidArgument}},
		"digest upper case": {layers: []layer{{raw, "x", []byte("x"), func(d *ocispec.Descriptor) {
			d.Digest = digest.Digest("sha256:" + strings.ToUpper(d.Digest.Encoded()))
		}}}, codes: []codes.Code{codes.InvalidArgument}},
		"digest traversal": {layers: []layer{{raw, "x", []byte("x"), func(d *ocispec.Descriptor) { d.Digest = "sha256:../../../evil" }}},
			codes: []codes.Code{codes.InvalidArgument}},
		"layer absent": {layers: []layer{{raw, "x", []byte("x"), func(d *ocispec.Descriptor) { d.Digest = digest.FromString("absent") }}},
			codes: []codes.Code{codes.NotFound, codes.DataLoss}},
		"no JSON":          {manifest: []byte("<html>"), codes: []codes.Code{codes.InvalidArgument, codes.DataLoss}},
		"no manifest":      {manifest: []byte(`{"hello":"world"}`), codes: []codes.Code{codes.InvalidArgument, codes.FailedPrecondition}},
		"schema 1":         {manifest: []byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"sha256:aa"}]}`), codes: []codes.Code{codes.InvalidArgument, codes.FailedPrecondition}},
		"both kinds":       {manifest: []byte(`{"schemaVersion":2,"manifests":[],"layers":[]}`), codes: []codes.Code{codes.InvalidArgument}},
		"no layers":        {manifest: []byte(`{"schemaVersion":2,"artifactType":"application/vnd.cncf.model.manifest.v1+json","layers":[]}`), codes: []codes.Code{codes.InvalidArgument, codes.FailedPrecondition}},
		"manifest too big": {manifest: bytes.Repeat([]byte(" "), 20<<20), codes: []codes.Code{codes.InvalidArgument, codes.OutOfRange}},
	}
	number := 0
	for name, test := range tests {
		number++
		repository := fmt.Sprintf("m/bad%d", number)
		t.Run(name, func(t *testing.T) {
			w.t = t
			body := test.manifest
			if body == nil {
				m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
					ArtifactType: "application/vnd.cncf.model.manifest.v1+json", Config: ocispec.DescriptorEmptyJSON}
				client := artifact.NewClient(w.registry.Host(), repository, "", "")
				if _, err := client.Blob(t.Context(), strings.NewReader("{}")); err != nil {
					t.Fatal(err)
				}
				for _, l := range test.layers {
					d, err := client.Blob(t.Context(), bytes.NewReader(l.content))
					if err != nil {
						t.Fatal(err)
					}
					d.MediaType = l.mediaType
					if l.path != "" {
						d.Annotations = map[string]string{"org.cncf.model.filepath": l.path}
					}
					if l.spoil != nil {
						l.spoil(&d)
					}
					m.Layers = append(m.Layers, d)
				}
				var err error
				if body, err = json.Marshal(m); err != nil {
					t.Fatal(err)
				}
			}
			w.registry.SetManifest(repository, "v1", ocispec.MediaTypeImageManifest, body)
			v := volume("csi-bad", w.registry.Host()+"/"+repository+":v1")
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			err := w.node.Publish(ctx, v)
			if !slices.Contains(test.codes, status.Code(err)) {
				t.Errorf("code %s, want one of %v: %v", status.Code(err), test.codes, err)
			}
			if err != nil && !strings.Contains(err.Error(), repository) {
				t.Errorf("the message does not name the reference: %v", err)
			}
			w.nothingOf("csi-bad")
		})
	}
	w.t = t
	if _, err := os.Lstat(outside); err == nil {
		t.Error("a file was made outside")
	}
	w.blobs()
	w.ingested("*")
}
