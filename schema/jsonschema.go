package schema

import "embed"

//go:embed jsonschema/*.json
var jsonSchemas embed.FS

// JSONSchema is the JSON Schema, draft 2020-12, of the payload of events of
// type t; false for a type that is not of this package. The caller owns the
// bytes.
//
// Further properties are allowed everywhere: consumers ignore what they do not
// know, so a field can be added without a new version.
func JSONSchema(t EventType) ([]byte, bool) {
	document, err := jsonSchemas.ReadFile("jsonschema/" + string(t) + ".json")
	return document, err == nil
}
