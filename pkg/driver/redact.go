package driver

import (
	"fmt"
	"log/slog"
	"path"
	"slices"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// hidden stands where something is not shown.
const hidden = "[redacted]"

// redacted shows a request in the log without its secrets. Nothing is done for a request that is not logged.
type redacted struct{ request any }

// LogValue implements slog.LogValuer.
func (r redacted) LogValue() slog.Value {
	m, ok := r.request.(proto.Message)
	if !ok {
		return slog.StringValue(fmt.Sprintf("%T", r.request))
	}
	m = proto.Clone(m)
	redact(m.ProtoReflect())
	text, err := protojson.Marshal(m)
	if err != nil {
		return slog.StringValue(fmt.Sprintf("%T", r.request)) // text that is not UTF-8, for example
	}
	return slog.StringValue(string(text))
}

// redact hides every field that the CSI specification marks as secret, at any depth, and in a volume's attributes the
// values that are not ours: tokens, and passwords that somebody took the attributes for the place for.
func redact(m protoreflect.Message) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case isSecret(field):
			hide(m, field, value)
		case field.IsMap() && field.MapValue().Kind() == protoreflect.StringKind:
			hideUnknown(value.Map())
		case field.Message() != nil && !field.IsMap() && !field.IsList():
			redact(value.Message())
		case field.Message() != nil && field.IsList():
			for i := range value.List().Len() {
				redact(value.List().Get(i).Message())
			}
		}
		return true
	})
}

// hideUnknown keeps the values of the attributes that have a meaning.
func hideUnknown(m protoreflect.Map) {
	m.Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
		name := key.String()
		known := strings.HasPrefix(name, podInfoPrefix) && name != podTokens || name == provisionerIdentity || slices.Contains(attributeNames, path.Base(name))
		if !known {
			m.Set(key, protoreflect.ValueOfString(hidden))
		}
		return true
	})
}

func isSecret(field protoreflect.FieldDescriptor) bool {
	secret, _ := proto.GetExtension(field.Options(), csi.E_CsiSecret).(bool)
	return secret
}

// hide keeps the names of a secret's keys, which help to find a wrong secret, and none of the values.
func hide(m protoreflect.Message, field protoreflect.FieldDescriptor, value protoreflect.Value) {
	if !field.IsMap() || field.MapValue().Kind() != protoreflect.StringKind {
		m.Clear(field)
		return
	}
	value.Map().Range(func(key protoreflect.MapKey, _ protoreflect.Value) bool {
		value.Map().Set(key, protoreflect.ValueOfString(hidden))
		return true
	})
}
