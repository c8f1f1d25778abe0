package httpapi_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/internal/contracttest"
	"github.com/pricemill/pricemill/schema"
)

// loadContract compiles the document once, since that takes longer than most
// tests.
var loadContract = sync.OnceValues(func() (*contracttest.Document, error) {
	text, err := httpapi.Document(map[string]httpapi.Indicator{"bands": bands{}})
	if err != nil {
		return nil, err
	}
	return contracttest.Load(text)
})

func mustContract(t testing.TB) *contracttest.Document {
	t.Helper()
	d, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// checkContract fails the test where a response is not what the document says.
func checkContract(t testing.TB, r *http.Request, w *httptest.ResponseRecorder) {
	t.Helper()
	body := w.Body.Bytes()
	if r.Method == http.MethodHead {
		body = nil // a server keeps it back
	}
	if err := mustContract(t).Check(r.Method, r.URL.Path, contracttest.Answer{Status: w.Code, Header: w.Header(), Body: body}); err != nil {
		t.Error(err)
	}
}

func TestDocumentHasEveryRoute(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	for _, o := range mustContract(t).Operations() {
		documented[o.String()] = true
	}
	for _, rt := range newAPI(t, nil).Routes() {
		if !documented[rt[0]+" "+rt[1]] {
			t.Errorf("%s %s is not in the document", rt[0], rt[1])
		}
	}
}

func TestEveryDocumentedPathIsRouted(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	for _, o := range mustContract(t).Operations() {
		path := strings.NewReplacer("{asset}", "swagger-ui.css", "{file}", "style.css", "{job_id}", "poll_abc12345", "{stream_id}", "stream_abc12345", "{backfill_id}", "backfill_abc12345", "{correction_id}", "correction", "{adjustment_id}", "adjustment", "{request_id}", "request_abc12345", "{id}", "rebuild_abc12345", "{letter_id}", "17", "{retry_id}", "retry_abc12345", "{indicator}", "bands").Replace(o.Path)
		w := httptest.NewRecorder()
		api.ServeHTTP(w, request(o.Method, path, ""))
		if w.Code == http.StatusMethodNotAllowed || w.Code == http.StatusNotFound {
			t.Errorf("%s is in the document and answers %d", o, w.Code)
		}
	}
}

// TestOpenAPIIsServedAsItIs, with its paths in their order; only that of indicators is
// left out where there is none.
func TestOpenAPIIsServedAsItIs(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Indicators = nil }) // with some, see TestDocumentDescribesIndicators
	w := get(t, api, "/openapi.json")
	var want, got map[string]any
	if err := errors.Join(json.Unmarshal(schema.OpenAPI(), &want), json.Unmarshal(w.Body.Bytes(), &got)); err != nil {
		t.Fatal(err)
	}
	delete(want["paths"].(map[string]any), "/api/v1/indicators/{indicator}")
	if !reflect.DeepEqual(want, got) {
		t.Error("the served document is another")
	}
	if all := httpapi.Paths(t, schema.OpenAPI()); !slices.Equal(httpapi.Paths(t, w.Body.Bytes()),
		slices.DeleteFunc(all, func(path string) bool { return path == "/api/v1/indicators/{indicator}" })) {
		t.Error("the paths are in another order")
	}
	etag := w.Header().Get("ETag")
	if again := get(t, api, "/openapi.json", "If-None-Match", etag); again.Code != http.StatusNotModified {
		t.Errorf("with %s: %d, want 304", etag, again.Code)
	}
}
