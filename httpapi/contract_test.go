package httpapi_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/pricemill/pricemill/httpapi"
	"github.com/pricemill/pricemill/schema"
)

// contract is the OpenAPI document, ready to be held against responses. It is
// compiled once, since the compiler takes longer than most tests.
type contract struct {
	doc        map[string]any
	operations map[string]operation // by "get /path"
	failure    *jsonschema.Schema   // of 404 and 405 where the document has none
}

type operation map[string]response // by status

type response struct {
	bodies  map[string]*jsonschema.Schema // by media type; empty for no body
	headers map[string]header
}

type header struct {
	required bool
	schema   *jsonschema.Schema
	integer  bool
}

var loadContract = sync.OnceValues(func() (*contract, error) {
	text, err := httpapi.Document(map[string]httpapi.Indicator{"bands": bands{}})
	if err != nil {
		return nil, err
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("reading the document: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("mem:///openapi.json", parsed); err != nil {
		return nil, fmt.Errorf("adding the document: %w", err)
	}
	b := builder{contract{doc: parsed.(map[string]any), operations: map[string]operation{}}, compiler}
	return b.build()
})

type builder struct {
	contract
	compiler *jsonschema.Compiler
}

func (b *builder) build() (*contract, error) {
	for path, item := range b.doc["paths"].(map[string]any) {
		for method, raw := range item.(map[string]any) {
			op := operation{}
			for status := range raw.(map[string]any)["responses"].(map[string]any) {
				r, err := b.response(pointer("paths", path, method, "responses", status))
				if err != nil {
					return nil, err
				}
				op[status] = r
			}
			b.operations[method+" "+path] = op
		}
	}
	var err error
	b.failure, err = b.compile("#/components/schemas/Error")
	return &b.contract, err
}

func pointer(parts ...string) string {
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	var out strings.Builder
	out.WriteString("#")
	for _, part := range parts {
		out.WriteString("/" + escape.Replace(part))
	}
	return out.String()
}

// resolve follows a pointer and the references on its way.
func (b *builder) resolve(at string) (map[string]any, string) {
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	value := b.doc
	for part := range strings.SplitSeq(strings.TrimPrefix(at, "#/"), "/") {
		value = value[unescape.Replace(part)].(map[string]any)
	}
	if target, isRef := value["$ref"].(string); isRef {
		return b.resolve(target)
	}
	return value, at
}

func (b *builder) compile(at string) (*jsonschema.Schema, error) {
	// The characters of a pointer that a URL fragment must not hold.
	escaped := strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D", " ", "%20").Replace(at)
	compiled, err := b.compiler.Compile("mem:///openapi.json" + escaped)
	if err != nil {
		return nil, fmt.Errorf("compiling %s: %w", at, err)
	}
	return compiled, nil
}

func (b *builder) response(at string) (response, error) {
	raw, at := b.resolve(at)
	r := response{bodies: map[string]*jsonschema.Schema{}, headers: map[string]header{}}
	content, _ := raw["content"].(map[string]any)
	for media := range content {
		var err error
		if r.bodies[media], err = b.compile(at + strings.TrimPrefix(pointer("content", media, "schema"), "#")); err != nil {
			return r, err
		}
	}
	headers, _ := raw["headers"].(map[string]any)
	for name := range headers {
		rawHeader, headerAt := b.resolve(at + strings.TrimPrefix(pointer("headers", name), "#"))
		compiled, err := b.compile(headerAt + "/schema")
		if err != nil {
			return r, err
		}
		required, _ := rawHeader["required"].(bool)
		r.headers[http.CanonicalHeaderKey(name)] = header{required, compiled, rawHeader["schema"].(map[string]any)["type"] == "integer"}
	}
	return r, nil
}

func mustContract(t testing.TB) *contract {
	t.Helper()
	c, err := loadContract()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// checkContract fails the test where a response is not what the document says.
func checkContract(t testing.TB, r *http.Request, w *httptest.ResponseRecorder) {
	t.Helper()
	c := mustContract(t)
	method := strings.ToLower(r.Method)
	if method == "head" {
		method = "get"
	}
	path, op := c.find(method, r.URL.Path)
	if op == nil {
		c.checkUnrouted(t, r, w)
		return
	}
	documented, known := op[fmt.Sprint(w.Code)]
	if !known {
		t.Errorf("%s %s: status %d is not in the document", r.Method, path, w.Code)
		return
	}
	documented.check(t, fmt.Sprintf("%s %s: %d", r.Method, path, w.Code), w)
}

// find returns the operation of a path: the one with its very name, or else one
// whose template it fits.
func (c *contract) find(method, path string) (template string, op operation) {
	if op, named := c.operations[method+" "+path]; named {
		return path, op
	}
	parts := strings.Split(path, "/")
	for name, op := range c.operations {
		verb, template, _ := strings.Cut(name, " ")
		wanted := strings.Split(template, "/")
		if verb == method && slices.EqualFunc(parts, wanted, func(part, want string) bool {
			return part == want || strings.HasPrefix(want, "{") && part != ""
		}) {
			return template, op
		}
	}
	return "", nil
}

// checkUnrouted allows what any path may be answered with.
func (c *contract) checkUnrouted(t testing.TB, r *http.Request, w *httptest.ResponseRecorder) {
	t.Helper()
	what := fmt.Sprintf("%s %s: %d", r.Method, r.URL.Path, w.Code)
	switch w.Code {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusTooManyRequests:
		validateJSON(t, what, c.failure, w.Body.Bytes())
	case http.StatusTemporaryRedirect:
	default:
		t.Errorf("%s: not in the document", what)
	}
}

func (d response) check(t testing.TB, what string, w *httptest.ResponseRecorder) {
	t.Helper()
	for name, h := range d.headers {
		h.check(t, what+" "+name, w.Header().Get(name))
	}
	for _, name := range []string{"Etag", "Age", "X-Log-Position", "Retry-After", "Link"} {
		if _, documented := d.headers[name]; !documented && w.Header().Get(name) != "" {
			t.Errorf("%s: header %s is not in the document", what, name)
		}
	}
	if len(d.bodies) == 0 {
		if w.Body.Len() != 0 {
			t.Errorf("%s: has a body, the document has none", what)
		}
		return
	}
	media := w.Header().Get("Content-Type")
	body, known := d.bodies[media]
	if _, any := d.bodies["*/*"]; !known && !any {
		t.Errorf("%s: content type %q is not in the document", what, media)
	}
	if known && media == "application/json" {
		validateJSON(t, what, body, w.Body.Bytes())
	}
}

func (h header) check(t testing.TB, what, value string) {
	t.Helper()
	if value == "" {
		if h.required {
			t.Errorf("%s: required and missing", what)
		}
		return
	}
	var parsed any = value
	if h.integer {
		parsed = json.Number(value)
	}
	if err := h.schema.Validate(parsed); err != nil {
		t.Errorf("%s: %q: %v", what, value, err)
	}
}

func validateJSON(t testing.TB, what string, s *jsonschema.Schema, body []byte) {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		t.Errorf("%s: body %q: %v", what, body, err)
		return
	}
	if err := s.Validate(value); err != nil {
		t.Errorf("%s: body %s: %v", what, body, err)
	}
}

func TestDocumentHasEveryRoute(t *testing.T) {
	t.Parallel()
	c := mustContract(t)
	for _, rt := range newAPI(t, nil).Routes() {
		if _, documented := c.operations[strings.ToLower(rt[0])+" "+rt[1]]; !documented {
			t.Errorf("%s %s is not in the document", rt[0], rt[1])
		}
	}
}

func TestEveryDocumentedPathIsRouted(t *testing.T) {
	t.Parallel()
	api := newAPI(t, nil)
	for name := range mustContract(t).operations {
		method, path, _ := strings.Cut(name, " ")
		path = strings.NewReplacer("{asset}", "swagger-ui.css", "{job_id}", "poll_abc12345", "{stream_id}", "stream_abc12345", "{name}", "bands").Replace(path)
		w := httptest.NewRecorder()
		api.ServeHTTP(w, request(strings.ToUpper(method), path, ""))
		if w.Code == http.StatusMethodNotAllowed || w.Code == http.StatusNotFound {
			t.Errorf("%s is in the document and answers %d", name, w.Code)
		}
	}
}

// TestExamplesOfTheDocument holds the document against itself.
func TestExamplesOfTheDocument(t *testing.T) {
	t.Parallel()
	c := mustContract(t)
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("mem:///openapi.json", c.doc); err != nil {
		t.Fatal(err)
	}
	b := builder{*c, compiler}
	checked := 0
	var walk func(at string, node any)
	walk = func(at string, node any) {
		object, _ := node.(map[string]any)
		if _, hasSchema := object["schema"]; hasSchema {
			s, err := b.compile(at + "/schema")
			if err != nil {
				t.Fatal(err)
			}
			for _, example := range examples(object) {
				checked++
				if err := s.Validate(example); err != nil {
					t.Errorf("example at %s: %v", at, err)
				}
			}
		}
		for key, child := range object {
			walk(at+strings.TrimPrefix(pointer(key), "#"), child)
		}
	}
	walk("#", c.doc)
	if checked < 20 {
		t.Errorf("only %d examples found", checked)
	}
}

func examples(object map[string]any) []any {
	var found []any
	if one, ok := object["example"]; ok {
		found = append(found, one)
	}
	several, _ := object["examples"].(map[string]any)
	for _, one := range several {
		found = append(found, one.(map[string]any)["value"])
	}
	return found
}

func TestOpenAPIIsServedAsItIs(t *testing.T) {
	t.Parallel()
	api := newAPI(t, func(s *setup) { s.Indicators = nil }) // with some, see TestDocumentDescribesIndicators
	w := get(t, api, "/openapi.json")
	body, err := io.ReadAll(w.Body)
	if err != nil || !bytes.Equal(body, schema.OpenAPI()) {
		t.Errorf("the served document is another (%v)", err)
	}
	etag := w.Header().Get("ETag")
	if again := get(t, api, "/openapi.json", "If-None-Match", etag); again.Code != http.StatusNotModified {
		t.Errorf("with %s: %d, want 304", etag, again.Code)
	}
}
