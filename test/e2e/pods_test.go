package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/model-csi/model-csi/test/e2e/cluster"
	"github.com/model-csi/model-csi/test/e2e/product"
	"github.com/model-csi/model-csi/test/e2e/registry"
)

// limit is how long a scenario waits for something that takes seconds on a machine that has them to spare.
const limit = 3 * time.Minute

// modelMount is where every test pod has its model.
const modelMount = "/model"

// newModel makes the files of a small model. Different seeds share no bytes, so that a model of one scenario is never in
// the cache because of another.
func newModel(seed uint64, weights int) []registry.File {
	random := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	data := make([]byte, weights)
	_, _ = random.Read(data) // never fails
	name := fmt.Sprintf("model %d", seed)
	return []registry.File{
		{Path: "config.json", Data: fmt.Appendf(nil, `{"model_type": "test", "name": %q}`+"\n", name)},
		{Path: "README.md", Data: []byte("# " + name + "\n")},
		{Path: "model-00001-of-00002.safetensors", Data: data[:weights/3]},
		{Path: "model-00002-of-00002.safetensors", Data: data[weights/3:]},
		{Path: "tokenizer/vocab.txt", Data: []byte(name + " vocabulary\n")},
	}
}

// push packs a model into a registry and returns its reference.
func push(t *testing.T, r *registry.Registry, repository string, files []registry.File) string {
	t.Helper()
	if _, err := r.PushModel(t.Context(), env.Trust, repository, "v1", files); err != nil {
		t.Fatal(err)
	}
	return r.Reference(repository, "v1")
}

// blobs are the digests of the layers of a model.
func blobs(files []registry.File) (digests []string) {
	for _, f := range files {
		digests = append(digests, f.Digest())
	}
	return digests
}

func size(files []registry.File) (n int64) {
	for _, f := range files {
		n += int64(len(f.Data))
	}
	return n
}

// namespace makes a namespace for a scenario, which goes with it.
func namespace(t *testing.T) string {
	t.Helper()
	return namespaceCalled(t, metav1.ObjectMeta{GenerateName: "scenario-"})
}

// namespaceCalled makes one that the product's values name.
func namespaceCalled(t *testing.T, called metav1.ObjectMeta) string {
	t.Helper()
	ns, err := env.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: called}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	waitServiceAccount(t, ns.Name)
	t.Cleanup(func() {
		if err := env.Client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("delete the namespace: %v", err)
		}
	})
	return ns.Name
}

// waitServiceAccount waits until pods can be made in a namespace.
func waitServiceAccount(t *testing.T, ns string) {
	t.Helper()
	eventually(t, "the default service account", func(ctx context.Context) error {
		_, err := env.Client.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// volume is an inline model volume.
func volume(reference string, attributes ...string) corev1.VolumeSource {
	readOnly := true
	source := &corev1.CSIVolumeSource{Driver: product.DriverName, ReadOnly: &readOnly, VolumeAttributes: map[string]string{"reference": reference}}
	for i := 0; i+1 < len(attributes); i += 2 {
		source.VolumeAttributes[attributes[i]] = attributes[i+1]
	}
	return corev1.VolumeSource{CSI: source}
}

// newPod is a pod with a volume at modelMount that sleeps, or does what the shell command says.
func newPod(ns, name string, source corev1.VolumeSource, command ...string) *corev1.Pod {
	if len(command) == 0 {
		command = []string{"sleep 3600"}
	}
	grace := int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "main", Image: cluster.BusyboxName, ImagePullPolicy: corev1.PullNever, Command: []string{"sh", "-c", command[0]},
				VolumeMounts: []corev1.VolumeMount{{Name: "model", MountPath: modelMount, ReadOnly: true}},
			}},
			Volumes: []corev1.Volume{{Name: "model", VolumeSource: source}},
		},
	}
}

// create creates a pod.
func create(t *testing.T, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	made, err := env.Client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// start creates a pod and waits until it runs.
func start(t *testing.T, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	return waitRunning(t, create(t, pod), limit)
}

// waitRunning waits until a pod's container runs, and shows the pod's events when it does not.
func waitRunning(t *testing.T, pod *corev1.Pod, limit time.Duration) *corev1.Pod {
	t.Helper()
	var got *corev1.Pod
	err := poll(t.Context(), limit, func(ctx context.Context) (err error) {
		got, err = env.Client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, s := range got.Status.ContainerStatuses {
			if s.State.Running != nil && got.Status.Phase == corev1.PodRunning {
				return nil
			}
		}
		return fmt.Errorf("phase %s", got.Status.Phase)
	})
	if err != nil {
		t.Fatalf("pod %s does not run: %v\nevents:\n%s", pod.Name, err, strings.Join(events(t, pod), "\n"))
	}
	return got
}

// mainContainer is what kubelet says of a pod's container: nothing, before it has said anything.
func mainContainer(pod *corev1.Pod) (status corev1.ContainerStatus) {
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name == "main" {
			status = s
		}
	}
	return status
}

