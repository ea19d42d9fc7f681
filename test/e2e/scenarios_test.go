package e2e

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/model-csi/model-csi/test/e2e/product"
	"github.com/model-csi/model-csi/test/e2e/registry"
)

// TestScenarios has the order of the scenarios. Those that only add pods run side by side, and next to the long pull,
// which nothing may disturb; those that restart or remove parts of the node follow, one at a time.
func TestScenarios(t *testing.T) {
	t.Run("undisturbed", func(t *testing.T) {
		t.Run("pull longer than the deadline", func(t *testing.T) { t.Parallel(); longPull(t) })
		t.Run("others", func(t *testing.T) {
			t.Parallel()
			t.Run("together", func(t *testing.T) {
				for name, scenario := range map[string]func(*testing.T){
					"the cluster itself":       trivialPod,
					"inline volume":            inlineVolume,
					"private artifact":         privateArtifact,
					"second pod":               secondPod,
					"one page cache":           onePageCache,
					"read only":                readOnly,
					"failures tell the reason": failures,
					"persistent volume":        persistentVolume,
					"examples":                 examples,
					"hardening":                hardening,
					"every format":             formats,
					"two namespaces":           twoNamespaces,
					"image pull secrets":       pullSecrets,
					"operator policy":          policy,
					"base with adapters":       adapters,
					"layouts":                  layouts,
					"variants":                 variants,
					"command line":             advice,
					"mirror":                   mirror,
				} {
					t.Run(name, func(t *testing.T) { t.Parallel(); scenario(t) })
				}
			})
			t.Run("next to an image volume", imageVolume)
		})
	})
	t.Run("restarts under a reader", restarts)
	t.Run("deletion and reboot", deletionAndReboot)
	t.Run("uninstall under a reader", uninstall)
}

