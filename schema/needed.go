package schema

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// neededField is a number of which 0 is a value like any other, so that Validate
// cannot tell whether it is there. Its field has the tag schema:"needed".
type neededField struct {
	name  string
	index []int
}

func neededFields(t reflect.Type) []neededField {
	var fields []neededField
	for _, field := range reflect.VisibleFields(t) {
		if field.Tag.Get("schema") == "needed" {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			fields = append(fields, neededField{name, field.Index})
		}
	}
	return fields
}

// checkNeeded reports a needed field that the object lacks. It looks only for those
// that are 0: few prices are.
func checkNeeded(object []byte, fields []neededField, decoded reflect.Value) error {
	for _, field := range fields {
		if !decoded.FieldByIndex(field.index).IsZero() {
			continue
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(object, &members); err != nil {
			return err
		}
		if value, there := members[field.name]; !there || string(value) == "null" {
			return fmt.Errorf("%s: required", field.name)
		}
	}
	return nil
}
