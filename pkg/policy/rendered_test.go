package policy

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"sigs.k8s.io/yaml"
)

var rendered = flag.String("rendered", "", "manifests whose policy must load")

// TestRendered loads the policy of manifests that the chart was rendered into, if they have one.
func TestRendered(t *testing.T) {
	manifests := []byte("kind: ConfigMap\ndata: {policy.yaml: 'defaults: {maxFiles: 1e+06}'}\n")
	if *rendered != "" {
		var err error
		if manifests, err = os.ReadFile(*rendered); err != nil {
			t.Fatal(err)
		}
	}
	for document := range bytes.SplitSeq(manifests, []byte("\n---\n")) {
		var object struct {
			Data map[string]string `json:"data"`
		}
		if err := yaml.Unmarshal(document, &object); err != nil {
			t.Fatal(err)
		}
		if text, ok := object.Data["policy.yaml"]; ok {
			if _, err := Parse([]byte(text)); err != nil {
				t.Errorf("%v: %s", err, text)
			}
		}
	}
}
