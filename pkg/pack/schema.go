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
)

// configSchema is the JSON schema of a config, with today's names.
//
//go:embed schema/model-config.json
var configSchema []byte

// schema compiles it once.
var schema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(configSchema))
	if err != nil {
		return nil, err
	}
	const name = "urn:model-csi:model-config"
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(name, document); err != nil {
		return nil, err
	}
	return c.Compile(name)
})

type schemaFinding struct{ where, message string }

// schemaFindings holds a decoded config against the schema.
func schemaFindings(instance any) []schemaFinding {
	s, err := schema()
	if err != nil {
		return []schemaFinding{{".", fmt.Sprintf("the schema cannot be read: %v", err)}}
	}
	var invalid *jsonschema.ValidationError
	if err := s.Validate(instance); err == nil || !errors.As(err, &invalid) {
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
