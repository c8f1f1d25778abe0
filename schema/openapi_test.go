package schema_test

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// Generators of clients make types of the OpenAPI document. What they cannot read, or read
// as a float of 32 bits, has no place in it.
func TestGeneratorsReadTheOpenAPIDocument(t *testing.T) {
	t.Parallel()
	var doc any
	require.NoError(t, json.Unmarshal(schema.OpenAPI(), &doc))
	var walk func(at string, value any)
	walk = func(at string, value any) {
		switch v := value.(type) {
		case map[string]any:
			switch kind := v["type"].(type) {
			case string:
				if kind == "number" {
					assert.Equal(t, "double", v["format"], "%s: a number without a format is a float of 32 bits to some", at)
				}
			case []any:
				others := slices.DeleteFunc(slices.Clone(kind), func(k any) bool { return k == "null" })
				assert.Len(t, others, 1, "%s: several types are written as anyOf", at)
			}
			assert.NotContains(t, v, "exclusiveMinimum", at)
			assert.NotContains(t, v, "exclusiveMaximum", at)
			for name, member := range v {
				if name != "example" && name != "examples" {
					walk(at+"/"+name, member)
				}
			}
		case []any:
			for i, member := range v {
				walk(at+"/"+strconv.Itoa(i), member)
			}
		}
	}
	walk("", doc)

	var named struct{ Components map[string]map[string]any }
	require.NoError(t, json.Unmarshal(schema.OpenAPI(), &named))
	seen := map[string]string{}
	for _, kind := range []string{"schemas", "parameters", "responses"} {
		for name := range named.Components[kind] {
			key := strings.ToLower(name)
			assert.Empty(t, seen[key], "%s: %s of the same name would be the same type", name, seen[key])
			seen[key] = kind
		}
	}
}
