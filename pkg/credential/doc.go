// Package credential knows who asks: it turns the secrets of a pod and the node's docker config into keychains.
//
// A keychain lists what its owner may use for one reference, best first. [ForPod] reads the secret that a pod names in
// nodePublishSecretRef, [FromDockerConfig] reads a file that the node's operator maintains, and [Chain] asks several in
// turn. Registries are matched as kubelet matches image pull secrets. Nothing here is logged or written to disk, and
// errors name keys and files, never values.
//
// Credential helpers (credsStore, credHelpers) are not run: they are programs of somebody's workstation.
package credential
