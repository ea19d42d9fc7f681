package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/model-csi/model-csi/test/e2e/product"
)

// maxImage is the most that the product's image may have, in bytes.
const maxImage = 60_000_000

// TestImageIsTheDockerfiles holds the image of these tests to what the Dockerfile's last stage says.
func TestImageIsTheDockerfiles(t *testing.T) {
	data, err := os.ReadFile(product.RepositoryRoot + "/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	_, final, found := strings.Cut(string(data), "\nFROM scratch")
	if !found || strings.Contains(final, "\nFROM ") {
		t.Fatal("the Dockerfile's last stage is not FROM scratch")
	}
	want := product.Image("v1")
	var copied []string
	for line := range strings.Lines(final) {
		instruction, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch instruction {
		case "USER":
			if rest != want.User {
				t.Errorf("USER is %s, the test's image has %s", rest, want.User)
			}
			want.User = ""
		case "ENTRYPOINT", "CMD":
			list := want.Entrypoint
			if instruction == "CMD" {
				list = want.Cmd
			}
			var got []string
			if err := json.Unmarshal([]byte(rest), &got); err != nil || !slices.Equal(got, list) {
				t.Errorf("%s is %s (%v), the test's image has %q", instruction, rest, err, list)
			}
		case "COPY":
			copied = append(copied, strings.Fields(rest)[1:]...)
		}
	}
	if want.User != "" {
		t.Error("the Dockerfile has no USER")
	}
	if !strings.Contains(string(data), "-o /out"+want.Entrypoint[0]+" ") || !slices.Contains(copied, "/out/") {
		t.Error("the Dockerfile does not put the binary where the test's image has it")
	}
	if !slices.Contains(copied, want.Files[1].Path) {
		t.Errorf("the Dockerfile copies %q, the test's image has %s", copied, want.Files[1].Path)
	}
	if env.ImageSize > maxImage {
		t.Errorf("the image has %d bytes, more than %d", env.ImageSize, maxImage)
	}
	t.Logf("the image has %d bytes", env.ImageSize)
}

// TestServerSideDryRun offers every object of the chart, with each of its values files, and of deploy/ to the API server.
func TestServerSideDryRun(t *testing.T) {
	values, err := filepath.Glob(product.ChartPath + "/ci/*.yaml")
	if err != nil || len(values) == 0 {
		t.Fatalf("the chart has no values files in ci: %v", err)
	}
	for _, file := range values {
		t.Run(filepath.Base(file), func(t *testing.T) {
			// Another name than that of the release which runs: applying merges with what is there.
			out, err := env.Helm(t.Context(), "template", "dry-run", product.ChartPath, "--values", file)
			if err != nil {
				t.Fatal(err)
			}
			objects := decode(t, out)
			for _, o := range objects {
				if o.GetNamespace() != "" {
					ensureNamespace(t, o.GetNamespace())
				}
			}
			apply(t, objects, true)
		})
	}
	t.Run("deploy", func(t *testing.T) {
		data, err := os.ReadFile(product.RepositoryRoot + "/deploy/model-csi.yaml")
		if err != nil {
			t.Fatal(err)
		}
		apply(t, decode(t, string(data)), true)
	})
}

// decode splits a stream of YAML documents.
func decode(t *testing.T, text string) (objects []*unstructured.Unstructured) {
	t.Helper()
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(object.Object) > 0 {
			objects = append(objects, object)
		}
	}
	if len(objects) == 0 {
		t.Fatal("there is no object")
	}
	return objects
}

// ensureNamespace makes a namespace that values name for the time of a test, unless it is there.
func ensureNamespace(t *testing.T, name string) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	_, err := env.Client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Client.CoreV1().Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// thirdParty are groups that a plain API server does not know; the form of their objects is their own operators' business.
var thirdParty = []string{"monitoring.coreos.com", "serving.kserve.io"}

// apply is kubectl apply --server-side, which refuses unknown fields.
func apply(t *testing.T, objects []*unstructured.Unstructured, dryRun bool) {
	t.Helper()
	client, err := dynamic.NewForConfig(env.Config)
	if err != nil {
		t.Fatal(err)
	}
	groups, err := restmapper.GetAPIGroupResources(env.Client.Discovery())
	if err != nil {
		t.Fatal(err)
	}
	mapper := restmapper.NewDiscoveryRESTMapper(groups)
	options := metav1.PatchOptions{FieldManager: "e2e", FieldValidation: "Strict", Force: new(true)}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	for _, o := range objects {
		kind := o.GroupVersionKind()
		name := fmt.Sprintf("%s %s", kind.Kind, o.GetName())
		mapping, err := mapper.RESTMapping(schema.GroupKind{Group: kind.Group, Kind: kind.Kind}, kind.Version)
		if err != nil {
			if meta.IsNoMatchError(err) && slices.Contains(thirdParty, kind.Group) {
				continue
			}
			t.Errorf("%s: %v", name, err)
			continue
		}
		resource := dynamic.ResourceInterface(client.Resource(mapping.Resource))
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			ns := o.GetNamespace()
			if ns == "" {
				ns = "default"
			}
			resource = client.Resource(mapping.Resource).Namespace(ns)
		}
		data, err := o.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := resource.Patch(t.Context(), o.GetName(), "application/apply-patch+yaml", data, options); err != nil {
			t.Errorf("apply %s: %v", name, err)
		}
	}
}

