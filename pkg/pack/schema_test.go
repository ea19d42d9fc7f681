package pack_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/model-csi/model-csi/pkg/model"
	"github.com/model-csi/model-csi/pkg/pack"
)

// Of another release, which has other fields, and is of an older draft as the specification's own file is.
const otherSchema = `{
  "$schema": "http://json-schema.org/draft-04/schema#",
  "type": "object",
  "required": ["descriptor"],
  "properties": {
    "descriptor": {"$ref": "#/$defs/described"},
    "modelfs": {"type": "object", "properties": {"diff_ids": {"type": "array"}}, "additionalProperties": false}
  },
  "$defs": {"described": {"type": "object", "required": ["name"], "properties": {"createdAt": {"type": "string", "format": "date-time"}}}}
}`

func TestSchemaOfAnotherRelease(t *testing.T) {
	schema, err := pack.ReadSchema([]byte(otherSchema))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		names        pack.Names
		config, want string // "" for nothing
	}{
		"allowed there alone":     {pack.ModelPack, `{"descriptor":{"name":"m"},"something":{}}`, ""},
		"forbidden there alone":   {pack.ModelPack, `{"descriptor":{},"config":{},"modelfs":{"type":"layers","diffIds":["x"]}}`, "error: config: descriptor: missing property 'name'"},
		"form":                    {pack.ModelPack, `{"descriptor":{"name":"m","createdAt":"2025"}}`, "error: config: descriptor.createdAt: "},
		"the text holds as well":  {pack.ModelPack, `{"descriptor":{"name":"m"},"config":{"paramSize":"seven"}}`, "error: config: config.paramSize: "},
		"fields keep their names": {pack.CNAI, `{"descriptor":{"name":"m"},"modelfs":{"diff_ids":["x"]}}`, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			found := pack.ValidateConfig(tt.names, []byte(tt.config), schema)
			if tt.want == "" && len(found) > 0 || tt.want != "" && !slices.ContainsFunc(found, func(f pack.Finding) bool { return strings.HasPrefix(f.String(), tt.want) }) {
				t.Errorf("%v", found)
			}
		})
	}
}

func TestReadSchemaRefuses(t *testing.T) {
	for name, tt := range map[string]struct{ schema, want string }{
		"not JSON":        {`{`, "not valid JSON"},
		"not a schema":    {`[]`, "schema: "},
		"of no type":      {`{"type":"model"}`, "schema: "},
		"a file":          {`{"$ref":"file:///etc/passwd"}`, "other documents are not read"},
		"another host":    {`{"$ref":"https://example.com/config.json"}`, "other documents are not read"},
		"nothing":         {``, "not valid JSON"},
		"another dialect": {`{"$schema":"https://example.com/dialect"}`, "other documents are not read"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := pack.ReadSchema([]byte(tt.schema)); !errors.Is(err, model.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v", err)
			}
		})
	}
}
