package pack

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/model-csi/model-csi/pkg/inspect"
	"github.com/model-csi/model-csi/pkg/internal/nearest"
	"github.com/model-csi/model-csi/pkg/model"
)

// Config is the config of an artifact without its list of layers.
type Config struct {
	Descriptor   Descriptor
	Model        Model
	Capabilities Capabilities
}

// Descriptor says what the model is to people.
type Descriptor struct {
	CreatedAt   *time.Time `json:"createdAt,omitempty"`
	Authors     []string   `json:"authors,omitempty"`
	Family      string     `json:"family,omitempty"`
	Name        string     `json:"name,omitempty"`
	DocURL      string     `json:"docURL,omitempty"`
	SourceURL   string     `json:"sourceURL,omitempty"`
	DatasetsURL []string   `json:"datasetsURL,omitempty"`
	Version     string     `json:"version,omitempty"`
	Revision    string     `json:"revision,omitempty"`
	Vendor      string     `json:"vendor,omitempty"`
	Licenses    []string   `json:"licenses,omitempty"`
	Title       string     `json:"title,omitempty"`
	Description string     `json:"description,omitempty"`
}

// Model says what the model is to programs.
type Model struct {
	Architecture string `json:"architecture,omitempty"`
	Format       string `json:"format,omitempty"`
	ParamSize    string `json:"paramSize,omitempty"`
	Precision    string `json:"precision,omitempty"`
	Quantization string `json:"quantization,omitempty"`
}

// Capabilities say what the model can do.
type Capabilities struct {
	InputTypes      []string   `json:"inputTypes,omitempty"`
	OutputTypes     []string   `json:"outputTypes,omitempty"`
	KnowledgeCutoff *time.Time `json:"knowledgeCutoff,omitempty"`
	Reasoning       *bool      `json:"reasoning,omitempty"`
	ToolUsage       *bool      `json:"toolUsage,omitempty"`
	Reward          *bool      `json:"reward,omitempty"`
	Languages       []string   `json:"languages,omitempty"`
}

// FromFacts fills in what the model's files say.
func FromFacts(f inspect.Facts) Config {
	c := Config{
		Descriptor: Descriptor{Name: f.Name, Family: f.Family, Licenses: f.Licenses},
		Model: Model{
			Architecture: f.Architecture, Format: f.Format, ParamSize: inspect.ParamSize(f.Parameters),
			Precision: f.Precision, Quantization: f.Quantization,
		},
		Capabilities: Capabilities{InputTypes: f.InputTypes, OutputTypes: f.OutputTypes, Languages: f.Languages},
	}
	// That a template says nothing of tools or thinking does not prove that the model can do neither.
	yes := true
	if f.Reasoning {
		c.Capabilities.Reasoning = &yes
	}
	if f.ToolUsage {
		c.Capabilities.ToolUsage = &yes
	}
	return c
}

// Inherit takes over what the config of another ModelPack artifact says. What cannot be understood, or is not as the
// specification wants it, is left out.
func (c *Config) Inherit(config []byte) {
	var document struct {
		Descriptor *Descriptor     `json:"descriptor"`
		Config     json.RawMessage `json:"config"`
	}
	merged := *c
	document.Descriptor = &merged.Descriptor
	if json.Unmarshal(config, &document) != nil {
		return
	}
	var parts struct {
		Capabilities *Capabilities `json:"capabilities"`
	}
	parts.Capabilities = &merged.Capabilities
	if document.Config != nil && (json.Unmarshal(document.Config, &merged.Model) != nil || json.Unmarshal(document.Config, &parts) != nil) {
		return
	}
	if !paramSizePattern.MatchString(merged.Model.ParamSize) {
		merged.Model.ParamSize = c.Model.ParamSize
	}
	abilities := &merged.Capabilities
	unknown := func(s string) bool { return checkModality(s) != nil }
	abilities.InputTypes = slices.DeleteFunc(slices.Clone(abilities.InputTypes), unknown)
	abilities.OutputTypes = slices.DeleteFunc(slices.Clone(abilities.OutputTypes), unknown)
	abilities.Languages = slices.DeleteFunc(slices.Clone(abilities.Languages), func(s string) bool { return !languagePattern.MatchString(s) })
	*c = merged
}

