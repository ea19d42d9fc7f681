// Package provider asks kubelet's image credential provider plugins for credentials: the programs that turn what a node
// is, or a pod's service account token, into a password for a cloud's registry.
//
// A CredentialProviderConfig (kubelet.config.k8s.io/v1) lists the providers, and for which images each is asked. A
// provider is a program: it reads a CredentialProviderRequest from its standard input, and writes a
// CredentialProviderResponse to its standard output, both of credentialprovider.kubelet.k8s.io/v1. The files are those
// that kubelet has in --image-credential-provider-config and --image-credential-provider-bin-dir, and they work here as
// they do there, with these differences: a provider gets a small environment instead of all of the plugin's, it has to
// lie in the directory of providers also when links are followed, it has less time, and what it may write is bounded.
//
// What a provider answers is kept in memory alone, for as long as it says. Errors name the provider and show the
// beginning of its standard error; its standard output, which holds the credentials, is never shown.
package provider
