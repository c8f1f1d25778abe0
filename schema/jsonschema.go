package schema

import (
	"embed"
	"reflect"
	"slices"
)

//go:embed jsonschema/*.json
var jsonSchemas embed.FS

// Described is a Payload of another package that has a JSON Schema, as plugins'
// may.
type Described interface {
	Payload
	// JSONSchema is a document of draft 2020-12. The zero value of the payload is
	// asked.
	JSONSchema() []byte
}

// JSONSchema is the JSON Schema, draft 2020-12, of the payload of events of
// type t; false for a type that is neither of this package nor Described. The
// caller owns the bytes.
//
// Further properties are allowed everywhere: consumers ignore what they do not
// know, so a field can be added without a new version.
func JSONSchema(t EventType) ([]byte, bool) {
	document, err := jsonSchemas.ReadFile("jsonschema/" + string(t) + ".json")
	if err == nil {
		return document, true
	}
	registry.RLock()
	typ, known := registry.types[t]
	registry.RUnlock()
	if !known {
		return nil, false
	}
	described, ok := reflect.Zero(typ.Type).Interface().(Described)
	if !ok {
		return nil, false
	}
	return slices.Clone(described.JSONSchema()), true
}