// field is one key that Set knows.
type field struct {
	// where is the object that the key is in.
	where string
	set   func(c *Config, value string) error
}

func text(at func(*Config) *string) func(*Config, string) error {
	return func(c *Config, v string) error {
		*at(c) = v
		return nil
	}
}

func list(at func(*Config) *[]string, check func(string) error) func(*Config, string) error {
	return func(c *Config, v string) error {
		var out []string
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part == "" {
				continue
			}
			if check != nil {
				if err := check(part); err != nil {
					return err
				}
			}
			out = append(out, part)
		}
		*at(c) = out
		return nil
	}
}

func moment(at func(*Config) **time.Time) func(*Config, string) error {
	return func(c *Config, v string) error {
		if v == "" {
			*at(c) = nil
			return nil
		}
		for _, layout := range []string{time.RFC3339, time.DateOnly} {
			if t, err := time.Parse(layout, v); err == nil {
				*at(c) = &t
				return nil
			}
		}
		return fmt.Errorf("%q is not a date such as 2025-01-31 or 2025-01-31T12:00:00Z", v)
	}
}

func truth(at func(*Config) **bool) func(*Config, string) error {
	return func(c *Config, v string) error {
		if v == "" {
			*at(c) = nil
			return nil
		}
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", v)
		}
		*at(c) = &b
		return nil
	}
}

const capabilities = "config.capabilities"

// fields by their names in the specification.
var fields = map[string]field{
	"createdAt":    {"descriptor", moment(func(c *Config) **time.Time { return &c.Descriptor.CreatedAt })},
	"authors":      {"descriptor", list(func(c *Config) *[]string { return &c.Descriptor.Authors }, nil)},
	"family":       {"descriptor", text(func(c *Config) *string { return &c.Descriptor.Family })},
	"name":         {"descriptor", text(func(c *Config) *string { return &c.Descriptor.Name })},
	"docURL":       {"descriptor", text(func(c *Config) *string { return &c.Descriptor.DocURL })},
	"sourceURL":    {"descriptor", text(func(c *Config) *string { return &c.Descriptor.SourceURL })},
	"datasetsURL":  {"descriptor", list(func(c *Config) *[]string { return &c.Descriptor.DatasetsURL }, nil)},
	"version":      {"descriptor", text(func(c *Config) *string { return &c.Descriptor.Version })},
	"revision":     {"descriptor", text(func(c *Config) *string { return &c.Descriptor.Revision })},
	"vendor":       {"descriptor", text(func(c *Config) *string { return &c.Descriptor.Vendor })},
	"licenses":     {"descriptor", list(func(c *Config) *[]string { return &c.Descriptor.Licenses }, nil)},
	"title":        {"descriptor", text(func(c *Config) *string { return &c.Descriptor.Title })},
	"description":  {"descriptor", text(func(c *Config) *string { return &c.Descriptor.Description })},
	"architecture": {"config", text(func(c *Config) *string { return &c.Model.Architecture })},
	"format":       {"config", text(func(c *Config) *string { return &c.Model.Format })},
	"paramSize": {"config", func(c *Config, v string) error {
		if v != "" && !paramSizePattern.MatchString(v) {
			return fmt.Errorf("%q is not a count and a scale (K, M, B, T or Q), such as 7B or 0.5B", v)
		}
		c.Model.ParamSize = v
		return nil
	}},
	"precision":       {"config", text(func(c *Config) *string { return &c.Model.Precision })},
	"quantization":    {"config", text(func(c *Config) *string { return &c.Model.Quantization })},
	"inputTypes":      {capabilities, list(func(c *Config) *[]string { return &c.Capabilities.InputTypes }, checkModality)},
	"outputTypes":     {capabilities, list(func(c *Config) *[]string { return &c.Capabilities.OutputTypes }, checkModality)},
	"knowledgeCutoff": {capabilities, moment(func(c *Config) **time.Time { return &c.Capabilities.KnowledgeCutoff })},
	"reasoning":       {capabilities, truth(func(c *Config) **bool { return &c.Capabilities.Reasoning })},
	"toolUsage":       {capabilities, truth(func(c *Config) **bool { return &c.Capabilities.ToolUsage })},
	"reward":          {capabilities, truth(func(c *Config) **bool { return &c.Capabilities.Reward })},
	"languages": {capabilities, list(func(c *Config) *[]string { return &c.Capabilities.Languages }, func(s string) error {
		if !languagePattern.MatchString(s) {
			return fmt.Errorf("%q is not a language code of two lower case letters, such as en", s)
		}
		return nil
	})},
}

