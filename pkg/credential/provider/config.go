package provider

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	kubeletv1 "k8s.io/kubelet/config/v1"
	providerv1 "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
	"sigs.k8s.io/yaml"

	"github.com/model-csi/model-csi/pkg/credential"
	"github.com/model-csi/model-csi/pkg/model"
)

const (
	configKind    = "CredentialProviderConfig"
	configVersion = "kubelet.config.k8s.io/v1"
	// maxConfig is far above any configuration; a larger file is a wrong path.
	maxConfig = 1 << 20
	// maxFiles bounds a directory of configurations.
	maxFiles = 100
)

var requestVersion = providerv1.SchemeGroupVersion.String()

// settings is one provider of a configuration that was found to be sound.
type settings struct {
	kubeletv1.CredentialProvider
	images []credential.Pattern
}

// read reads the configuration: a file, or a directory whose *.json, *.yaml and *.yml files count in the order of their
// names, as they do for kubelet.
func read(path string) ([]settings, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("credential provider config: %w", err)
	}
	files := []string{path}
	if info.IsDir() {
		if files, err = filesOf(path); err != nil {
			return nil, err
		}
	}
	var all []settings
	for _, file := range files {
		text, err := readFile(file)
		if err != nil {
			return nil, fmt.Errorf("credential provider config: %w", err)
		}
		list, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("credential provider config %s: %w", file, err)
		}
		all = append(all, list...)
	}
	if err := unique(all); err != nil {
		return nil, fmt.Errorf("credential provider config %s: %w", path, err)
	}
	return all, nil
}

func filesOf(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, fmt.Errorf("credential provider config: %w", err)
	}
	var files []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains([]string{".json", ".yaml", ".yml"}, filepath.Ext(e.Name())) {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	if len(files) == 0 || len(files) > maxFiles {
		return nil, fmt.Errorf("credential provider config: directory %s has %d files *.json, *.yaml or *.yml, and 1 to %d are possible: %w", dir, len(files), maxFiles, model.ErrInvalid)
	}
	return files, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = fmt.Errorf("%s has more than %d bytes; is the path right? %w", path, maxConfig, model.ErrTooLarge)
	}
	return text, err
}

// parse reads one file. Like kubelet it refuses what it does not know, because a misspelt restriction would be none.
// Values of env are not shown.
func parse(text []byte) ([]settings, error) {
	var config kubeletv1.CredentialProviderConfig
	if err := yaml.UnmarshalStrict(text, &config); err != nil {
		return nil, fmt.Errorf("it cannot be read (%s): %w", decodeError(err), model.ErrInvalid)
	}
	if config.Kind != configKind || config.APIVersion != configVersion {
		return nil, fmt.Errorf("it is %q of %q, and must be kind %s of apiVersion %s: %w", shorten(config.Kind), shorten(config.APIVersion), configKind, configVersion, model.ErrInvalid)
	}
	if len(config.Providers) == 0 {
		return nil, fmt.Errorf("it has no providers: %w", model.ErrInvalid)
	}
	var out []settings
	var errs []error
	for i, p := range config.Providers {
		s, err := check(p)
		if err != nil {
			err = fmt.Errorf("provider %d (%q): %w", i, shorten(p.Name), err)
		}
		out, errs = append(out, s), append(errs, err)
	}
	return out, errors.Join(errs...)
}

// decodeError names the field of a decoder's error and leaves out the value, which may be one of env.
func decodeError(err error) string {
	text := err.Error()
	if strings.Contains(text, "unknown field") || strings.Contains(text, "already set") {
		return shorten(text)
	}
	if _, field, ok := strings.Cut(text, " into Go struct field "); ok {
		return "wrong type of " + shorten(field)
	}
	return "not YAML, or a value of a wrong type"
}

func unique(all []settings) error {
	seen := map[string]bool{}
	for _, s := range all {
		if seen[s.Name] {
			return fmt.Errorf("provider %q is there twice: %w", s.Name, model.ErrInvalid)
		}
		seen[s.Name] = true
	}
	return nil
}

// check applies kubelet's rules for one provider.
func check(p kubeletv1.CredentialProvider) (settings, error) {
	var errs []error
	must := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format+": %w", append(args, model.ErrInvalid)...))
		}
	}
	must(p.Name != "" && p.Name != "." && p.Name != ".." && !strings.ContainsAny(p.Name, "/ \x00"),
		"name must be the name of a program in the directory of providers, without slashes and spaces")
	must(p.APIVersion == requestVersion, "apiVersion is %q and must be %s", shorten(p.APIVersion), requestVersion)
	must(len(p.MatchImages) > 0, "matchImages must name at least one image")
	must(p.DefaultCacheDuration != nil && p.DefaultCacheDuration.Duration >= 0, "defaultCacheDuration is required and must not be negative")
	for _, e := range p.Env {
		must(e.Name != "" && !strings.ContainsAny(e.Name+e.Value, "\x00") && !strings.Contains(e.Name, "="), "env %q is not the name of a variable, or has a NUL byte", shorten(e.Name))
	}
	for _, a := range p.Args {
		must(!strings.Contains(a, "\x00"), "args have a NUL byte")
	}
	var images []credential.Pattern
	for _, s := range p.MatchImages {
		image, err := credential.ImagePattern(s)
		images, errs = append(images, image), append(errs, err)
	}
	if t := p.TokenAttributes; t != nil {
		must(t.ServiceAccountTokenAudience != "", "tokenAttributes.serviceAccountTokenAudience is required")
		must(t.RequireServiceAccount != nil, "tokenAttributes.requireServiceAccount is required")
		must(t.CacheType == kubeletv1.TokenServiceAccountTokenCacheType || t.CacheType == kubeletv1.ServiceAccountServiceAccountTokenCacheType,
			"tokenAttributes.cacheType is %q and must be Token or ServiceAccount", shorten(string(t.CacheType)))
		must(len(t.RequiredServiceAccountAnnotationKeys) == 0 || t.RequireServiceAccount == nil || *t.RequireServiceAccount,
			"tokenAttributes.requiredServiceAccountAnnotationKeys need requireServiceAccount: true")
		keys := slices.Sorted(slices.Values(annotationKeys(t)))
		must(len(slices.Compact(slices.Clone(keys))) == len(keys) && !slices.Contains(keys, ""), "the annotation keys of tokenAttributes must not be empty, and each be there once")
	}
	return settings{p, images}, errors.Join(errs...)
}

// annotationKeys are those that the provider wants, required ones first.
func annotationKeys(t *kubeletv1.ServiceAccountTokenAttributes) []string {
	return slices.Concat(t.RequiredServiceAccountAnnotationKeys, t.OptionalServiceAccountAnnotationKeys)
}

// shorten keeps foreign text from filling an error.
func shorten(s string) string {
	const most = 200
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
