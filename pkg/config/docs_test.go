package config

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

var (
	update   = flag.Bool("update", false, "write the table of settings into the documentation")
	rendered = flag.String("rendered", manifests, "manifests whose configuration must load")
)

const (
	documentation = "../../docs/operations.md"
	manifests     = "../../deploy/model-csi.yaml"
)

// table is the settings as the documentation shows them.
func table() string {
	var b strings.Builder
	b.WriteString("| key | kind | default | meaning |\n| --- | --- | --- | --- |\n")
	defaults := base()
	for _, s := range settings {
		value := s.read(&defaults)
		switch {
		case value != "":
			value = "`" + value + "`"
		case s.absent != "":
			value = s.absent
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", s.key, cell(s.kind), cell(value), cell(s.help))
	}
	return b.String()
}

// cell keeps a text inside its column, and angle brackets from being taken for HTML.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "<", `\<`).Replace(s)
}

func TestDocumentation(t *testing.T) {
	const begin, end = "<!-- begin settings -->\n", "<!-- end settings -->\n"
	text, err := os.ReadFile(documentation)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	old, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no markers for the settings", documentation)
	}
	if old == table() {
		return
	}
	if !*update {
		t.Fatalf("the table of settings in %s is out of date: run make generate", documentation)
	}
	if err := os.WriteFile(documentation, []byte(before+begin+table()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// deployed returns the configuration file that the ConfigMap of some manifests holds.
func deployed(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var object struct {
			Kind string            `json:"kind"`
			Data map[string]string `json:"data"`
		}
		if err := yaml.Unmarshal(document, &object); err != nil {
			t.Fatal(err)
		}
		if config, ok := object.Data["config.yaml"]; ok && object.Kind == "ConfigMap" {
			return config
		}
	}
	t.Fatalf("%s has no configuration", file)
	return ""
}

// TestRendered loads the configuration of manifests that the chart was rendered into, whatever its values were.
func TestRendered(t *testing.T) {
	if _, err := fromFile(write(t, deployed(t, *rendered))); err != nil {
		t.Error(err)
	}
}

// TestDeployedConfiguration compares the configuration of the chart with the defaults of this package: it speaks of every
// setting, and differs only where that makes sense in a pod.
func TestDeployedConfiguration(t *testing.T) {
	text := deployed(t, manifests)
	var keys map[string]any
	if err := yaml.Unmarshal([]byte(text), &keys); err != nil {
		t.Fatal(err)
	}
	// The node's name comes from the pod, the others are there only when they are used.
	elsewhere := map[string]bool{
		"policy-file": true,
		"node-id":     true, "registry-config-dir": true, "docker-config": true, "docker-config-registries": true,
		"pull-secret-namespaces": true, "credential-provider-config": true, "credential-provider-bin-dir": true,
	}
	for _, s := range settings {
		if _, ok := keys[s.key]; !ok && !elsewhere[s.key] {
			t.Errorf("the chart does not set %s", s.key)
		}
	}
	got, err := fromFile(write(t, text))
	if err != nil {
		t.Fatal(err)
	}
	want, err := Default()
	if err != nil {
		t.Fatal(err)
	}
	want.RegistrationDir = "/var/lib/kubelet/plugins_registry"
	want.LogFormat = LogJSON
	want.HTTPAddress = ":9808"
	if got != want {
		t.Errorf("the chart's defaults are\n%+v, want\n%+v", got, want)
	}
}
