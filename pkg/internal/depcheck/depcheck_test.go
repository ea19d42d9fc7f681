// Package depcheck proves the import arrows of docs/architecture.md over whole builds. The linter shows the line of a
// wrong import; this test also sees what arrives through others, and needs nothing but the go command.
package depcheck

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/model-csi/model-csi"

// arrows lists which packages of this module each package may import, besides pkg/model and pkg/internal. A package that
// is missing here fails the test: a new package has to say where it stands.
var arrows = map[string][]string{
	"pkg/admin":                {"pkg/pull", "pkg/store"},
	"pkg/model":                nil,
	"pkg/config":               nil,
	"pkg/credential":           nil,
	"pkg/credential/kube":      {"pkg/credential"},
	"pkg/credential/provider":  {"pkg/credential"},
	"pkg/format":               nil,
	"pkg/grant":                nil,
	"pkg/ingest":               nil,
	"pkg/mount":                nil,
	"pkg/mount/mounttest":      {"pkg/mount"},
	"pkg/inspect":              nil,
	"pkg/pack":                 {"pkg/inspect"},
	"pkg/policy":               nil,
	"pkg/source":               nil,
	"pkg/source/hub":           {"pkg/source", "pkg/source/wire"},
	"pkg/source/hub/hubtest":   nil,
	"pkg/source/modelregistry": {"pkg/source", "pkg/source/wire"},
	"pkg/source/registry":      {"pkg/source", "pkg/source/wire"},
	"pkg/source/wire":          {"pkg/source"},
	"pkg/source/sourcetest":    {"pkg/source"},
	"pkg/store":                nil,
	"pkg/store/storetest":      {"pkg/store"},
	"pkg/telemetry":            {"pkg/pull", "pkg/store"},
	"pkg/trust":                nil,
	"pkg/view":                 nil,
	"pkg/pull":                 {"pkg/format", "pkg/grant", "pkg/ingest", "pkg/source", "pkg/store", "pkg/trust"},
	"pkg/driver":               {"pkg/credential", "pkg/mount", "pkg/pull", "pkg/store", "pkg/view"},
	"pkg/driver/sanitytest":    nil,
}

// owners lists the modules that only some packages may import directly, and why.
var owners = []struct {
	prefix string
	by     []string
	why    string
}{
	{"oras.land/oras-go", []string{"pkg/source/registry"}, "only pkg/source/registry speaks to registries"},
	{"google.golang.org/grpc", []string{"pkg/driver"}, "only the driver knows gRPC"},
	{"github.com/container-storage-interface", []string{"pkg/driver"}, "only the driver knows CSI"},
	{"k8s.io/kubelet/pkg/apis/pluginregistration", []string{"pkg/driver"}, "only the driver registers itself with kubelet"},
	{"k8s.io/kubelet", []string{"pkg/driver", "pkg/credential/provider"}, "only the driver knows kubelet, and pkg/credential/provider its credential providers"},
	{"github.com/prometheus", []string{"pkg/telemetry"}, "only telemetry knows Prometheus"},
	{"k8s.io/client-go", []string{"pkg/telemetry", "pkg/credential/kube"}, "only telemetry speaks to the API server, for events, and pkg/credential/kube, for pull secrets"},
	{"github.com/spf13/cobra", nil, "the command line belongs to cmd"},
	{"github.com/spf13/pflag", []string{"pkg/config"}, "the command line belongs to cmd, its flags to config"},
	{module + "/pkg/config", nil, "only cmd reads the configuration"},
}

// modelDependencies is all that pkg/model may pull in, directly or not.
var modelDependencies = []string{"github.com/opencontainers/go-digest", "github.com/agext/levenshtein", module + "/" + modelHelper}

// modelHelper is the one private helper of pkg/model: what a wrong scheme was probably meant to be.
const modelHelper = "pkg/internal/nearest"

// goPackage is what `go list -json` says of a package.
type goPackage struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

func list(t *testing.T, args ...string) map[string]goPackage {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), "go", append([]string{"list", "-json=ImportPath,Standard,Imports,Deps"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	packages := map[string]goPackage{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
}

// own returns the path of a package inside the module; ok is false for packages of others.
func own(importPath string) (name string, ok bool) {
	return strings.CutPrefix(importPath, module+"/")
}

func mayImport(from, to string) bool {
	return to == "pkg/model" && from != "pkg/model" || strings.HasPrefix(to, "pkg/internal/") && (from != "pkg/model" || to == modelHelper) ||
		slices.Contains(arrows[from], to)
}

func TestArrows(t *testing.T) {
	checked := 0
	for importPath, p := range list(t, module+"/...") {
		from, ok := own(importPath)
		if !ok || strings.HasPrefix(from, "cmd/") {
			continue // cmd joins everything
		}
		checked++
		internal := strings.HasPrefix(from, "pkg/internal/")
		if _, known := arrows[from]; !known && !internal {
			t.Errorf("%s is not in the list of arrows: say what it may import", importPath)
			continue
		}
		for _, imported := range p.Imports {
			to, ok := own(imported)
			switch {
			case !ok:
			case internal && !strings.HasPrefix(to, "pkg/internal/"):
				t.Errorf("%s imports %s: private helpers know nothing of the product", importPath, imported)
			case !internal && !mayImport(from, to):
				t.Errorf("%s imports %s: arrows point down, and siblings do not import each other", importPath, imported)
			}
		}
	}
	if checked == 0 {
		t.Fatal("no package was checked")
	}
}

func TestOwners(t *testing.T) {
	for importPath, p := range list(t, module+"/...") {
		from, _ := own(importPath)
		if strings.HasPrefix(from, "cmd/") {
			continue
		}
		for _, imported := range p.Imports {
			for _, o := range owners {
				if !within(imported, o.prefix) || within(importPath, o.prefix) {
					continue
				}
				if !slices.ContainsFunc(o.by, func(by string) bool { return within(from, by) }) {
					t.Errorf("%s imports %s: %s", importPath, imported, o.why)
				}
			}
		}
	}
}

func TestModelStandsAlone(t *testing.T) {
	for importPath, p := range list(t, "-deps", module+"/pkg/model") {
		if p.Standard || importPath == path.Join(module, "pkg/model") || slices.Contains(modelDependencies, importPath) {
			continue
		}
		t.Errorf("pkg/model depends on %s; it may depend on the standard library and %v only", importPath, modelDependencies)
	}
}

// within reports whether the import path is the prefix or below it.
func within(importPath, prefix string) bool {
	return importPath == prefix || strings.HasPrefix(importPath, prefix+"/")
}
