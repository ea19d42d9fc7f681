package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/model-csi/model-csi/test/e2e/product"
)

// twoNamespaces: a private model that one namespace has brought to the node is not served to another one that cannot
// prove that it may have it, by whatever name, and is served at once to it when it can.
func twoNamespaces(t *testing.T) {
	ours, theirs, files := namespace(t), namespace(t), newModel(70, 1<<20)
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

// pullSecrets: in the namespaces that the operator lists, image pull secrets are enough for a private model, and nowhere
// else. The plugin may read these secrets one by one, and no others.
func pullSecrets(t *testing.T) {
	listed, other, files := product.PullSecretsNamespace, namespace(t), newModel(71, 1<<20)
	reference := push(t, env.Private, "private/pull-secrets", files)
	waitServiceAccount(t, listed)
	registrySecret(t, listed, env.Private.Password)
	registrySecret(t, other, env.Private.Password)
	pullable := []corev1.LocalObjectReference{{Name: "registry"}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "puller", Namespace: listed}, ImagePullSecrets: pullable}
	if _, err := env.Client.CoreV1().ServiceAccounts(listed).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := func(ns, name string, secrets []corev1.LocalObjectReference) *corev1.Pod {
		p := newPod(ns, name, volume(reference))
		p.Spec.ImagePullSecrets = secrets
		return p
	}
	byAccount := pod(listed, "by-service-account", nil)
	byAccount.Spec.ServiceAccountName = account.Name

	running := []*corev1.Pod{create(t, pod(listed, "by-pod", pullable)), create(t, byAccount)}
	refused := []*corev1.Pod{create(t, pod(other, "not-listed", pullable)), create(t, pod(listed, "without", nil))}
	// The namespace stays, because the release has a role in it.
	t.Cleanup(func() {
		for _, p := range []*corev1.Pod{running[0], running[1], refused[1]} {
			if err := env.Client.CoreV1().Pods(listed).Delete(context.Background(), p.Name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
		}
	})
	for _, p := range running {
		checkModel(t, waitRunning(t, p, limit), files)
	}
	for _, p := range refused {
		t.Log(waitEvent(t, p, limit, "FailedMount", "Unauthenticated", reference, "nodePublishSecretRef"))
	}
	// What the event advises helps.
	source := volume(reference)
	source.CSI.NodePublishSecretRef = &pullable[0]
	checkModel(t, start(t, newPod(other, "as-advised", source)), files)

	plugin := "system:serviceaccount:" + product.Namespace + ":" + pluginPod(t).Spec.ServiceAccountName
	for _, c := range []struct {
		namespace, verb, resource string
		want                      bool
	}{
		{listed, "get", "secrets", true},
		{listed, "get", "pods", true},
		{listed, "list", "secrets", false},
		{listed, "watch", "secrets", false},
		{listed, "update", "secrets", false},
		{other, "get", "secrets", false},
		{other, "get", "pods", false},
		{product.Namespace, "get", "secrets", false},
		{"", "list", "pods", false},
	} {
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: plugin, ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: c.namespace, Verb: c.verb, Resource: c.resource},
		}}
		answer, err := env.Client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if answer.Status.Allowed != c.want {
			t.Errorf("may the plugin %s %s in namespace %q: %v, want %v", c.verb, c.resource, c.namespace, answer.Status.Allowed, c.want)
		}
	}
}

// policy: what a rule denies to one namespace is refused there, also as one of several models and when the node has it,
// and served to others.
func policy(t *testing.T) {
	restricted, free, files := namespaceCalled(t, metav1.ObjectMeta{Name: product.RestrictedNamespace}), namespace(t), newModel(72, 1<<20)
	denied := push(t, env.Public, "models/experimental/new", files)
	allowed := push(t, env.Public, "models/stable/new", files)
	before := env.Public.Total(blobs(files))
	fresh := create(t, newPod(restricted, "fresh", volume(denied)))
	words := []string{"FailedMount", "PermissionDenied", denied, "policy", fmt.Sprintf("deny %q of namespaces.%s", product.DeniedPattern, restricted)}
	t.Log(waitEvent(t, fresh, limit, words...))
	if after := env.Public.Total(blobs(files)); after != before {
		t.Errorf("the registry was asked for the blobs of a denied model: %+v, before %+v", after, before)
	}
	checkModel(t, start(t, newPod(free, "free", volume(denied))), files)
	waitEvent(t, create(t, newPod(restricted, "cached", volume(denied))), limit, words...)
	waitEvent(t, create(t, newPod(restricted, "beside", volume(allowed, "mounts", "new="+denied))), limit, words...)
	checkModel(t, start(t, newPod(restricted, "allowed", volume(allowed))), files)
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
