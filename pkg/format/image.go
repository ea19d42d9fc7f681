package format

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/model-csi/model-csi/pkg/model"
)

var image = format{
	name: "image",
	reads: "OCI and Docker images: the whole root file system as a Kubernetes image volume shows it; " +
		"KServe modelcars, olot, AIKit and RamaLama images; zstd:chunked and eStargz",
	detect: isImage,
	parse: func(m *manifest) (Plan, error) {
		p := Plan{RootFS: true}
		for i := range m.Layers {
			l := Layer{Blob: m.Layers[i].blob(), MediaType: m.Layers[i].MediaType, Archive: true}
			p.Layers = append(p.Layers, l)
		}
		return p, nil
	},
}

// imageConfig has the fields of an image's config that tell what the image is.
type imageConfig struct {
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
	Config struct {
		Labels map[string]string `json:"Labels"`
	} `json:"config"`
}

// isImage tells an image from an artifact that borrowed an image's media types: its config decides, and files that
// ORAS pushed have titles, which among images only olot's layers have.
func isImage(m *manifest) bool {
	if m.Config.MediaType != specs.MediaTypeImageConfig && m.Config.MediaType != typeDockerConfig {
		return false
	}
	for _, l := range m.Layers {
		if !isImageLayer(l.MediaType) {
			return false
		}
		if l.Annotations[annotationTitle] != "" && !hasKeyPrefix(l.Annotations, "olot.") {
			return false
		}
	}
	var c imageConfig
	return m.config == nil || json.Unmarshal(m.config, &c) == nil && len(c.RootFS.DiffIDs) > 0
}

// systemDirs are the directories at the root of Linux images that hold no model.
var systemDirs = []string{
	"bin", "boot", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "media", "mnt", "opt", "proc", "root", "run",
	"sbin", "srv", "sys", "tmp", "usr", "var",
}

// ModelDir finds the directory of an image's tree that holds the model, "" for the root. want is what the user asks
// for, "" for nothing and "/" for the root; it must exist. Otherwise /models is taken, then the root of an image that
// RamaLama marks as holding nothing but a model, then /data, then the root of an image without a system, then the only
// directory at the root that no system has. It fails with model.ErrNotFound and lists the root where none applies.
func ModelDir(t model.Tree, config []byte, want string) (string, error) {
	if want != "" {
		dir := strings.Trim(want, "/")
		if dir == "" {
			return "", nil
		}
		return dir, isDir(t, dir)
	}
	if isDir(t, "models") == nil {
		return "models", nil
	}
	var c imageConfig
	_ = json.Unmarshal(config, &c)
	if c.Config.Labels["org.containers.type"] == "ai.image.model.raw" {
		return "", nil
	}
	if isDir(t, "data") == nil {
		return "data", nil
	}
	var system, other, files, names []string
	seen := map[string]bool{}
	for _, f := range t {
		name, _, below := strings.Cut(f.Path, "/")
		if seen[name] {
			continue
		}
		seen[name] = true
		names = append(names, name)
		switch {
		case slices.Contains(systemDirs, name):
			system = append(system, name)
		case below || f.Mode.IsDir():
			other = append(other, name)
		default:
			files = append(files, name)
		}
	}
	switch {
	case len(system) == 0 && len(files) > 0:
		return "", nil
	case len(other) == 1:
		return other[0], nil
	}
	slices.Sort(names)
	return "", fmt.Errorf("the image has no /models directory; set subPath to the one that holds the model, or to / for the whole image: it has %s: %w",
		clip(strings.Join(names, ", ")), model.ErrNotFound)
}

func isDir(t model.Tree, dir string) error {
	f, ok := t.Lookup(dir)
	if !ok || !f.Mode.IsDir() {
		return fmt.Errorf("there is no directory %q in the image: %w", dir, model.ErrNotFound)
	}
	return nil
}
