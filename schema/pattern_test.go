package schema_test

import (
	"encoding/json"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// Regular expressions of JSON Schema are those of ECMAScript; programs read them with what
// their language has. Classes of Unicode, flags, and anchors that are not in all of those,
// Python's re among them, have no place in a pattern.
var notEverywhere = regexp.MustCompile(`\\[pPAzZQEGhvxuU]|\(\?|\[\[:`)

func TestPatternsAreReadEverywhere(t *testing.T) {
	t.Parallel()
	documents := map[string][]byte{"OpenAPI": schema.OpenAPI()}
	for _, eventType := range schema.EventTypes() {
		documents[string(eventType)], _ = schema.JSONSchema(eventType)
	}
	patterns := 0
	for name, text := range documents {
		var document any
		require.NoError(t, json.Unmarshal(text, &document), name)
		var walk func(value any)
		walk = func(value any) {
			switch v := value.(type) {
			case map[string]any:
				if pattern, is := v["pattern"].(string); is {
					patterns++
					assert.NotRegexp(t, notEverywhere, pattern, name)
				}
				for _, member := range v {
					walk(member)
				}
			case []any:
				for _, member := range v {
					walk(member)
				}
			}
		}
		walk(document)
	}
	assert.Greater(t, patterns, 40)
}

func TestNotEverywhere(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{`^\P{Cc}*$`, `^\p{L}`, `(?i)a`, `a\z`, `\Aa`, `[[:alpha:]]`} {
		assert.Regexp(t, notEverywhere, pattern)
	}
	for _, pattern := range []string{"^[^\u0000-\u001f]*$", `^a(b|c)+$`, `\d{2}`, `[*+]`} {
		assert.NotRegexp(t, notEverywhere, pattern)
	}
}
