package pack

import (
	"bytes"
	_ "embed" // the schema
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/model-csi/model-csi/pkg/model"
)

// configSchema is the JSON schema of a config, with today's names.
//
//go:embed schema/model-config.json
var configSchema []byte

// ownSchema compiles it once.
var ownSchema = sync.OnceValues(func() (*Schema, error) { return ReadSchema(configSchema) })

// Schema is a JSON schema that a config is held against.
type Schema struct{ compiled *jsonschema.Schema }

// ReadSchema reads a JSON schema, such as the one that comes with another release of the specification, of the draft that
// it names. It fails with model.ErrInvalid for what is none, and for one that refers to other documents.
func ReadSchema(data []byte) (*Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("schema: not valid JSON: %v: %w", err, model.ErrInvalid)
	}
	const name = "urn:model-csi:model-config"
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.UseLoader(noLoader{})
	err = c.AddResource(name, document)
	var s *jsonschema.Schema
	if err == nil {
		s, err = c.Compile(name)
	}
	if err != nil {
		return nil, fmt.Errorf("schema: %v: %w", err, model.ErrInvalid)
	}
	return &Schema{s}, nil
}

// noLoader keeps a schema from reading files and hosts.
type noLoader struct{}

// Load implements jsonschema.URLLoader.
func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("it refers to %s, and other documents are not read", url)
}

type schemaFinding struct{ where, message string }

// findings holds a decoded config against the schema.
func (s *Schema) findings(instance any) []schemaFinding {
	var invalid *jsonschema.ValidationError
	if err := s.compiled.Validate(instance); err == nil || !errors.As(err, &invalid) {
		return nil
	}
	return leaves(invalid)
}

// leaves lists the errors that have no cause below them: those above only say that there are some.
func leaves(e *jsonschema.ValidationError) []schemaFinding {
	if len(e.Causes) == 0 {
		return []schemaFinding{{fieldPath(e.InstanceLocation), e.ErrorKind.LocalizedString(message.NewPrinter(language.English))}}
	}
	var out []schemaFinding
	for _, cause := range e.Causes {
		if out = append(out, leaves(cause)...); len(out) > maxFindings {
			break
		}
	}
	return out
}

// fieldPath writes a location as people do: "modelfs.diffIds[2]".
func fieldPath(location []string) string {
	var b strings.Builder
	for _, part := range location {
		switch _, err := strconv.Atoi(part); {
		case err == nil:
			b.WriteString("[" + part + "]")
		case b.Len() > 0:
			b.WriteString("." + part)
		default:
			b.WriteString(part)
		}
	}
	if b.Len() == 0 {
		return "top level"
	}
	return b.String()
}