// remove deletes a pod and waits until it is gone. A negative grace leaves the pod's own.
func remove(t *testing.T, pod *corev1.Pod, grace int64) {
	t.Helper()
	o := metav1.DeleteOptions{}
	if grace >= 0 {
		o.GracePeriodSeconds = &grace
	}
	if err := env.Client.CoreV1().Pods(pod.Namespace).Delete(t.Context(), pod.Name, o); err != nil {
		t.Fatal(err)
	}
	eventually(t, "pod "+pod.Name+" gone", func(ctx context.Context) error {
		list, err := env.Client.CoreV1().Pods(pod.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + pod.Name})
		if err == nil && len(list.Items) > 0 {
			err = errors.New("it is there")
		}
		return err
	})
}

// events are the messages of a pod's events.
func events(t *testing.T, pod *corev1.Pod) (messages []string) {
	t.Helper()
	list, err := env.Client.CoreV1().Events(pod.Namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod.Name})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Items {
		messages = append(messages, e.Reason+": "+e.Message)
	}
	return messages
}

// waitEvent waits for an event of the pod that has all of the words, and returns it. The pod must not have started.
func waitEvent(t *testing.T, pod *corev1.Pod, limit time.Duration, words ...string) string {
	t.Helper()
	var found string
	err := poll(t.Context(), limit, func(context.Context) error {
		for _, message := range events(t, pod) {
			missing := false
			for _, word := range words {
				missing = missing || !strings.Contains(message, word)
			}
			if !missing {
				found = message
				return nil
			}
		}
		return fmt.Errorf("no event has all of %q", words)
	})
	if err != nil {
		t.Fatalf("pod %s: %v; it has:\n%s", pod.Name, err, strings.Join(events(t, pod), "\n"))
	}
	return found
}

// shell runs a shell command in a pod and returns what it printed, errors included.
func shell(t *testing.T, pod *corev1.Pod, command string) (string, error) {
	t.Helper()
	return execute(t, pod, "sh", "-c", command)
}

// execute is kubectl exec: it runs a program in a pod and returns what it printed, errors included.
func execute(t *testing.T, pod *corev1.Pod, argv ...string) (string, error) {
	t.Helper()
	request := env.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: argv, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(env.Config, "GET", request.URL().String())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	// Both streams are copied at once, so the buffer's own io.ReaderFrom must not be seen.
	var out output
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &out})
	return out.text.String(), err
}

// output collects what several streams write.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

// mustShell is shell for commands that succeed.
func mustShell(t *testing.T, pod *corev1.Pod, command string) string {
	t.Helper()
	out, err := shell(t, pod, command)
	if err != nil {
		t.Fatalf("%s in pod %s: %v: %s", command, pod.Name, err, out)
	}
	return strings.TrimSpace(out)
}

// sums are the lines that sha256sum prints for a model's files, in the order of find | sort.
func sums(files []registry.File) string {
	var lines []string
	for _, f := range files {
		lines = append(lines, strings.TrimPrefix(f.Digest(), "sha256:")+"  ./"+f.Path)
	}
	return strings.Join(lines, "\n")
}

// checkModel proves that a pod sees exactly these files, with the right bytes, in its model.
func checkModel(t *testing.T, pod *corev1.Pod, files []registry.File) {
	t.Helper()
	checkFiles(t, pod, modelMount, files)
}

// checkFiles does so for any directory.
func checkFiles(t *testing.T, pod *corev1.Pod, dir string, files []registry.File) {
	t.Helper()
	got := map[string]bool{}
	for line := range strings.Lines(mustShell(t, pod, "cd "+dir+" && find . -type f | xargs sha256sum")) {
		got[strings.TrimSpace(line)] = true
	}
	for line := range strings.Lines(sums(files)) {
		if line = strings.TrimSpace(line); !got[line] {
			t.Errorf("pod %s: %s: %s is missing or differs", pod.Name, dir, line)
		}
		delete(got, line)
	}
	for line := range got {
		t.Errorf("pod %s: %s: %s is not of the model", pod.Name, dir, line)
	}
}

// podLogs is what a pod's container printed. A kubelet that has just started does not know its pods yet.
func podLogs(t *testing.T, pod *corev1.Pod) string {
	t.Helper()
	var data []byte
	eventually(t, "the log of pod "+pod.Name, func(ctx context.Context) (err error) {
		data, err = env.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
		return err
	})
	return string(data)
}

// poll calls check until it returns nil, and returns its last error after the limit.
func poll(ctx context.Context, limit time.Duration, check func(context.Context) error) error {
	deadline := time.Now().Add(limit)
	for {
		err := check(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %s: %w", limit, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// eventually waits for something that takes seconds, and fails the test when it does not come.
func eventually(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	if err := poll(t.Context(), limit, check); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}
