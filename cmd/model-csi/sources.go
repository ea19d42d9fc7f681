package main

import (
	"log/slog"

	"github.com/model-csi/model-csi/pkg/format"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pull"
	"github.com/model-csi/model-csi/pkg/source"
	"github.com/model-csi/model-csi/pkg/source/hub"
	"github.com/model-csi/model-csi/pkg/source/modelregistry"
	"github.com/model-csi/model-csi/pkg/source/registry"
)

// sourceOptions are what an operator, or a person at a terminal, says about where models come from.
type sourceOptions struct {
	// configDir has hosts.toml directories; empty means none.
	configDir string
	// hubEndpoint answers for the Hugging Face Hub; empty means the Hub itself.
	hubEndpoint string
	// modelRegistryURL is the model registry of references that name none; may be empty.
	modelRegistryURL string
	// blockedAddresses, proxies and maxManifest are those of registry.Options, and hold for every source.
	blockedAddresses string
	proxies          registry.Proxies
	maxManifest      int64
	// plainHTTP and interactive are those of registry.Options, for a person at a terminal.
	plainHTTP, interactive bool
	// mirrors has the node's credentials for mirrors; nil means none.
	mirrors model.Keychain
}

// modelSources are all that serve models, by the scheme of references.
type modelSources struct {
	mux       source.Mux
	resolvers map[string]pull.Resolver
}

// newModelSources makes them. The daemon and the commands at a terminal read models in the same way.
func newModelSources(o sourceOptions, log *slog.Logger) (modelSources, error) {
	registries, err := registry.New(registry.Options{
		ConfigDir: o.configDir, Select: selectManifest,
		UserAgent: "model-csi/" + buildVersion(), Logger: log,
		BlockedAddresses: o.blockedAddresses, Proxies: o.proxies, MaxManifest: o.maxManifest, MirrorKeychain: o.mirrors,
		PlainHTTP: o.plainHTTP, Interactive: o.interactive,
	})
	if err != nil {
		return modelSources{}, err
	}
	hubs, err := hub.New(hub.Options{
		Endpoint: o.hubEndpoint, Transport: registries.Transport, UserAgent: "model-csi/" + buildVersion(), Logger: log,
	})
	if err != nil {
		return modelSources{}, err
	}
	names, err := modelregistry.New(modelregistry.Options{
		URL: o.modelRegistryURL, Transport: registries.Transport, UserAgent: "model-csi/" + buildVersion(),
	})
	if err != nil {
		return modelSources{}, err
	}
	return modelSources{
		// Ollama's hosts speak the protocol of registries.
		mux:       source.Mux{model.SchemeOCI: registries, model.SchemeOllama: registries, model.SchemeHub: hubs},
		resolvers: map[string]pull.Resolver{model.SchemeModelRegistry: names},
	}, nil
}

// selectManifest lets the formats choose from an index on behalf of the registry.
func selectManifest(index []byte, want model.Selection) (source.Choice, error) {
	c, err := format.Select(index, "", want)
	return source.Choice(c), err
}
