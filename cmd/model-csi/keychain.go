package main

import (
	"fmt"
	"log/slog"

	"k8s.io/klog/v2"

	"github.com/model-csi/model-csi/pkg/config"
	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/credential/kube"
	"github.com/model-csi/model-csi/pkg/credential/provider"
	"github.com/model-csi/model-csi/pkg/model"
)

// sources are where credentials come from, besides the secret that a volume names itself. What is not configured is nil.
type sources struct {
	pullSecrets func(credential.Caller) model.Keychain
	providers   provider.Providers
	node        model.Keychain
}

// newSources reads the configuration of all of them, so that a mistake in it is found at the start. Nobody is asked yet.
func newSources(c config.Config, log *slog.Logger) (sources, error) {
	var s sources
	var client *kube.Client
	if c.PullSecretNamespaces != "" || c.CredentialProviderConfig != "" {
		klog.SetSlogLogger(log) // the Kubernetes client logs to it
		var err error
		client, err = kube.InCluster(kube.Options{Node: c.NodeID, UserAgent: "model-csi/" + buildVersion()})
		if err != nil && c.PullSecretNamespaces != "" {
			return s, err
		}
	}
	if c.PullSecretNamespaces != "" {
		s.pullSecrets = client.PullSecrets(c.PullSecretNamespaces.Items())
		log.Info("image pull secrets are used", "namespaces", c.PullSecretNamespaces)
	}
	if c.CredentialProviderConfig != "" {
		var o provider.Options
		if client != nil {
			o.ServiceAccounts = client
		}
		var err error
		if s.providers, err = provider.Load(c.CredentialProviderConfig, c.CredentialProviderBinDir, o); err != nil {
			return s, err
		}
		log.Info("credential providers are used", "providers", s.providers.Names(), "audiences", s.providers.Audiences())
		if client == nil && s.providers.WantAnnotations() {
			log.Warn("credential providers that want annotations of service accounts have no API server to read them from")
		}
	}
	if c.DockerConfig != "" {
		registries, err := credential.ParsePatterns(c.DockerConfigRegistries.Items())
		if err != nil {
			return s, fmt.Errorf("docker-config-registries: %w", err)
		}
		s.node = credential.Restrict(credential.FromDockerConfig(c.DockerConfig), registries)
	}
	return s, nil
}

// keychain lists the caller's credentials: those that the pod names for this volume come first, what the node lends to
// every pod comes last.
func (s sources) keychain(caller credential.Caller) (model.Keychain, error) {
	pod, err := credential.ForPod(caller.Secrets)
	if err != nil {
		return nil, err
	}
	list := []model.Keychain{pod}
	if s.pullSecrets != nil {
		list = append(list, s.pullSecrets(caller))
	}
	return credential.Chain(append(list, s.providers.Keychain(caller), s.node)...), nil
}
