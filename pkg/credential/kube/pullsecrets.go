package kube

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
)

// AllNamespaces stands for every namespace in a list of them.
const AllNamespaces = "*"

// maxPullSecrets is more than any pod has; each costs a request.
const maxPullSecrets = 16

// PullSecrets returns the keychains of callers: the image pull secrets of the pod, then those of its service account. A
// pod outside of the namespaces has none, and nothing is asked about it.
//
// The pod is found by its name and believed by its UID, so that a pod that was deleted lends its secrets to nobody. A
// secret that is missing or damaged takes nothing from the others: it becomes an error beside what they have.
func (c *Client) PullSecrets(namespaces []string) func(credential.Caller) model.Keychain {
	return func(caller credential.Caller) model.Keychain {
		if !slices.Contains(namespaces, AllNamespaces) && !slices.Contains(namespaces, caller.Namespace) {
			return model.Anonymous{}
		}
		return pullSecrets{c, caller}
	}
}

type pullSecrets struct {
	client *Client
	caller credential.Caller
}

// Credentials implements model.Keychain.
func (p pullSecrets) Credentials(ctx context.Context, ref model.Ref) ([]model.Credential, error) {
	if ref.Authority() != ref.Registry {
		return nil, nil // image pull secrets are for registries
	}
	ctx, cancel := context.WithTimeout(ctx, p.client.opts.Timeout)
	defer cancel()
	names, err := p.names(ctx)
	if err != nil {
		err = fmt.Errorf("image pull secrets of pod %s: %w", p.caller, err)
	}
	var out []model.Credential
	broken := []error{err}
	for _, name := range names {
		creds, err := p.read(ctx, name, ref)
		out, broken = append(out, creds...), append(broken, err)
		if errors.Is(err, model.ErrUnavailable) {
			break // the others would only take as long
		}
	}
	return out, errors.Join(broken...)
}

// names lists the secrets. Both may be there: names, and an error about those that are not.
func (p pullSecrets) names(ctx context.Context) ([]string, error) {
	who := p.caller
	if who.Pod == "" || who.Namespace == "" || who.UID == "" {
		return nil, fmt.Errorf("it is not known which pod asks; for volumes the CSIDriver object needs podInfoOnMount: true: %w", model.ErrUnsupported)
	}
	pod, err := p.client.pod(ctx, who.Namespace, who.Pod)
	if err != nil {
		return nil, err
	}
	if node := p.client.opts.Node; string(pod.UID) != who.UID || node != "" && pod.Spec.NodeName != node {
		return nil, fmt.Errorf("the pod of that name is another one now (UID %s on node %s): %w", pod.UID, pod.Spec.NodeName, model.ErrNotFound)
	}
	names := add(nil, pod.Spec.ImagePullSecrets)
	if pod.Spec.ServiceAccountName != "" {
		account, err := p.client.serviceAccount(ctx, who.Namespace, pod.Spec.ServiceAccountName)
		if err != nil {
			return names, fmt.Errorf("service account %s: %w", pod.Spec.ServiceAccountName, err)
		}
		names = add(names, account.ImagePullSecrets)
	}
	if len(names) > maxPullSecrets {
		return names[:maxPullSecrets], fmt.Errorf("there are %d, of which the first %d are tried: %w", len(names), maxPullSecrets, model.ErrTooLarge)
	}
	return names, nil
}

func add(names []string, refs []corev1.LocalObjectReference) []string {
	for _, r := range refs {
		if r.Name != "" && !slices.Contains(names, r.Name) {
			names = append(names, r.Name)
		}
	}
	return names
}

func (p pullSecrets) read(ctx context.Context, name string, ref model.Ref) ([]model.Credential, error) {
	label := fmt.Sprintf("secret %s of namespace %s", name, p.caller.Namespace)
	secret, err := p.client.secret(ctx, p.caller.Namespace, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", label, err)
	}
	keychain, err := credential.FromSecret(label, string(secret.Type), secret.Data)
	if err != nil {
		return nil, err
	}
	return keychain.Credentials(ctx, ref)
}
