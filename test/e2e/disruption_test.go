package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/model-csi/model-csi/test/e2e/product"
	"github.com/model-csi/model-csi/test/e2e/registry"
)

// startReader starts a pod that reads and verifies its model without end. Each round prints a line.
func startReader(t *testing.T, ns, name, reference string, files []registry.File) *corev1.Pod {
	t.Helper()
	script := "cat > /tmp/sums <<'END'\n" + sums(files) + "\nEND\ncd " + modelMount +
		"\nwhile true; do sha256sum -c -s /tmp/sums && echo fine || echo READ-ERROR; sleep 0.05; done"
	pod := newPod(ns, name, volume(reference), script)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	pod = start(t, pod)
	checkReader(t, pod)
	return pod
}

// checkReader proves that the reader goes on and has not met an error since its start.
func checkReader(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	rounds := func() int {
		log := podLogs(t, pod)
		if strings.Contains(log, "READ-ERROR") {
			t.Fatalf("pod %s met a read error:\n%s", pod.Name, log)
		}
		return strings.Count(log, "fine")
	}
	before := rounds()
	eventually(t, "the reader goes on", func(context.Context) error {
		if now := rounds(); now <= before {
			return fmt.Errorf("it stays at round %d", now)
		}
		return nil
	})
	got, err := env.Client.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.UID != pod.UID || mainContainer(got).RestartCount > 0 {
		t.Fatalf("pod %s is not the one that was started: %+v", pod.Name, got.Status)
	}
}

