package driver

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/model-csi/model-csi/pkg/internal/nearest"
	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pull"
)

// The attributes of a volume, as users write them.
const (
	attrReference  = "reference"
	attrPullPolicy = "pullPolicy"
	attrInclude    = "include"
	attrExclude    = "exclude"
	attrSubPath    = "subPath"
	attrExec       = "exec"
	attrVariant    = "variant"
	attrLayout     = "layout"
	attrLayoutName = "layoutName"
	attrMounts     = "mounts"
)

var attributeNames = []string{
	attrReference, attrPullPolicy, attrInclude, attrExclude, attrSubPath, attrExec, attrVariant, attrLayout, attrLayoutName, attrMounts,
}

const (
	// podInfoPrefix is Kubernetes' own. Kubelet writes the pod's name and so on over whatever a user wrote there.
	podInfoPrefix = "csi.storage.k8s.io/"
	podName       = podInfoPrefix + "pod.name"
	podNamespace  = podInfoPrefix + "pod.namespace"
	podUID        = podInfoPrefix + "pod.uid"
	// podServiceAccount is the name of the pod's service account.
	podServiceAccount = podInfoPrefix + "serviceAccount.name"
	// podTokens carries the pod's service account tokens in the secrets of a call, where the CSIDriver object says
	// serviceAccountTokenInSecrets. Anybody who may create a pod can write the attribute, so there it proves nothing.
	podTokens = podInfoPrefix + "serviceAccount.tokens"
	// provisionerIdentity is written into PersistentVolumes by external-provisioner, and copied from there by people.
	provisionerIdentity = "storage.kubernetes.io/csiProvisionerIdentity"

	// maxAttribute bounds the length of one value in bytes. CSI grants 4 KiB to the whole map.
	maxAttribute = 4096
)

// Attributes are what a volume asks for.
type Attributes struct {
	Ref    model.Ref
	Policy pull.Policy // empty when not given
	// Include and Exclude are patterns of paths.
	Include, Exclude []string
	// Variant selects where the reference leads to several manifests.
	Variant model.Selection
	// Layout arranges the files, and LayoutName names the model in it, where the layout has names.
	Layout     pull.Layout
	LayoutName string
	// Mounts are further references in the same volume.
	Mounts []pull.Mount
	// SubPath is the directory of the model to show, in clean form; empty for the whole model.
	SubPath string
	// Exec allows executing programs from the volume.
	Exec bool
	// Pod is namespace/name; empty when kubelet did not tell.
	Pod string

	fingerprint string
}

// request is what to pull for a volume, but for who asks.
func (a Attributes) request() pull.Request {
	return pull.Request{
		Ref: a.Ref, Policy: a.Policy, Want: a.Variant, Include: a.Include, Exclude: a.Exclude,
		Layout: a.Layout, LayoutName: a.LayoutName, Mounts: a.Mounts,
	}
}

// Fingerprint is the same text for two volumes that ask for the same. It is stored, so it must not change between
// releases: an attribute that is not given leaves no trace in it, and new attributes are added at the end.
func (a Attributes) Fingerprint() string { return a.fingerprint }

// ParseAttributes reads a volume context. Every attribute may be written as it is or with the driver's name and a slash
// in front. Errors wrap model.ErrInvalid and name the attribute and what is accepted.
func ParseAttributes(driver string, context map[string]string) (Attributes, error) {
	if err := checkKubernetesKeys(context); err != nil {
		return Attributes{}, err
	}
	values := make(map[string]string, len(context))
	for _, key := range slices.Sorted(maps.Keys(context)) {
		if strings.HasPrefix(key, podInfoPrefix) || key == provisionerIdentity {
			continue
		}
		name := strings.TrimPrefix(key, driver+"/")
		if !slices.Contains(attributeNames, name) {
			return Attributes{}, invalidAttribute(shorten(key), "is not known; did you mean %q?", nearest.Of(name, attributeNames))
		}
		if _, twice := values[name]; twice {
			return Attributes{}, invalidAttribute(name, "is given twice, also as %q; remove one", driver+"/"+name)
		}
		if len(context[key]) > maxAttribute {
			return Attributes{}, invalidAttribute(name, "is longer than %d bytes", maxAttribute)
		}
		if strings.ContainsRune(context[key], 0) {
			return Attributes{}, invalidAttribute(name, "contains a NUL byte")
		}
		values[name] = context[key]
	}
	a, err := parseValues(values)
	if err != nil {
		return Attributes{}, err
	}
	if context[podNamespace] != "" && context[podName] != "" {
		a.Pod = context[podNamespace] + "/" + context[podName]
	}
	return a, nil
}

