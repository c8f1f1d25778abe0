package schema_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// golden is a record as it was once published, by us or by another producer.
// Golden files are added, never changed: what they hold is in logs.
type golden struct {
	Headers [][2]string
	Value   json.RawMessage
	// Canonical is the value that we would have written, where another
	// producer wrote it otherwise.
	Canonical json.RawMessage
}

func (g golden) headers() []schema.Header {
	headers := make([]schema.Header, len(g.Headers))
	for i, h := range g.Headers {
		headers[i] = schema.Header{Key: h[0], Value: []byte(h[1])}
	}
	return headers
}

const goldenDir = "testdata/golden"

func goldenFiles(t testing.TB, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(goldenDir, pattern, "*.json"))
	require.NoError(t, err)
	return files
}

func readGolden(t testing.TB, file string) golden {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var g golden
	require.NoError(t, decoder.Decode(&g))
	return g
}

func TestGoldenFilesDecodeForever(t *testing.T) {
	t.Parallel()
	for _, file := range goldenFiles(t, "*") {
		t.Run(strings.TrimPrefix(file, goldenDir+"/"), func(t *testing.T) {
			t.Parallel()
			g := readGolden(t, file)
			event, err := schema.DecodeEvent(g.headers(), g.Value)
			require.NoError(t, err)
			assert.Equal(t, filepath.Base(filepath.Dir(file)), string(event.Payload.EventType()))

			headers, value, err := event.Encode()
			require.NoError(t, err)
			want := g.Canonical
			if want == nil {
				want = g.Value
				assert.Equal(t, g.headers(), headers)
			}
			assert.Equal(t, string(want), string(value))
			assertFits(t, compiled(t, event.Payload.EventType()), value)
		})
	}
}

func TestGoldenValuesFitTheirSchema(t *testing.T) {
	t.Parallel()
	for _, eventType := range schema.EventTypes() {
		s := compiled(t, eventType)
		for _, file := range goldenFiles(t, string(eventType)) {
			g := readGolden(t, file)
			if isStructured(g) {
				continue // its canonical value is checked with the decoding
			}
			assertFits(t, s, g.Value)
		}
	}
}

func isStructured(g golden) bool {
	for _, h := range g.Headers {
		if h[0] == "content-type" && strings.HasPrefix(h[1], "application/cloudevents") {
			return true
		}
	}
	return false
}

func TestEveryEventTypeHasSchemaAndGoldenFiles(t *testing.T) {
	t.Parallel()
	types := map[string]bool{}
	for _, eventType := range schema.EventTypes() {
		types[string(eventType)] = true
		assert.NotEmpty(t, goldenFiles(t, string(eventType)), "no golden file of %s", eventType)
		_, found := schema.JSONSchema(eventType)
		assert.True(t, found, "no JSON Schema of %s", eventType)
	}
	// The other way round: a file that belongs to no event is a misspelt name.
	for _, file := range goldenFiles(t, "*") {
		assert.True(t, types[filepath.Base(filepath.Dir(file))], "%s belongs to no event type", file)
	}
	schemas, err := filepath.Glob("jsonschema/*.json")
	require.NoError(t, err)
	for _, file := range schemas {
		assert.True(t, types[strings.TrimSuffix(filepath.Base(file), ".json")], "%s belongs to no event type", file)
	}
}

func TestSchemasAreDocuments(t *testing.T) {
	t.Parallel()
	for _, eventType := range schema.EventTypes() {
		text, _ := schema.JSONSchema(eventType)
		var document struct {
			Schema     string `json:"$schema"`
			ID         string `json:"$id"`
			Title      string
			Required   []string
			Properties map[string]struct{ Title, Description string }
		}
		require.NoError(t, json.Unmarshal(text, &document), eventType)
		assert.Equal(t, "https://json-schema.org/draft/2020-12/schema", document.Schema, eventType)
		assert.Contains(t, document.ID, string(eventType))
		assert.NotEmpty(t, document.Title, eventType)
		assert.NotEmpty(t, document.Required, eventType)
		for name, property := range document.Properties {
			assert.NotEmpty(t, property.Title, "%s: %s", eventType, name)
			assert.NotEmpty(t, property.Description, "%s: %s", eventType, name)
		}
	}
}

func TestJSONSchemaOfUnknownType(t *testing.T) {
	t.Parallel()
	for _, name := range []schema.EventType{"", "no.such.event.v1", "../jsonschema/polling.job.ran.v1"} {
		_, found := schema.JSONSchema(name)
		assert.False(t, found, name)
	}
}

func compiled(t testing.TB, eventType schema.EventType) *jsonschema.Schema {
	t.Helper()
	text, found := schema.JSONSchema(eventType)
	require.True(t, found, eventType)
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err)
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	compiler.AssertContent()
	const url = "mem:schema.json"
	require.NoError(t, compiler.AddResource(url, document))
	s, err := compiler.Compile(url)
	require.NoError(t, err)
	return s
}

func fits(s *jsonschema.Schema, value []byte) error {
	instance, err := jsonschema.UnmarshalJSON(bytes.NewReader(value))
	if err != nil {
		return err
	}
	return s.Validate(instance)
}

func assertFits(t testing.TB, s *jsonschema.Schema, value []byte) {
	t.Helper()
	assert.NoError(t, fits(s, value), "%s", value)
}