// trivialPod proves the cluster before the product: a pod runs, its log is readable, exec works, and it reaches the API
// server by the service's address.
func trivialPod(t *testing.T) {
	pod := start(t, newPod(namespace(t), "trivial", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}, "echo hello; sleep 3600"))
	eventually(t, "the pod's log", func(context.Context) error {
		if log := podLogs(t, pod); log != "hello\n" {
			return fmt.Errorf("it is %q", log)
		}
		return nil
	})
	if out := mustShell(t, pod, "echo $KUBERNETES_SERVICE_HOST; ls -a /model"); !strings.HasPrefix(out, "10.96.0.1\n") {
		t.Errorf("exec printed %q", out)
	}
	eventually(t, "kubernetes.default answers in the pod", func(context.Context) error {
		out, err := shell(t, pod, "nc -w 2 $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT </dev/null")
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

// inlineVolume: a public artifact.
func inlineVolume(t *testing.T) {
	files := newModel(1, 3<<20)
	pod := start(t, newPod(namespace(t), "inline", volume(push(t, env.Public, "models/inline", files))))
	checkModel(t, pod, files)
}

// privateArtifact: with the secret it starts; without it the pod waits, and an event says why and what to do.
func privateArtifact(t *testing.T) {
	ns, files := namespace(t), newModel(2, 1<<20)
	reference := push(t, env.Private, "private/model", files)

	// First without: nothing of the model is on the node yet.
	without := create(t, newPod(ns, "without", volume(reference)))
	waitEvent(t, without, limit, "FailedMount", reference, "nodePublishSecretRef")
	if sent := env.Private.Total(blobs(files)); sent.Requests > 0 {
		t.Errorf("the registry was asked for blobs without credentials: %+v", sent)
	}

	registrySecret(t, ns, env.Private.Password)
	source := volume(reference)
	source.CSI.NodePublishSecretRef = &corev1.LocalObjectReference{Name: "registry"}
	checkModel(t, start(t, newPod(ns, "with", source)), files)

	log := podLogs(t, pluginPod(t))
	basic := base64.StdEncoding.EncodeToString([]byte(env.Private.User + ":" + env.Private.Password))
	if strings.Contains(log, env.Private.Password) || strings.Contains(log, basic) {
		t.Error("the plugin's log has the password")
	}

	// The model is cached now. That is no permission.
	again := create(t, newPod(ns, "without-but-cached", volume(reference)))
	waitEvent(t, again, limit, "FailedMount", reference, "nodePublishSecretRef")
	for _, pod := range []*corev1.Pod{without, again} {
		// kubelet may tell of the failure before it tells of the container.
		err := poll(t.Context(), limit, func(ctx context.Context) error {
			got, err := env.Client.CoreV1().Pods(ns).Get(ctx, pod.Name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if state := mainContainer(got).State; state.Waiting == nil || state.Waiting.Reason != "ContainerCreating" {
				return fmt.Errorf("its container is %+v", state)
			}
			return nil
		})
		if err != nil {
			t.Errorf("pod %s without credentials is not in ContainerCreating: %v", pod.Name, err)
		}
	}
}

// secondPod: the second pod of a model transfers nothing.
func secondPod(t *testing.T) {
	ns, files := namespace(t), newModel(3, 2<<20)
	reference := push(t, env.Public, "models/second", files)
	start(t, newPod(ns, "first", volume(reference)))
	before := env.Public.Total(blobs(files))
	if before.Bytes < size(files) {
		t.Fatalf("the first pod started with %d of %d bytes sent: the count is wrong", before.Bytes, size(files))
	}
	second := start(t, newPod(ns, "second", volume(reference)))
	checkModel(t, second, files)
	if after := env.Public.Total(blobs(files)); after != before {
		t.Errorf("the second pod's start made blob requests: %+v, before %+v", after, before)
	}
}

// onePageCache: two pods have the same inode, hence the same pages.
func onePageCache(t *testing.T) {
	ns, files := namespace(t), newModel(4, 1<<20)
	reference := push(t, env.Public, "models/shared", files)
	first, second := start(t, newPod(ns, "first", volume(reference))), start(t, newPod(ns, "second", volume(reference)))
	for _, f := range files {
		command := "stat -c %d:%i " + modelMount + "/" + f.Path
		if a, b := mustShell(t, first, command), mustShell(t, second, command); a != b {
			t.Errorf("%s is device:inode %s in one pod and %s in the other", f.Path, a, b)
		}
	}
}

// readOnly: a pod cannot write, remount or execute, not even as root; with exec it can execute and still not write.
func readOnly(t *testing.T) {
	ns := namespace(t)
	busybox, err := os.ReadFile(env.NodePath("/bin/busybox"))
	if err != nil {
		t.Fatal(err)
	}
	files := append(newModel(5, 1<<20), registry.File{Path: "bin/busybox", Data: busybox, Mode: 0o755})
	reference := push(t, env.Public, "models/readonly", files)
	plain := newPod(ns, "plain", volume(reference))
	plain.Spec.Containers[0].VolumeMounts[0].ReadOnly = false // the mount itself must refuse
	plain.Spec.Volumes[0].CSI.ReadOnly = nil
	plain = start(t, plain)
	executable := start(t, newPod(ns, "exec", volume(reference, "exec", "true")))
	for _, c := range []struct {
		pod           *corev1.Pod
		command, want string // want empty: the command succeeds
	}{
		{plain, "echo x > /model/new", "Read-only file system"},
		{plain, "echo x >> /model/config.json", "Read-only file system"},
		{plain, "rm /model/config.json", "Read-only file system"},
		{plain, "chmod 777 /model/config.json", "Read-only file system"},
		{plain, "mount -o remount,rw /model", "ermi"}, // "permission denied" or "Operation not permitted"
		{plain, "umount /model", "ermi"},
		{plain, "/model/bin/busybox true", "ermission denied"},
		{plain, "test -x /model/bin/busybox || grep -q ' /model .*noexec' /proc/mounts", ""},
		{plain, "grep -q ' /model .*nosuid,nodev,noexec' /proc/mounts", ""},
		{executable, "/model/bin/busybox true", ""},
		{executable, "echo x > /model/bin/busybox", "Read-only file system"},
	} {
		out, err := shell(t, c.pod, c.command)
		if c.want == "" && err != nil {
			t.Errorf("%s in pod %s: %v: %s", c.command, c.pod.Name, err, out)
		}
		if c.want != "" && (err == nil || !strings.Contains(out, c.want)) {
			t.Errorf("%s in pod %s: %v: %q, want a failure with %q", c.command, c.pod.Name, err, out, c.want)
		}
	}
	checkModel(t, plain, files)
}

// failures: what a person reads when a pod does not start.
func failures(t *testing.T) {
	ns, files := namespace(t), newModel(6, 1<<20)
	good := push(t, env.Public, "models/failures", files)
	spoilt := newModel(7, 1<<20)
	corrupt := push(t, env.Public, "models/corrupt", spoilt)
	env.Public.Corrupt(spoilt[2].Digest())
	missing := env.Public.Reference("models/failures", "nosuchtag")
	for _, c := range []struct {
		name   string
		source corev1.VolumeSource
		words  []string
	}{
		{"bad-reference", volume("Registry.Example/UPPER CASE:v1"), []string{"InvalidArgument", "reference", "UPPER CASE"}},
		{"missing-tag", volume(missing), []string{"NotFound", missing}},
		{"unknown-attribute", volume(good, "pullpolicy", "Never"), []string{"InvalidArgument", `"pullpolicy"`, `did you mean "pullPolicy"`}},
		{"bad-value", volume(good, "pullPolicy", "Sometimes"), []string{"InvalidArgument", "pullPolicy", "Sometimes", "IfNotPresent"}},
		{"corrupt-blob", volume(corrupt), []string{"DataLoss", corrupt, spoilt[2].Digest()}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pod := create(t, newPod(ns, c.name, c.source))
			t.Log(waitEvent(t, pod, limit, append([]string{"FailedMount"}, c.words...)...))
		})
	}
}

// persistentVolume: the same by a static volume and a claim, as KServe's pvc:// would.
func persistentVolume(t *testing.T) {
	ns, files := namespace(t), newModel(8, 1<<20)
	reference := push(t, env.Public, "models/claimed", files)
	inline := volume(reference).CSI
	name, class := "claimed-"+ns, ""
	capacity := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
	_, err := env.Client.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: modes, Capacity: capacity, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			ClaimRef: &corev1.ObjectReference{Namespace: ns, Name: "model"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: product.DriverName, VolumeHandle: name, ReadOnly: true, VolumeAttributes: inline.VolumeAttributes,
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Client.CoreV1().PersistentVolumes().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	_, err = env.Client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "model"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes, StorageClassName: &class, VolumeName: name,
			Resources: corev1.VolumeResourceRequirements{Requests: capacity},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	claim := corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "model", ReadOnly: true}}
	first, second := start(t, newPod(ns, "first", claim)), start(t, newPod(ns, "second", claim))
	checkModel(t, first, files)
	checkModel(t, second, files)

	// The path of pvc://model/tokenizer is the subPath of the mount.
	part := newPod(ns, "part", claim)
	part.Spec.Containers[0].VolumeMounts[0].SubPath = "tokenizer"
	checkModel(t, start(t, part), []registry.File{{Path: "vocab.txt", Data: files[4].Data}})
}

// longPull: the registry is so slow that kubelet's two minutes run out. The pod starts all the same, the
// pull does not begin anew, and events say how far it is.
func longPull(t *testing.T) {
	const rate, seconds = 256 << 10, 128
	ns, files := namespace(t), newModel(9, rate*seconds)
	reference := push(t, env.Public, "slow/model", files)
	env.Public.Throttle("slow/model", rate)
	began := time.Now()
	pod := create(t, newPod(ns, "patient", volume(reference)))
	t.Log(waitEvent(t, pod, 4*time.Minute, "FailedMount", "pulling "+reference, "%"))
	pod = waitRunning(t, pod, 5*time.Minute)
	took := time.Since(began)
	if took < 2*time.Minute {
		t.Errorf("the pod ran after %s: the deadline of two minutes was not reached", took)
	}
	sent := env.Public.Total(blobs(files))
	t.Logf("the pod ran after %s; %d of %d bytes were sent in %d requests", took.Round(time.Second), sent.Bytes, size(files), sent.Requests)
	// A range of which nothing comes for a while may be asked for twice, for 16 MiB and 2 % in all, half of this model. A pull
	// that began anew with kubelet's second try would cost nearly all of it again.
	if float64(sent.Bytes) > 1.55*float64(size(files)) {
		t.Errorf("%d bytes were sent for a model of %d", sent.Bytes, size(files))
	}
	checkModel(t, pod, files)
}
