// Package credential knows who asks: it turns the secrets of a pod and the node's docker config into keychains.
//
// A keychain lists what its owner may use for one reference, best first. [ForPod] reads the secret that a pod names in
// nodePublishSecretRef, [FromDockerConfig] reads a file that the node's operator maintains, and [Chain] asks several.
// The packages below this one know further sources: the API server, and kubelet's credential provider plugins. What a
// source may know of the pod is in a [Caller], which holds nothing that the pod's author could have made up.
//
// Registries are matched as kubelet matches image pull secrets; a [Pattern] says which are meant, and [Restrict] keeps a
// keychain to them. Nothing here is logged or written to disk, and errors name keys and files, never values. Every
// credential has a name that says where it came from: nodePublishSecretRef, secret NAME of namespace NAMESPACE, credential
// provider NAME, node docker config.
//
// Credential helpers (credsStore, credHelpers) are not run: they are programs of somebody's workstation.
package credential
