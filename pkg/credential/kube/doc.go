// Package kube is what the API server knows about a caller: the image pull secrets of a pod and of its service account,
// and the annotations of the service account.
//
// [Client] gets single objects by name, with a short time limit, and remembers them for seconds, so that a hundred pods
// that start at once do not become hundreds of questions. [Client.PullSecrets] makes keychains of it for the namespaces
// that an operator allows; reading secrets is a power that the plugin has only where it was given.
package kube
