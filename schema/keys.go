package schema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// checkKeys refuses a JSON object that two readers could read differently.
// encoding/json takes the last of two equal keys and matches keys whatever
// their case, other readers take the first or mind the case: {"price":1,
// "PRICE":2} would be one price here and another there. Keys that are no field
// of ours are ignored.
//
// The object must already have been unmarshaled, so that it is valid JSON:
// then this one pass needs no parser.
func checkKeys(object []byte, fields []string) error {
	seen := make([]bool, len(fields))
	depth := 0
	for i := 0; i < len(object); i++ {
		switch object[i] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			end := stringEnd(object, i)
			if depth == 1 && isKey(object, end) {
				if err := checkKey(object[i:end], fields, seen); err != nil {
					return err
				}
			}
			i = end - 1
		}
	}
	return nil
}

func checkKey(quoted []byte, fields []string, seen []bool) error {
	key := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(key, '\\') >= 0 {
		var text string
		if err := json.Unmarshal(quoted, &text); err != nil {
			return err
		}
		key = []byte(text)
	}
	for i, field := range fields {
		switch {
		case string(key) == field && seen[i]:
			return fmt.Errorf("key %q occurs twice", field)
		case string(key) == field:
			seen[i] = true
			return nil
		case bytes.EqualFold(key, []byte(field)):
			return fmt.Errorf("key %q must be spelled %q", key, field)
		}
	}
	return nil
}

// stringEnd returns the index after the closing quote of the string that
// opens at start.
func stringEnd(object []byte, start int) int {
	for i := start + 1; ; i++ {
		i += bytes.IndexByte(object[i:], '"')
		slashes := 0
		for object[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i + 1
		}
	}
}

// isKey reports whether the string that ended before i is a key.
func isKey(object []byte, i int) bool {
	for i < len(object) && strings.IndexByte(" \t\r\n", object[i]) >= 0 {
		i++
	}
	return i < len(object) && object[i] == ':'
}

// jsonFields lists the keys of the JSON form of a struct; none for a type that
// reads its JSON itself.
func jsonFields(t reflect.Type) []string {
	if t.Kind() != reflect.Struct || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		return nil
	}
	var names []string
	for i := range t.NumField() {
		field := t.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case field.Tag.Get("json") == "-":
		case field.Anonymous && name == "":
			names = append(names, jsonFields(field.Type)...)
		case !field.IsExported():
		case name == "":
			names = append(names, field.Name)
		default:
			names = append(names, name)
		}
	}
	return names
}