func checkModality(s string) error {
	if !slices.Contains(modalities, s) {
		return fmt.Errorf("%q is not one of %s", s, strings.Join(modalities, ", "))
	}
	return nil
}

// Keys lists the keys that Set knows, sorted.
func Keys() []string {
	out := make([]string, 0, len(fields))
	for key := range fields {
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}

// Set changes one field, given as "key=value"; an empty value removes it, and lists are separated by commas. The key may
// have the names of the objects that it is in before it, with dots. It fails with model.ErrInvalid, and names the
// nearest key where there is no such one.
func (c *Config) Set(setting string) error {
	key, value, ok := strings.Cut(setting, "=")
	if !ok {
		return fmt.Errorf("%q is not of the form key=value: %w", setting, model.ErrInvalid)
	}
	name := key
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		name = key[i+1:]
	}
	f, ok := fields[name]
	if !ok || name != key && key != f.where+"."+name {
		near := nearest.Of(name, Keys())
		return fmt.Errorf("the config of a model has no field %q; did you mean %q? There are %s: %w", key, near, strings.Join(Keys(), ", "), model.ErrInvalid)
	}
	if err := f.set(c, value); err != nil {
		return fmt.Errorf("%s: %w: %w", key, err, model.ErrInvalid)
	}
	return nil
}

// JSON is the config of an artifact whose layers have these uncompressed digests, in the words of a generation.
func (c Config) JSON(n Names, diffIDs []digest.Digest) ([]byte, error) {
	type fs struct {
		Type   string          `json:"type"`
		New    []digest.Digest `json:"diffIds,omitempty"`
		Legacy []digest.Digest `json:"diff_ids,omitempty"`
	}
	layers := fs{Type: "layers", New: diffIDs}
	var abilities any
	if !c.Capabilities.empty() {
		abilities = c.Capabilities
	}
	if n == CNAI {
		layers.New, layers.Legacy = nil, diffIDs
		c.Descriptor.DatasetsURL = nil // the specification had no such field yet
		if abilities != nil {
			abilities = legacyCapabilities{c.Capabilities.InputTypes, c.Capabilities.OutputTypes, c.Capabilities.KnowledgeCutoff, c.Capabilities.Reasoning, c.Capabilities.ToolUsage}
		}
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(struct {
		Descriptor Descriptor `json:"descriptor"`
		Layers     fs         `json:"modelfs"`
		Config     any        `json:"config"`
	}{c.Descriptor, layers, struct {
		Model
		Capabilities any `json:"capabilities,omitempty"`
	}{c.Model, abilities}})
	return bytes.TrimRight(out.Bytes(), "\n"), err
}

// legacyCapabilities is how the specification wrote them before it moved to the CNCF.
type legacyCapabilities struct {
	InputTypes      []string   `json:"input_types,omitempty"`
	OutputTypes     []string   `json:"output_types,omitempty"`
	KnowledgeCutoff *time.Time `json:"knowledge_cutoff,omitempty"`
	Reasoning       *bool      `json:"reasoning,omitempty"`
	ToolUsage       *bool      `json:"tool_usage,omitempty"`
}

func (c Capabilities) empty() bool {
	return len(c.InputTypes)+len(c.OutputTypes)+len(c.Languages) == 0 && c.KnowledgeCutoff == nil && c.Reasoning == nil && c.ToolUsage == nil && c.Reward == nil
}
