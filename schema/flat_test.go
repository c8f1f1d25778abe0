package schema

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// compareFlat reads a value as every type, and fails where decodeFlat reads what
// encoding/json and checkKeys refuse or read otherwise. It returns for how many types
// decodeFlat read it.
func compareFlat(t *testing.T, value []byte) (read int) {
	t.Helper()
	if !utf8.Valid(value) {
		return 0
	}
	for _, name := range EventTypes() {
		typ := registry.types[name]
		got := reflect.New(typ.Type)
		if !decodeFlat(value, typ.flat, got.Elem()) {
			continue
		}
		read++
		want := reflect.New(typ.Type)
		require.NoError(t, json.Unmarshal(value, want.Interface()), "%s: %s", name, value)
		require.NoError(t, checkKeys(value, typ.fields), "%s: %s", name, value)
		require.Equal(t, want.Interface(), got.Interface(), "%s: %s", name, value)
	}
	return read
}

func goldenValues(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "golden", "*", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var values []string
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		var golden struct{ Value json.RawMessage }
		require.NoError(t, json.Unmarshal(text, &golden))
		values = append(values, string(golden.Value))
	}
	return values
}

func TestDecodeFlatIsAsEncodingJSON(t *testing.T) {
	t.Parallel()
	const rest = `"source":"p","timestamp":"2024-01-01T00:00:00Z","received_at":"2024-01-01T00:00:00Z"`
	read := 0
	for _, value := range goldenValues(t) {
		read += compareFlat(t, []byte(value))
	}
	assert.Positive(t, read, "what is published is read")
	for value, want := range map[string]bool{
		`{"symbol":"A","price":1,` + rest + `}`:                          true,
		" {\t\"symbol\" : \"A\" ,\r\n\"price\": -0.5e+7 ," + rest + "} ": true,
		`{"symbol":"\u0041\n","price":"1.50",` + rest + `}`:              true,
		`{"symbol":"ä€😀","price":0,` + rest + `}`:                        true,
		`{"symbol":"A","price":1,` + rest + `}x`:                         false,
		`{"symbol":"A","price":1,` + rest + `,}`:                         false,
		`{"symbol":"A","price":1,"symbol":"B",` + rest + `}`:             false,
		`{"Symbol":"A","price":1,` + rest + `}`:                          false,
		`{"symbol":"A","price":1,"other":1,` + rest + `}`:                false,
		`{"symbol":"A","price":01,` + rest + `}`:                         false,
		`{"symbol":"A","price":1.,` + rest + `}`:                         false,
		`{"symbol":"A","price":.5,` + rest + `}`:                         false,
		`{"symbol":"A","price":+1,` + rest + `}`:                         false,
		`{"symbol":"A","price":1e,` + rest + `}`:                         false,
		`{"symbol":"A","price":-,` + rest + `}`:                          false,
		`{"symbol":"A","price":NaN,` + rest + `}`:                        false,
		`{"symbol":"A","price":null,` + rest + `}`:                       false,
		`{"symbol":"\x","price":1,` + rest + `}`:                         false,
		`{"symbol":"\u12","price":1,` + rest + `}`:                       false,
		"{\"symbol\":\"a\nb\",\"price\":1," + rest + "}":                 false,
		`{"symbol":1,"price":1,` + rest + `}`:                            false,
		`{"symbol":{},"price":1,` + rest + `}`:                           false,
		`{"symbol":"A"`:                                                  false,
		`{"symbol":"A\`:                                                  false,
		`{"symbol":`:                                                     false,
		`{"symbol"`:                                                      false,
		`{`:                                                              false,
		``:                                                               false,
		`[]`:                                                             false,
	} {
		compareFlat(t, []byte(value))
		assert.Equal(t, want, decodeFlat([]byte(value), registry.types[PriceObserved{}.EventType()].flat,
			reflect.ValueOf(&PriceObserved{}).Elem()), value)
	}
}

func TestStructsThatAreNotFlat(t *testing.T) {
	t.Parallel()
	type other struct{ A string }
	for _, v := range []any{
		struct{ A string }{}, // encoding/json would match it whatever its case
		struct {
			A int `json:"a"`
		}{},
		struct {
			A *string `json:"a"`
		}{},
		struct {
			A other `json:"a"`
		}{},
		struct {
			A string `json:"a,string"`
		}{},
		struct{ *Quote }{},
		struct {
			a string
		}{},
	} {
		assert.Empty(t, flatFields(reflect.TypeOf(v)), "%T", v)
	}
	text := reflect.TypeFor[string]()
	twice := reflect.StructOf([]reflect.StructField{{Name: "A", Type: text, Tag: `json:"a"`}, {Name: "B", Type: text, Tag: `json:"a"`}})
	assert.Empty(t, flatFields(twice))
	var names []string
	for _, field := range flatFields(reflect.TypeFor[QuoteStored]()) {
		names = append(names, field.name)
	}
	assert.Equal(t, "provider symbol request_id raw_response received_at definition raw_response_id", strings.Join(names, " "))
}

// What decodeFlat reads, encoding/json reads the same.
func FuzzDecodeFlat(f *testing.F) {
	for _, value := range goldenValues(f) {
		f.Add([]byte(value))
	}
	f.Fuzz(func(t *testing.T, value []byte) { compareFlat(t, value) })
}
