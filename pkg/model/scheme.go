package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/internal/nearest"
)

// The schemes of references.
const (
	// SchemeOCI is the scheme of references that name no scheme.
	SchemeOCI = "oci"
	// SchemeOllama is the registry protocol with Ollama's names and defaults.
	SchemeOllama = "ollama"
	// SchemeHub is the Hugging Face Hub.
	SchemeHub = "hf"
	// SchemeModelRegistry is the Kubeflow Model Registry: a name for a reference of another scheme.
	SchemeModelRegistry = "model-registry"
)

const (
	// HubHost is the registry of every reference to the Hugging Face Hub, whatever mirror serves it.
	HubHost = "huggingface.co"

	ollamaHost      = "registry.ollama.ai"
	ollamaNamespace = "library"
	latest          = "latest"
)

// How references are written, for errors.
const (
	ociGrammar           = "registry/repository[:tag][@digest]"
	ollamaGrammar        = "ollama://[host/][namespace/]name[:tag]"
	hubGrammar           = "hf://[datasets/|spaces/]org/name[@revision]"
	modelRegistryGrammar = "model-registry://[host/]model[/version]"
)

// scheme is what sets the references of one scheme apart.
type scheme struct {
	// grammar is one of those above.
	grammar string
	// parse reads what follows "scheme://". It returns what is wrong, or "".
	parse func(rest string) (ref Ref, why string)
	// write is the reverse of parse, without the digest.
	write func(r Ref) string
	// untagged is what a reference without a tag asks for.
	untagged string
	// moving reports whether a tag is expected to mean something else later.
	moving func(tag string) bool
	// realm keeps names apart from those of registries; empty for registries.
	realm string
}

// schemes holds all of them. A new scheme is one entry here and one source in the plugin's table of sources.
var schemes = map[string]scheme{
	SchemeOCI: {
		grammar: ociGrammar, parse: parseOCI, write: writeTagged, untagged: latest, moving: latestMoves,
	},
	SchemeOllama: {
		grammar: ollamaGrammar, parse: parseOllama, write: writeTagged, untagged: latest, moving: latestMoves,
	},
	SchemeHub: {
		grammar: hubGrammar, parse: parseHub, write: writeHub, untagged: "main",
		// A tag looks like a branch, so only a commit stays what it is.
		moving: func(revision string) bool { return !IsCommit(revision) }, realm: SchemeHub,
	},
	SchemeModelRegistry: {
		grammar: modelRegistryGrammar, parse: parseModelRegistry, write: writeModelRegistry,
		moving: func(version string) bool { return version == "" }, realm: SchemeModelRegistry,
	},
}

// Schemes lists the schemes of references in alphabetical order.
func Schemes() []string { return slices.Sorted(maps.Keys(schemes)) }

// foreign says what to do with schemes that other tools use.
var foreign = map[string]string{
	"http":        "write the reference without http://; which registries are spoken to in plain HTTP is for the operator to say, in hosts.toml",
	"https":       "write the reference without https://: registries are spoken to over TLS anyway",
	"docker":      "write the reference without docker://, for example docker.io/library/name:tag",
	"huggingface": "use " + hubGrammar,
	"s3":          bucketAdvice,
	"gs":          bucketAdvice,
	"gcs":         bucketAdvice,
	"abfs":        bucketAdvice,
	"azure":       bucketAdvice,
	"pvc":         "a PersistentVolumeClaim is mounted by a volume of its own; nothing is gained by a copy",
	"file":        "paths of the node are not models; push the directory to a registry, for example with modctl or oras",
}

const bucketAdvice = "object stores are not read; push the model to a registry, for example with modctl or oras, and name that"

func unknownScheme(name string) string {
	if advice, ok := foreign[strings.ToLower(name)]; ok {
		return advice
	}
	near := nearest.Of(name, Schemes())
	return fmt.Sprintf("scheme %.40q is not known; did you mean %s? Write %s", name, near, schemes[near].grammar)
}
