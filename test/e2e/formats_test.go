package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/model-csi/model-csi/test/e2e/registry"
)

// formats: one pod mounts an artifact of every format that the product reads.
func formats(t *testing.T) {
	ns := namespace(t)
	pod := newPod(ns, "formats", corev1.VolumeSource{})
	pod.Spec.Volumes, pod.Spec.Containers[0].VolumeMounts = nil, nil
	artifacts := formatArtifacts(t)
	for _, a := range artifacts {
		repository := "formats/" + a.name
		if _, err := env.Public.PushArtifact(t.Context(), env.Trust, repository, "v1", a.artifact); err != nil {
			t.Fatal(err)
		}
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: a.name, VolumeSource: volume(env.Public.Reference(repository, "v1"))})
		pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts,
			corev1.VolumeMount{Name: a.name, MountPath: "/models/" + a.name, ReadOnly: true})
	}
	pod = start(t, pod)
	for _, a := range artifacts {
		checkFiles(t, pod, "/models/"+a.name, a.want)
	}
}

type formatArtifact struct {
	name     string
	artifact registry.Artifact
	want     []registry.File
}

// formatArtifacts makes a small model as each producer writes it.
func formatArtifacts(t *testing.T) []formatArtifact {
	t.Helper()
	files := func(name string) []registry.File {
		return []registry.File{
			{Path: "config.json", Data: fmt.Appendf(nil, `{"format": %q}`, name)},
			{Path: "weights/model.safetensors", Data: bytes.Repeat([]byte(name), 10_000)},
		}
	}
	cncf, cnai, kitFiles, plain := files("modelpack"), files("cnai"), files("kitops"), files("generic")
	gguf, template := []byte("GGUF ollama weights"), []byte("{{ .Prompt }}")
	const ollama, docker = "application/vnd.ollama.image.", "application/vnd.docker.ai."
	kit, kitfile := modelKit("kit", zipped(t, archive(t, kitFiles)))
	rootfs := archive(t, files("image"))
	return []formatArtifact{
		{name: "modelpack", want: cncf, artifact: registry.Artifact{
			ArtifactType: "application/vnd.cncf.model.manifest.v1+json", ConfigType: "application/vnd.cncf.model.config.v1+json", Config: []byte(`{}`),
			Layers: []registry.Layer{{MediaType: "application/vnd.cncf.model.weight.v1.tar+gzip", Data: zipped(t, archive(t, cncf))}},
		}},
		{name: "cnai", want: cnai, artifact: registry.Artifact{
			ArtifactType: "application/vnd.cnai.model.manifest.v1+json", ConfigType: "application/vnd.cnai.model.config.v1+json", Config: []byte(`{}`),
			Layers: []registry.Layer{
				{MediaType: "application/vnd.cnai.model.weight.config.v1.raw", Data: cnai[0].Data, Annotations: map[string]string{"org.cnai.model.filepath": cnai[0].Path}},
				{MediaType: "application/vnd.cnai.model.weight.v1.raw", Data: cnai[1].Data, Annotations: map[string]string{"org.cnai.model.filepath": cnai[1].Path}},
			},
		}},
		{name: "kitops", artifact: kit, want: append(kitFiles, kitfile)},
		{name: "ollama", artifact: registry.Artifact{
			MediaType: "application/vnd.docker.distribution.manifest.v2+json", ConfigType: "application/vnd.docker.container.image.v1+json", Config: []byte(`{"model_format":"gguf"}`),
			Layers: []registry.Layer{{MediaType: ollama + "model", Data: gguf}, {MediaType: ollama + "template", Data: template}},
		}, want: []registry.File{{Path: "model.gguf", Data: gguf}, {Path: "template", Data: template}, {Path: "config.json", Data: []byte(`{"model_format":"gguf"}`)}}},
		{name: "docker-model", artifact: registry.Artifact{
			ConfigType: docker + "model.config.v0.1+json", Config: []byte(`{"config":{"format":"gguf"}}`),
			Layers: []registry.Layer{{MediaType: docker + "gguf.v3", Data: []byte("GGUF docker weights")}, {MediaType: docker + "license", Data: []byte("license")}},
		}, want: []registry.File{{Path: "model.gguf", Data: []byte("GGUF docker weights")}, {Path: "LICENSE", Data: []byte("license")}}},
		{name: "generic", artifact: registry.Artifact{
			ArtifactType: "application/vnd.example.model", ConfigType: "application/vnd.oci.empty.v1+json", Config: []byte(`{}`),
			Layers: []registry.Layer{
				{MediaType: "application/octet-stream", Data: plain[0].Data, Annotations: map[string]string{"org.opencontainers.image.title": plain[0].Path}},
				{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Data: zipped(t, archive(t, plain[1:])), Annotations: map[string]string{
					"org.opencontainers.image.title": "weights", "io.deis.oras.content.unpack": "true"}},
			},
		}, want: plain},
		{name: "image", artifact: registry.Artifact{
			ConfigType: "application/vnd.oci.image.config.v1+json",
			Config:     fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, registry.File{Data: rootfs}.Digest()),
			Layers:     []registry.Layer{{MediaType: "application/vnd.oci.image.layer.v1.tar", Data: rootfs}},
		}, want: files("image")},
	}
}

// artifactOf is the one of a format.
func artifactOf(t *testing.T, name string) formatArtifact {
	t.Helper()
	for _, a := range formatArtifacts(t) {
		if a.name == name {
			return a
		}
	}
	t.Fatalf("there is no artifact of format %s", name)
	return formatArtifact{}
}

// modelKit is a ModelKit of one archive as KitOps 1.7 writes it, and the Kitfile that its mount shows.
func modelKit(name string, archive []byte) (registry.Artifact, registry.File) {
	const kit = "application/vnd.kitops.modelkit."
	return registry.Artifact{
		ConfigType: kit + "config.v1+json",
		Config:     fmt.Appendf(nil, `{"manifestVersion":"1.0.0","package":{"name":%q},"model":{"name":%[1]q,"path":"weights","digest":"sha256:0"}}`, name),
		Layers:     []registry.Layer{{MediaType: kit + "model.v1.tar+gzip", Data: archive}},
	}, registry.File{Path: "Kitfile", Data: fmt.Appendf(nil, "manifestVersion: 1.0.0\nmodel:\n  name: %s\n  path: weights\npackage:\n  name: %[1]s\n", name)}
}

func archive(t *testing.T, files []registry.File) []byte {
	t.Helper()
	data, err := registry.Tar(files)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func zipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