// hardening: what the plugin's pod is allowed, as the API server has it and as its processes are.
func hardening(t *testing.T) {
	pod := pluginPod(t)
	spec := pod.Spec
	if spec.HostNetwork || spec.HostPID || spec.HostIPC {
		t.Errorf("the plugin shares a namespace of the host: network %v, PID %v, IPC %v", spec.HostNetwork, spec.HostPID, spec.HostIPC)
	}
	checkNoToken(t)
	var hostPaths []string
	for _, v := range spec.Volumes {
		if v.HostPath != nil {
			hostPaths = append(hostPaths, v.HostPath.Path)
		}
	}
	slices.Sort(hostPaths)
	if want := []string{"/var/lib/kubelet", "/var/lib/model-csi"}; !slices.Equal(hostPaths, want) {
		t.Errorf("the plugin has the host paths %q, want %q", hostPaths, want)
	}
	if p := spec.SecurityContext.SeccompProfile; p == nil || p.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the plugin's seccomp profile is %v", p)
	}
	if len(spec.Containers) != 1 || len(spec.InitContainers) != 0 {
		t.Errorf("the plugin has %d containers and %d init containers", len(spec.Containers), len(spec.InitContainers))
	}
	if c := spec.Containers[0].SecurityContext; c.ReadOnlyRootFilesystem == nil || !*c.ReadOnlyRootFilesystem {
		t.Error("the plugin's root file system is writable")
	}
	if spec.PriorityClassName != "system-node-critical" {
		t.Errorf("the plugin's priority class is %q", spec.PriorityClassName)
	}
	checkProcess(t)
	for _, path := range []string{"healthz", "readyz", "metrics"} {
		request := env.Client.CoreV1().RESTClient().Get().Namespace(pod.Namespace).Resource("pods").Name(pod.Name + ":9808").
			SubResource("proxy").Suffix(path)
		if data, err := request.DoRaw(t.Context()); err != nil {
			t.Errorf("/%s of the plugin: %v: %s", path, err, data)
		}
	}
}

// checkNoToken: by default the plugin has no token and no permission. This release has, because it reads pull secrets.
func checkNoToken(t *testing.T) {
	t.Helper()
	out, err := env.Helm(t.Context(), "template", product.ReleaseName, product.ChartPath)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range decode(t, out) {
		if strings.Contains(o.GroupVersionKind().Group, "rbac") {
			t.Errorf("the chart makes a %s by default", o.GetKind())
		}
		if o.GetKind() != "DaemonSet" {
			continue
		}
		if token, found, err := unstructured.NestedBool(o.Object, "spec", "template", "spec", "automountServiceAccountToken"); err != nil || !found || token {
			t.Errorf("the plugin has a service account token by default: %v, %v, %v", token, found, err)
		}
	}
}

// checkProcess proves on the plugin's process what its specification asks for: the sandbox sees every process of the node.
func checkProcess(t *testing.T) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, exe := range paths {
		if target, err := os.Readlink(exe); err != nil || target != product.Image("").Entrypoint[0] {
			continue
		}
		found++
		proc := filepath.Dir(exe)
		for _, ns := range []string{"net", "pid", "ipc", "mnt"} {
			its, err := os.Readlink(proc + "/ns/" + ns)
			nodes, err2 := os.Readlink(env.NodePath("/proc/1/ns/" + ns))
			if err := errors.Join(err, err2); err != nil {
				t.Error(err)
			}
			if its == nodes {
				t.Errorf("the plugin is in the node's %s namespace", ns)
			}
		}
		mounts, err := os.ReadFile(proc + "/mounts")
		if err != nil {
			t.Fatal(err)
		}
		if f := strings.Fields(string(mounts)); len(f) < 4 || f[1] != "/" || !slices.Contains(strings.Split(f[3], ","), "ro") {
			t.Errorf("the plugin's root is not mounted read-only: %.200s", mounts)
		}
	}
	if found != 1 {
		t.Errorf("%d processes of the plugin were found, want 1", found)
	}
}
