package httpapi_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// TestEveryAnswerHasItsValidator: all that is read below /api/v1, but what does not end and
// what is another each second.
func TestEveryAnswerHasItsValidator(t *testing.T) {
	t.Parallel()
	var document struct {
		Paths map[string]map[string]struct {
			Parameters []map[string]any
			Responses  map[string]struct{ Headers map[string]any }
		}
	}
	require.NoError(t, json.Unmarshal(schema.OpenAPI(), &document))
	for path, operations := range document.Paths {
		get, reads := operations["get"]
		if !reads || !strings.HasPrefix(path, "/api/v1/") || path == "/api/v1/prices/stream" || path == "/api/v1/udf/time" {
			continue
		}
		assert.Contains(t, get.Responses["200"].Headers, "ETag", path)
		assert.Contains(t, get.Responses["304"].Headers, "ETag", path)
		assert.Contains(t, get.Parameters, map[string]any{"$ref": "#/components/parameters/IfNoneMatch"}, path)
	}
}

// TestStateIsValidated: a client that has the state already gets no body, until it is
// another; and a command is carried out whatever the client has.
func TestStateIsValidated(t *testing.T) {
	t.Parallel()
	all := newRebuilds("rebuild_a")
	api := newAPI(t, func(s *setup) { s.Rebuilds = all })
	first := get(t, api, "/api/v1/rebuilds/rebuild_a")
	require.Equal(t, http.StatusOK, first.Code, first.Body)
	etag := first.Header().Get("ETag")
	require.NotEmpty(t, etag)
	assert.Equal(t, "no-cache", first.Header().Get("Cache-Control"))
	ask := func(method, path string) (int, string) {
		r := request(method, path, "")
		r.Header.Set("If-None-Match", etag)
		w := serve(t, api, r)
		return w.Code, w.Body.String()
	}
	status, body := ask(http.MethodGet, "/api/v1/rebuilds/rebuild_a")
	assert.Equal(t, http.StatusNotModified, status)
	assert.Empty(t, body)
	status, _ = ask(http.MethodHead, "/api/v1/rebuilds/rebuild_a")
	assert.Equal(t, http.StatusNotModified, status)
	status, body = ask(http.MethodDelete, "/api/v1/rebuilds/rebuild_a")
	assert.Equal(t, http.StatusOK, status)
	assert.NotEmpty(t, body)
}
