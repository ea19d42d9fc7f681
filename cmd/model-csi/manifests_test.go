//go:build linux

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/model-csi/model-csi/pkg/config"
	"github.com/model-csi/model-csi/pkg/driver"
)

var (
	yamlBlock = regexp.MustCompile("(?s)\n```yaml\n(.*?)```")
	separator = regexp.MustCompile(`(?m)^---$`)
)

// TestManifests: the plugin accepts the volumes of every manifest that is shown to users. What the API server makes of
// whole manifests is tested end to end.
func TestManifests(t *testing.T) {
	c, err := config.Default()
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"../../README.md", "../../docs/*.md", "../../charts/*/*.md", "../../deploy/examples/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			texts := []string{string(data)}
			if filepath.Ext(file) == ".md" {
				texts = nil
				for _, m := range yamlBlock.FindAllStringSubmatch(string(data), -1) {
					texts = append(texts, m[1])
				}
			}
			volumes := 0
			for _, text := range texts {
				for _, document := range separator.Split(text, -1) {
					var v any
					if err := yaml.UnmarshalStrict([]byte(document), &v); err != nil {
						t.Errorf("%s: %v in\n%s", file, err, document)
					}
					for _, attributes := range volumesOf(v, c.DriverName) {
						volumes++
						if _, err := driver.ParseAttributes(c.DriverName, attributes); err != nil {
							t.Errorf("%s: %v in\n%s", file, err, document)
						}
					}
				}
			}
			if filepath.Ext(file) == ".yaml" && volumes == 0 {
				t.Errorf("%s has no volume of the plugin", file)
			}
		}
	}
}

// volumesOf finds the attributes of the driver's volumes, however deep they are.
func volumesOf(v any, driver string) (out []map[string]string) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			out = append(out, volumesOf(e, driver)...)
		}
	case map[string]any:
		if attributes, ok := v["volumeAttributes"].(map[string]any); ok && v["driver"] == driver {
			texts := map[string]string{}
			for key, value := range attributes {
				texts[key], _ = value.(string) // what is no text the API server refuses
			}
			out = append(out, texts)
		}
		for _, e := range v {
			out = append(out, volumesOf(e, driver)...)
		}
	}
	return out
}
