package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// members are those of a JSON object, in their order: pages show the document's
// paths as they come.
type members []member

type member struct {
	name  string
	value json.RawMessage
}

// UnmarshalJSON implements json.Unmarshaler.
func (m *members) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if _, err := decoder.Token(); err != nil { // the brace
		return err
	}
	*m = nil
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return err
		}
		*m = append(*m, member{fmt.Sprint(name), value})
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (m members) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	for i, one := range m {
		separator := ","
		if i == 0 {
			separator = "{"
		}
		name, err := json.Marshal(one.name)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "%s%s:%s", separator, name, one.value)
	}
	if len(m) == 0 {
		out.WriteByte('{')
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// edit replaces the value of a member by what change makes of it.
func edit[T any](m members, name string, change func(T) (T, error)) error {
	for i := range m {
		if m[i].name != name {
			continue
		}
		var value T
		if err := json.Unmarshal(m[i].value, &value); err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
		value, err := change(value)
		if err != nil {
			return err
		}
		m[i].value, err = json.Marshal(value)
		return err
	}
	return fmt.Errorf("there is no %s", name)
}
