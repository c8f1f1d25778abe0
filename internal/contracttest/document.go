// Package contracttest holds an HTTP API against its OpenAPI document: it reads
// the document, makes requests of every sort from it, and tells whether an answer
// is what the document says.
package contracttest

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Document is an OpenAPI document, ready to be held against answers. It is safe
// for concurrent use.
type Document struct {
	raw        map[string]any
	operations []*Operation
	failure    *jsonschema.Schema // the body of 404 and 405 of what is not documented
	problem    *jsonschema.Schema // the same by RFC 9457
}

// Operation is a method of a path.
type Operation struct {
	// Method is in upper case.
	Method string
	// Path is a template, such as /api/v1/streams/{stream_id}.
	Path string
	// Scope is the scope that an API key must have; empty where none is needed.
	Scope string

	responses  map[int]response
	parameters []parameter
	body       object // the schema of the request's body; nil for none
	form       bool   // the body is the form of a page, not JSON
}

func (o *Operation) String() string { return o.Method + " " + o.Path }

// QueryParameters are the names of the parameters of the query, in their order.
func (o *Operation) QueryParameters() []string {
	var names []string
	for _, p := range o.parameters {
		if p.in == "query" {
			names = append(names, p.name)
		}
	}
	return names
}

// Statuses are those that the document has for the operation, in order.
func (o *Operation) Statuses() []int {
	var all []int
	for status := range o.responses {
		all = append(all, status)
	}
	slices.Sort(all)
	return all
}

