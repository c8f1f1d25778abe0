package contracttest

import (
	"net/http"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/pricemill/pricemill/schema"
)

// TestExamplesOfTheDocument holds the document against itself.
func TestExamplesOfTheDocument(t *testing.T) {
	t.Parallel()
	d, err := Load(schema.OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	l := loader{d, jsonschema.NewCompiler()}
	if err := l.compiler.AddResource(documentURL, any(d.raw)); err != nil {
		t.Fatal(err)
	}
	checked := 0
	var walk func(at string, node any)
	walk = func(at string, node any) {
		object, _ := node.(object)
		if _, hasSchema := object["schema"]; hasSchema {
			s, err := l.compile(at + "/schema")
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
			walk(at+pointer(key)[1:], child)
		}
	}
	walk("#", d.raw)
	if checked < 20 {
		t.Errorf("only %d examples found", checked)
	}
}

func examples(o object) []any {
	var found []any
	if one, ok := o["example"]; ok {
		found = append(found, one)
	}
	several, _ := o["examples"].(object)
	for _, one := range several {
		found = append(found, one.(object)["value"])
	}
	return found
}

const small = `{"components":{"schemas":{"Error":{"type":"object","required":["detail"],"properties":{"detail":{"type":"string"}}},"Problem":{"type":"object"}}},
"paths":{"/a/{id}":{"get":{"responses":{
	"200":{"headers":{"ETag":{"required":true,"schema":{"pattern":"^x$"}},"Age":{"schema":{"type":"integer"}}},
		"content":{"application/json":{"schema":{"type":"integer"}},"text/csv; header=present":{}}},
	"304":{}}}},"/a/b":{"get":{"responses":{"404":{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/Error"}}}}}}}}}`

// TestCheckFindsWhatIsWrong: a check that found nothing would prove nothing.
func TestCheckFindsWhatIsWrong(t *testing.T) {
	t.Parallel()
	d, err := Load([]byte(strings.Replace(small, `"text/csv; header=present":{}`, `"text/csv; header=present":{"schema":{}}`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	answer := func(status int, body string, headers ...string) Answer {
		a := Answer{Status: status, Header: http.Header{"Content-Type": {"application/json"}, "X-Content-Type-Options": {"nosniff"},
			"X-Frame-Options": {"DENY"}, "Referrer-Policy": {"no-referrer"}, "Cross-Origin-Resource-Policy": {"same-origin"},
			"Content-Security-Policy": {"default-src 'none'; frame-ancestors 'none'"}}, Body: []byte(body)}
		for i := 0; i < len(headers); i += 2 {
			if headers[i+1] == "" {
				a.Header.Del(headers[i])
			} else {
				a.Header.Add(headers[i], headers[i+1])
			}
		}
		return a
	}
	for _, test := range []struct {
		name, method, path string
		answer             Answer
		fault              string // none: it is as it should be
	}{
		{"good", "GET", "/a/1", answer(200, "7", "ETag", "x"), ""},
		{"head", "HEAD", "/a/1", answer(200, "", "ETag", "x"), ""},
		{"head with a body", "HEAD", "/a/1", answer(200, "7", "ETag", "x"), "HEAD has a body"},
		{"another media type", "GET", "/a/1", answer(200, "a", "ETag", "x", "Content-Type", "", "Content-Type", "text/csv; header=present"), ""},
		{"media type without its parameter", "GET", "/a/1", answer(200, "a", "ETag", "x", "Content-Type", "", "Content-Type", "text/csv"), "content type"},
		{"parameters are ours", "GET", "/a/1", answer(200, "7", "ETag", "x", "Content-Type", "", "Content-Type", "application/json; q=1"), ""},
		{"media type", "GET", "/a/1", answer(200, "7", "ETag", "x", "Content-Type", "", "Content-Type", "text/html"), "content type"},
		{"body", "GET", "/a/1", answer(200, `"7"`, "ETag", "x"), "body"},
		{"no JSON", "GET", "/a/1", answer(200, `7}`, "ETag", "x"), "body"},
		{"header missing", "GET", "/a/1", answer(200, "7"), "Etag: required"},
		{"header wrong", "GET", "/a/1", answer(200, "7", "ETag", "y"), "Etag"},
		{"header twice", "GET", "/a/1", answer(200, "7", "ETag", "x", "ETag", "x"), "2 times"},
		{"number", "GET", "/a/1", answer(200, "7", "ETag", "x", "Age", "1.5"), "Age"},
		{"header unknown", "GET", "/a/1", answer(200, "7", "ETag", "x", "Link", "<a>"), "Link"},
		{"header of a client", "GET", "/a/1", answer(200, "7", "ETag", "x", "X-Injected", "1"), "X-Injected"},
		{"security", "GET", "/a/1", answer(200, "7", "ETag", "x", "X-Frame-Options", ""), "X-Frame-Options"},
		{"policy", "GET", "/a/1", answer(200, "7", "ETag", "x", "Content-Security-Policy", ""), "Content-Security-Policy"},
		{"status", "GET", "/a/1", answer(500, `{"detail":"x"}`), "not in the document"},
		{"body without one", "GET", "/a/1", answer(304, "x"), "has a body"},
		{"named wins", "GET", "/a/b", answer(404, `{"detail":"x"}`), ""},
		{"no path", "GET", "/a/1/2", answer(404, `{"detail":"x"}`), ""},
		{"no path, and answered", "GET", "/a/1/2", answer(200, `{"detail":"x"}`), "not in the document"},
		{"no path, odd body", "GET", "/a/1/2", answer(404, `{}`), "body"},
		{"no method", "PUT", "/a/1", answer(405, `{"detail":"x"}`, "Allow", "GET"), ""},
		{"no method, none allowed", "PUT", "/a/1", answer(405, `{"detail":"x"}`), "Allow"},
		{"away", "GET", "/c/", answer(307, "", "Location", "//evil.example/"), "leads to"},
		{"here", "GET", "/c/", answer(307, "", "Location", "/c"), ""},
	} {
		err := d.Check(test.method, test.path, test.answer)
		if (err == nil) != (test.fault == "") || err != nil && !strings.Contains(err.Error(), test.fault) {
			t.Errorf("%s: %v, want %q", test.name, err, test.fault)
		}
	}
}