// pluginPod is the one pod of the product.
func pluginPod(t *testing.T) (found *corev1.Pod) {
	t.Helper()
	eventually(t, "a pod of the plugin", func(ctx context.Context) error {
		list, err := env.Client.CoreV1().Pods(product.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=model-csi"})
		if err != nil {
			return err
		}
		for _, pod := range list.Items {
			if pod.DeletionTimestamp == nil {
				found = &pod
				return nil
			}
		}
		return fmt.Errorf("there is none among %d", len(list.Items))
	})
	return found
}

// waitPlugin waits until another pod of the plugin than the given one is ready.
func waitPlugin(t *testing.T, old *corev1.Pod) {
	t.Helper()
	eventually(t, "the plugin's next pod ready", func(context.Context) error {
		pod := pluginPod(t)
		if old != nil && pod.UID == old.UID {
			return errors.New("it is still the old one")
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("pod %s: %s", pod.Name, pod.Status.Phase)
	})
}

// restarts: kubelet, the plugin's pod and the plugin's version change under a pod that keeps reading.
func restarts(t *testing.T) {
	ns, files := namespace(t), newModel(10, 1<<20)
	reference := push(t, env.Public, "models/restarts", files)
	reader := startReader(t, ns, "reader", reference, files)
	for i, step := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"kubelet restarts", func(t *testing.T) {
			if err := env.RestartKubelet(t.Context()); err != nil {
				t.Fatal(err)
			}
		}},
		{"the plugin's pod is replaced", func(t *testing.T) {
			old := pluginPod(t)
			if err := env.Client.CoreV1().Pods(old.Namespace).Delete(t.Context(), old.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			waitPlugin(t, old)
		}},
		{"the plugin is upgraded", func(t *testing.T) {
			old := pluginPod(t)
			if err := env.Install(t.Context(), "v2"); err != nil {
				t.Fatal(err)
			}
			if pod := pluginPod(t); pod.UID == old.UID || pod.Spec.Containers[0].Image != product.ImageRepository+":v2" {
				t.Errorf("the upgrade left pod %s with image %s", pod.Name, pod.Spec.Containers[0].Image)
			}
		}},
	} {
		t.Run(step.name, func(t *testing.T) {
			step.do(t)
			checkReader(t, reader)
			// New pods work too, with the model that is there and with one that is not.
			checkModel(t, start(t, newPod(ns, "old-model-"+strconv.Itoa(i), volume(reference))), files)
			fresh := newModel(uint64(20+i), 1<<20)
			checkModel(t, start(t, newPod(ns, "new-model-"+strconv.Itoa(i), volume(push(t, env.Public, fmt.Sprint("models/fresh", i), fresh)))), fresh)
		})
	}
	checkReader(t, reader)
	remove(t, reader, -1)
}

// volumeLeftovers lists what the node still has of model volumes: mounts, kubelet's directories and the plugin's leases.
func volumeLeftovers(t *testing.T) (left []string) {
	t.Helper()
	mounts, err := env.NodeMounts()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(mounts) {
		if f := strings.Fields(line); strings.Contains(f[4], "kubernetes.io~csi") {
			left = append(left, "mount "+f[4])
		}
	}
	for _, pattern := range []string{"/var/lib/kubelet/pods/*/volumes/kubernetes.io~csi/*", "/var/lib/model-csi/leases/*"} {
		paths, err := filepath.Glob(env.NodePath(pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range paths {
			left = append(left, "file "+strings.TrimPrefix(p, env.NodePath("")))
		}
	}
	return left
}

// waitNoLeftovers waits until nothing of any volume is left on the node.
func waitNoLeftovers(t *testing.T) {
	t.Helper()
	err := poll(t.Context(), 2*limit, func(context.Context) error {
		if left := volumeLeftovers(t); len(left) > 0 {
			return fmt.Errorf("there are\n%s", strings.Join(left, "\n"))
		}
		return nil
	})
	if err != nil {
		t.Fatalf("nothing of any volume should be left: %v", err)
	}
}

// deletionAndReboot: whatever way pods end, the node is clean afterwards; and pods come back after a reboot.
func deletionAndReboot(t *testing.T) {
	files := newModel(30, 1<<20)
	reference := push(t, env.Public, "models/deletion", files)
	t.Run("earlier scenarios", func(t *testing.T) { waitNoLeftovers(t) })
	t.Run("forced deletion", func(t *testing.T) {
		pod := start(t, newPod(namespace(t), "forced", volume(reference)))
		if left := volumeLeftovers(t); len(left) < 3 {
			t.Fatalf("a running pod should have a mount, a directory and a lease: %q", left)
		}
		remove(t, pod, 0)
		waitNoLeftovers(t)
	})
	t.Run("deleted namespace", func(t *testing.T) {
		// The namespace goes before its pods are waited for.
		t.Run("with two pods", func(t *testing.T) {
			ns := namespace(t)
			for _, name := range []string{"one", "two"} {
				start(t, newPod(ns, name, volume(reference)))
			}
		})
		waitNoLeftovers(t)
	})
	t.Run("reboot", func(t *testing.T) { reboot(t, reference, files) })
}

// reboot: the power fails under two pods, and one of them is deleted before it is back.
func reboot(t *testing.T, reference string, files []registry.File) {
	ns := namespace(t)
	survivor, victim := start(t, newPod(ns, "survivor", volume(reference))), start(t, newPod(ns, "victim", volume(reference)))
	sent := env.Public.Total(blobs(files))
	if err := env.PowerCut(); err != nil {
		t.Fatal(err)
	}
	// Gone from the API while the node is off: nobody will ask the plugin by the usual way.
	remove(t, victim, 0)
	began := time.Now()
	if err := env.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitRestarted(t, survivor)
	t.Logf("the pod ran again %s after the node's start", time.Since(began).Round(time.Second))
	checkModel(t, survivor, files)
	if now := env.Public.Total(blobs(files)); now != sent {
		t.Errorf("the cached model was pulled again after the reboot: %+v, before %+v", now, sent)
	}
	eventually(t, "nothing of the pod that was deleted in the meantime", func(context.Context) error {
		var left []string
		for _, l := range volumeLeftovers(t) {
			if strings.HasPrefix(l, "mount") && !strings.Contains(l, string(survivor.UID)) || strings.Contains(l, string(victim.UID)) {
				left = append(left, l)
			}
		}
		if len(left) > 0 {
			return errors.New(strings.Join(left, "\n"))
		}
		return nil
	})
	remove(t, survivor, -1)
	waitNoLeftovers(t)
}

// waitRestarted waits until a pod runs again after the node's reboot.
func waitRestarted(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	err := poll(t.Context(), 2*limit, func(ctx context.Context) error {
		got, err := env.Client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		s := mainContainer(got)
		if s.RestartCount == 0 || s.State.Running == nil {
			return fmt.Errorf("restarts %d, state %+v", s.RestartCount, s.State)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("pod %s after the reboot: %v\nevents:\n%s", pod.Name, err, strings.Join(events(t, pod), "\n"))
	}
}

// imageVolume: the same files as a Kubernetes image volume and as ours, each with nothing in any cache.
func imageVolume(t *testing.T) {
	ns, files := namespace(t), newModel(40, 64<<20)
	reference := push(t, env.Public, "models/compared", files)
	if _, err := env.Public.PushImage(t.Context(), env.Trust, "images/compared", "v1", files); err != nil {
		t.Fatal(err)
	}
	image := corev1.VolumeSource{Image: &corev1.ImageVolumeSource{
		Reference: env.Public.Reference("images/compared", "v1"), PullPolicy: corev1.PullIfNotPresent,
	}}
	timed := func(pod *corev1.Pod) time.Duration {
		began := time.Now()
		pod = start(t, pod)
		took := time.Since(began)
		checkModel(t, pod, files)
		return took
	}
	theirs := timed(newPod(ns, "image-volume", image))
	ours := timed(newPod(ns, "model-volume", volume(reference)))
	// What an image volume shows of an image, the plugin shows as well.
	checkModel(t, start(t, newPod(ns, "image", volume(env.Public.Reference("images/compared", "v1")))), files)
	t.Logf("from creation to Running, %d MiB, empty cache: image volume %s, model volume %s",
		size(files)>>20, theirs.Round(10*time.Millisecond), ours.Round(10*time.Millisecond))
}

// uninstall: the release goes while a pod reads; the pod goes on, and ends when the plugin is back.
func uninstall(t *testing.T) {
	ns, files := namespace(t), newModel(50, 1<<20)
	reference := push(t, env.Public, "models/uninstall", files)
	reader := startReader(t, ns, "reader", reference, files)
	if _, err := env.Helm(t.Context(), "uninstall", product.ReleaseName, "--wait", "--timeout", "3m"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no pod of the plugin", func(ctx context.Context) error {
		list, err := env.Client.CoreV1().Pods(product.Namespace).List(ctx, metav1.ListOptions{})
		if err == nil && len(list.Items) > 0 {
			err = fmt.Errorf("there are %d", len(list.Items))
		}
		return err
	})
	checkReader(t, reader)
	checkModel(t, reader, files)
	cached, err := os.ReadDir(env.NodePath("/var/lib/model-csi/blobs/sha256"))
	if err != nil || len(cached) == 0 {
		t.Errorf("uninstalling should leave the cache: %d blobs, %v", len(cached), err)
	}
	if err := env.Install(t.Context(), "v1"); err != nil {
		t.Fatal(err)
	}
	checkReader(t, reader)
	sent := env.Public.Total(blobs(files))
	checkModel(t, start(t, newPod(ns, "after", volume(reference))), files)
	if now := env.Public.Total(blobs(files)); now != sent {
		t.Errorf("a reinstalled plugin pulled again what is cached: %+v, before %+v", now, sent)
	}
	remove(t, reader, -1)
}