// ResponseHeaders are the names of the headers that the document has for answers, in
// order.
func (d *Document) ResponseHeaders() []string {
	names := map[string]bool{}
	for _, o := range d.operations {
		for _, r := range o.responses {
			for name := range r.headers {
				names[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// RequestHeaders are the names of the headers that the document has for requests, in
// order.
func (d *Document) RequestHeaders() []string {
	names := map[string]bool{}
	for _, o := range d.operations {
		for _, p := range o.parameters {
			if p.in == "header" {
				names[p.name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// object is a JSON object of the document.
type object = map[string]any

// parameter is a value of a request outside its body.
type parameter struct {
	name, in string // in: path, query, header
	required bool
	schema   object
	example  any // nil for none
}

type response struct {
	bodies  map[string]*jsonschema.Schema // by media type; empty for no body
	headers map[string]header             // by canonical name
	linked  map[string]string             // headers that links take for a parameter of a path
}

type header struct {
	required bool
	integer  bool
	schema   *jsonschema.Schema
}

// where the compiler finds the document.
const documentURL = "mem:///openapi.json"

// Load reads a document.
func Load(text []byte) (*Document, error) {
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("reading the document: %w", err)
	}
	raw, isObject := parsed.(object)
	if !isObject {
		return nil, fmt.Errorf("reading the document: it is no JSON object")
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource(documentURL, parsed); err != nil {
		return nil, fmt.Errorf("adding the document: %w", err)
	}
	l := loader{&Document{raw: raw}, compiler}
	for path, item := range raw["paths"].(object) {
		for method, one := range item.(object) {
			operation, err := l.operation(pointer("paths", path, method), one.(object))
			if err != nil {
				return nil, err
			}
			operation.Method, operation.Path = strings.ToUpper(method), path
			l.operations = append(l.operations, operation)
		}
	}
	slices.SortFunc(l.operations, func(a, b *Operation) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(a.Method, b.Method))
	})
	if l.failure, err = l.compile("#/components/schemas/Error"); err != nil {
		return nil, err
	}
	l.problem, err = l.compile("#/components/schemas/Problem")
	return l.Document, err
}

// loader is a document that is being read.
type loader struct {
	*Document
	compiler *jsonschema.Compiler
}

func (l loader) operation(at string, raw object) (*Operation, error) {
	o := &Operation{responses: map[int]response{}, Scope: scopeOf(raw)}
	for status := range raw["responses"].(object) {
		r, err := l.response(at + pointer("responses", status)[1:])
		if err != nil {
			return nil, err
		}
		var number int
		if _, err := fmt.Sscan(status, &number); err != nil {
			return nil, fmt.Errorf("reading the status %q at %s: %w", status, at, err)
		}
		o.responses[number] = r
	}
	parameters, _ := raw["parameters"].([]any)
	for _, one := range parameters {
		p := l.follow(one.(object))
		required, _ := p["required"].(bool)
		o.parameters = append(o.parameters, parameter{p["name"].(string), p["in"].(string), required,
			l.follow(p["schema"].(object)), p["example"]})
	}
	if body, ok := raw["requestBody"].(object); ok {
		media, isJSON := l.follow(body)["content"].(object)["application/json"].(object)
		if o.form = !isJSON; isJSON {
			o.body = l.follow(media["schema"].(object))
		}
	}
	return o, nil
}

// scopeOf is the scope that one of the ways to authenticate names.
func scopeOf(raw object) string {
	ways, _ := raw["security"].([]any)
	for _, way := range ways {
		for _, scopes := range way.(object) {
			for _, scope := range scopes.([]any) {
				return scope.(string)
			}
		}
	}
	return ""
}

func (l loader) response(at string) (response, error) {
	raw, at := l.resolve(at)
	r := response{bodies: map[string]*jsonschema.Schema{}, headers: map[string]header{}, linked: map[string]string{}}
	links, _ := raw["links"].(object)
	for _, link := range links {
		parameters, _ := link.(object)["parameters"].(object)
		for name, expression := range parameters {
			text, _ := expression.(string)
			if from, isHeader := strings.CutPrefix(text, "$response.header."); isHeader {
				r.linked[http.CanonicalHeaderKey(from)] = name
			}
		}
	}
	content, _ := raw["content"].(object)
	for media := range content {
		var err error
		if r.bodies[media], err = l.compile(at + pointer("content", media, "schema")[1:]); err != nil {
			return r, err
		}
	}
	headers, _ := raw["headers"].(object)
	for name := range headers {
		rawHeader, headerAt := l.resolve(at + pointer("headers", name)[1:])
		compiled, err := l.compile(headerAt + "/schema")
		if err != nil {
			return r, err
		}
		required, _ := rawHeader["required"].(bool)
		r.headers[http.CanonicalHeaderKey(name)] = header{required, rawHeader["schema"].(object)["type"] == "integer", compiled}
	}
	return r, nil
}

// pointer is a JSON pointer as a fragment.
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
func (d *Document) resolve(at string) (object, string) {
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	value := d.raw
	for part := range strings.SplitSeq(strings.TrimPrefix(at, "#/"), "/") {
		value = value[unescape.Replace(part)].(object)
	}
	if target, isRef := value["$ref"].(string); isRef {
		return d.resolve(target)
	}
	return value, at
}

// follow returns what an object stands for if it is a reference.
func (d *Document) follow(value object) object {
	if target, isRef := value["$ref"].(string); isRef {
		value, _ = d.resolve(target)
	}
	return value
}

func (l loader) compile(at string) (*jsonschema.Schema, error) {
	// The characters of a pointer that a URL fragment must not hold.
	escaped := strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D", " ", "%20").Replace(at)
	compiled, err := l.compiler.Compile(documentURL + escaped)
	if err != nil {
		return nil, fmt.Errorf("compiling %s: %w", at, err)
	}
	return compiled, nil
}

// Operations are all that the document has, by path and method.
func (d *Document) Operations() []*Operation { return d.operations }

// Find returns the operation that answers a method of a path, or nil: the one
// with its very name, or else one whose template it fits. HEAD is answered by GET.
func (d *Document) Find(method, path string) *Operation {
	if method == http.MethodHead {
		method = http.MethodGet
	}
	var fitting *Operation
	parts := strings.Split(path, "/")
	for _, o := range d.operations {
		if o.Method != method {
			continue
		}
		if o.Path == path {
			return o
		}
		if slices.EqualFunc(parts, strings.Split(o.Path, "/"), func(part, want string) bool {
			return part == want || strings.HasPrefix(want, "{") && part != ""
		}) {
			fitting = o
		}
	}
	return fitting
}
