package e2e

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	archive := func(files []registry.File) []byte {
		data, err := registry.Tar(files)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	zipped := func(data []byte) []byte {
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
	cncf, cnai, kitFiles, plain := files("modelpack"), files("cnai"), files("kitops"), files("generic")
	gguf, template := []byte("GGUF ollama weights"), []byte("{{ .Prompt }}")
	const ollama, docker, kit = "application/vnd.ollama.image.", "application/vnd.docker.ai.", "application/vnd.kitops.modelkit."
	const kitfile = "manifestVersion: 1.0.0\nmodel:\n  name: kit\n  path: weights\npackage:\n  name: kit\n"
	rootfs := archive(files("image"))
	return []formatArtifact{
		{name: "modelpack", want: cncf, artifact: registry.Artifact{
			ArtifactType: "application/vnd.cncf.model.manifest.v1+json", ConfigType: "application/vnd.cncf.model.config.v1+json", Config: []byte(`{}`),
			Layers: []registry.Layer{{MediaType: "application/vnd.cncf.model.weight.v1.tar+gzip", Data: zipped(archive(cncf))}},
		}},
		{name: "cnai", want: cnai, artifact: registry.Artifact{
			ArtifactType: "application/vnd.cnai.model.manifest.v1+json", ConfigType: "application/vnd.cnai.model.config.v1+json", Config: []byte(`{}`),
			Layers: []registry.Layer{
				{MediaType: "application/vnd.cnai.model.weight.config.v1.raw", Data: cnai[0].Data, Annotations: map[string]string{"org.cnai.model.filepath": cnai[0].Path}},
				{MediaType: "application/vnd.cnai.model.weight.v1.raw", Data: cnai[1].Data, Annotations: map[string]string{"org.cnai.model.filepath": cnai[1].Path}},
			},
		}},
		{name: "kitops", artifact: registry.Artifact{
			ConfigType: kit + "config.v1+json", Config: []byte(`{"manifestVersion":"1.0.0","package":{"name":"kit"},"model":{"name":"kit","path":"weights","digest":"sha256:0"}}`),
			Layers: []registry.Layer{{MediaType: kit + "model.v1.tar+gzip", Data: zipped(archive(kitFiles))}},
		}, want: append(kitFiles, registry.File{Path: "Kitfile", Data: []byte(kitfile)})},
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
				{MediaType: "application/vnd.oci.image.layer.v1.tar+gzip", Data: zipped(archive(plain[1:])), Annotations: map[string]string{
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

// twoNamespaces: a private model that one namespace has brought to the node is not served to another one that cannot
// prove that it may have it, by whatever name, and is served at once to it when it can.
func twoNamespaces(t *testing.T) {
	ours, theirs, files := namespace(t), namespace(t), newModel(20, 1<<20)
	reference := push(t, env.Private, "private/tenants", files)
	digest, err := env.Private.PushModel(t.Context(), env.Trust, "private/tenants", "pinned", files)
	if err != nil {
		t.Fatal(err)
	}
	pinned := env.Private.Address + "/private/tenants@" + digest
	pod := func(ns, name, reference string, secret bool, attributes ...string) *corev1.Pod {
		source := volume(reference, attributes...)
		if secret {
			source.CSI.NodePublishSecretRef = &corev1.LocalObjectReference{Name: "registry"}
		}
		return create(t, newPod(ns, name, source))
	}
	registrySecret(t, ours, env.Private.Password)
	registrySecret(t, theirs, "not-the-password")
	checkModel(t, waitRunning(t, pod(ours, "first", reference, true), limit), files)
	before := env.Private.Total(blobs(files))

	for _, refused := range []*corev1.Pod{
		pod(theirs, "wrong", reference, true),
		pod(theirs, "nobody", reference, false),
		pod(theirs, "by-digest", pinned, true),
		pod(theirs, "never", reference, true, "pullPolicy", "Never"),
		pod(ours, "nobody", pinned, false),
	} {
		message := waitEvent(t, refused, limit, "FailedMount", "private/tenants", "nodePublishSecretRef")
		if strings.Contains(message, "not-the-password") || strings.Contains(message, env.Private.Password) {
			t.Errorf("the event shows a password: %s", message)
		}
	}
	checkModel(t, waitRunning(t, pod(ours, "second", pinned, true), limit), files)

	// Given the right password, the other namespace has the model too, and nothing is transferred.
	if err := env.Client.CoreV1().Secrets(theirs).Delete(t.Context(), "registry", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	registrySecret(t, theirs, env.Private.Password)
	checkModel(t, waitRunning(t, pod(theirs, "allowed", reference, true), limit), files)
	if after := env.Private.Total(blobs(files)); after != before {
		t.Errorf("blobs were asked for again: %+v, before %+v", after, before)
	}
}

// registrySecret makes the secret "registry" for the private registry.
func registrySecret(t *testing.T, ns, password string) {
	t.Helper()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "registry", Namespace: ns},
		Type:       corev1.SecretTypeDockerConfigJson,
		StringData: map[string]string{corev1.DockerConfigJsonKey: fmt.Sprintf(`{"auths": {%q: {"username": %q, "password": %q}}}`,
			env.Private.Address, env.Private.User, password)},
	}
	if _, err := env.Client.CoreV1().Secrets(ns).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}