func checkKubernetesKeys(context map[string]string) error {
	if _, ok := context[podTokens]; ok {
		return invalidAttribute(podTokens, "is not accepted: tokens in volume attributes prove nothing; use nodePublishSecretRef for credentials, and serviceAccountTokenInSecrets in a CSIDriver object with tokenRequests")
	}
	return nil
}

func parseValues(values map[string]string) (a Attributes, err error) {
	reference, ok := values[attrReference]
	if !ok {
		return a, invalidAttribute(attrReference, "is required, for example registry.example.com/models/qwen3:8b")
	}
	if a.Ref, err = model.ParseRef(reference); err != nil {
		return a, err
	}
	if a.Policy, err = pull.ParsePolicy(values[attrPullPolicy]); err != nil {
		return a, fmt.Errorf("volume attribute %q: %w", attrPullPolicy, err)
	}
	if a.Include, err = pull.ParsePatterns(values[attrInclude]); err != nil {
		return a, fmt.Errorf("volume attribute %q: %w", attrInclude, err)
	}
	if a.Exclude, err = pull.ParsePatterns(values[attrExclude]); err != nil {
		return a, fmt.Errorf("volume attribute %q: %w", attrExclude, err)
	}
	if a.Variant, err = model.ParseSelection(values[attrVariant]); err != nil {
		return a, fmt.Errorf("volume attribute %q: %w", attrVariant, err)
	}
	if err := a.parsePresentation(values); err != nil {
		return a, err
	}
	if exec, ok := values[attrExec]; ok {
		if exec != "true" && exec != "false" {
			return a, invalidAttribute(attrExec, `is %q; write "true" or "false"`, shorten(exec))
		}
		a.Exec = exec == "true"
	}
	a.fingerprint, err = fingerprint(a)
	return a, err
}

// parsePresentation reads what decides where in the volume the files are.
func (a *Attributes) parsePresentation(values map[string]string) (err error) {
	if a.Layout, err = pull.ParseLayout(values[attrLayout]); err != nil {
		return fmt.Errorf("volume attribute %q: %w", attrLayout, err)
	}
	a.LayoutName = values[attrLayoutName]
	if a.LayoutName != "" && a.Layout == pull.LayoutFlat {
		return invalidAttribute(attrLayoutName, "is for volumes with a %s that has names: %q or %q", attrLayout, pull.LayoutHub, pull.LayoutOllama)
	}
	if a.Mounts, err = pull.ParseMounts(values[attrMounts]); err != nil {
		return fmt.Errorf("volume attribute %q: %w", attrMounts, err)
	}
	if err := a.request().Check(); err != nil {
		return fmt.Errorf("volume attributes: %w", err)
	}
	if sub := values[attrSubPath]; sub != "" {
		if a.SubPath, err = model.CleanPath(sub); err != nil {
			return fmt.Errorf("volume attribute %q: %w", attrSubPath, err)
		}
	}
	return nil
}

// fingerprint is JSON because a stored one can then be read by a person, and by a later release that needs to.
func fingerprint(a Attributes) (string, error) {
	var mounts []string
	for _, m := range a.Mounts {
		mounts = append(mounts, m.Path+"="+m.Ref.String())
	}
	text, err := json.Marshal(struct {
		Reference string      `json:"reference"`
		Policy    pull.Policy `json:"pullPolicy,omitempty"`
		Include   []string    `json:"include,omitempty"`
		Exclude   []string    `json:"exclude,omitempty"`
		SubPath   string      `json:"subPath,omitempty"`
		Exec      bool        `json:"exec,omitempty"`
		Variant   string      `json:"variant,omitempty"`
		Layout    pull.Layout `json:"layout,omitempty"`
		Name      string      `json:"layoutName,omitempty"`
		Mounts    []string    `json:"mounts,omitempty"`
	}{
		a.Ref.String(), a.Policy, a.Include, a.Exclude, a.SubPath, a.Exec,
		a.Variant.String(), a.Layout, a.LayoutName, mounts,
	})
	return string(text), err
}

func invalidAttribute(name, format string, args ...any) error {
	return fmt.Errorf("volume attribute %q %s: %w", name, fmt.Sprintf(format, args...), model.ErrInvalid)
}

// shorten keeps a user's text from filling an error.
func shorten(s string) string {
	const limit = 100
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit], "") + "..."
}
