package contracttest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Answer is what came back for a request.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Check reports everything about an answer that is not as the document has it.
// Path is decoded.
func (d *Document) Check(method, path string, a Answer) error {
	o := d.Find(method, path)
	if o == nil {
		return d.checkUnrouted(fmt.Sprintf("%s %s: %d", method, path, a.Status), a)
	}
	what := fmt.Sprintf("%s %s: %d", method, o.Path, a.Status)
	documented, known := o.responses[a.Status]
	switch {
	case known:
		return errors.Join(checkSecured(what, a), documented.check(what, method, a))
	case a.Status == http.StatusTemporaryRedirect: // a parameter that ends in a slash
		return d.checkUnrouted(what, a)
	}
	return fmt.Errorf("%s: the status is not in the document", what)
}

// Judge reports whatever is wrong with the answer to a request that was made from
// the document. Two answers may always come: that the client asks too often, and
// that the service cannot answer now.
func (d *Document) Judge(r Request, a Answer) error {
	var errs []error
	if r.Raw == nil {
		errs = append(errs, d.Check(r.Method, r.DecodedPath(), a))
	} else if media := a.Header.Get("Content-Type"); media != "" && media != "text/plain; charset=utf-8" {
		errs = append(errs, fmt.Errorf("%d before any route: content type %q", a.Status, media))
	}
	always := a.Status == http.StatusTooManyRequests || a.Status == http.StatusServiceUnavailable
	if len(r.Statuses) > 0 && !always && !slices.Contains(r.Statuses, a.Status) {
		errs = append(errs, fmt.Errorf("%s, %s: %d, want one of %d: %.300q", r.Operation, r.Kind, a.Status, r.Statuses, a.Body))
	}
	return errors.Join(errs...)
}

// checkUnrouted allows what any path may be answered with.
func (d *Document) checkUnrouted(what string, a Answer) error {
	errs := []error{checkSecured(what, a)}
	switch a.Status {
	case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusForbidden, http.StatusMisdirectedRequest, http.StatusTooManyRequests:
		if len(a.Body) > 0 { // none for HEAD
			shape := d.failure
			if a.Header.Get("Content-Type") == problemMedia {
				shape = d.problem
			}
			errs = append(errs, checkJSON(what, shape, a.Body))
		}
		for name, status := range map[string]int{"Allow": http.StatusMethodNotAllowed, "Retry-After": http.StatusTooManyRequests} {
			if (a.Header.Get(name) != "") != (a.Status == status) {
				errs = append(errs, fmt.Errorf("%s: %s %q", what, name, a.Header.Get(name)))
			}
		}
	case http.StatusTemporaryRedirect:
		if to := a.Header.Get("Location"); !strings.HasPrefix(to, "/") || strings.HasPrefix(to, "//") {
			errs = append(errs, fmt.Errorf("%s: leads to %q", what, to))
		}
	default:
		errs = append(errs, fmt.Errorf("%s: not in the document", what))
	}
	return errors.Join(errs...)
}

// checkSecured looks for what every answer has that comes from the API.
func checkSecured(what string, a Answer) error {
	for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
		"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin"} {
		if got := a.Header.Get(name); got != want {
			return fmt.Errorf("%s: %s is %q, want %s", what, name, got, want)
		}
	}
	if policy := a.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; ") {
		return fmt.Errorf("%s: Content-Security-Policy is %q", what, policy)
	}
	return nil
}

// problemMedia is the media type of errors by RFC 9457.
const problemMedia = "application/problem+json"

// checked are the headers that an answer must not have undocumented.
var checked = []string{"Etag", "Age", "X-Log-Position", "Retry-After", "Link", "Vary", "Content-Encoding", "Location", "Allow"}

func (r response) check(what, method string, a Answer) error {
	a.Header = withoutOrigin(a.Header)
	var errs []error
	for name, h := range r.headers {
		values := a.Header.Values(name)
		if name == "Www-Authenticate" && len(values) > 1 { // a list, of which each is in a line of its own
			values = []string{strings.Join(values, ", ")}
		}
		errs = append(errs, h.check(what+" "+name, values))
	}
	for name := range a.Header {
		if _, documented := r.headers[name]; !documented && (slices.Contains(checked, name) || strings.HasPrefix(name, "X-Injected")) {
			errs = append(errs, fmt.Errorf("%s: header %s is not in the document", what, name))
		}
	}
	switch {
	case method == http.MethodHead:
		if len(a.Body) != 0 {
			errs = append(errs, fmt.Errorf("%s: HEAD has a body", what))
		}
	case len(r.bodies) == 0:
		if len(a.Body) != 0 {
			errs = append(errs, fmt.Errorf("%s: has a body, the document has none", what))
		}
	default:
		errs = append(errs, r.checkBody(what, a))
	}
	return errors.Join(errs...)
}

// withoutOrigin leaves out what Vary has on every answer of a service whose pages are
// those of certain origins.
func withoutOrigin(header http.Header) http.Header {
	header = header.Clone()
	if rest := strings.TrimPrefix(header.Get("Vary"), "Origin"); rest != "" {
		header.Set("Vary", strings.TrimPrefix(rest, ", "))
	} else {
		header.Del("Vary")
	}
	return header
}

// unpacked is a body as it was before it was compressed.
func unpacked(a Answer) ([]byte, error) {
	switch a.Header.Get("Content-Encoding") {
	case "gzip":
		r, err := gzip.NewReader(bytes.NewReader(a.Body))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	case "zstd":
		r, err := zstd.NewReader(nil)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return r.DecodeAll(a.Body, nil)
	}
	return a.Body, nil
}

func (r response) checkBody(what string, a Answer) error {
	media := a.Header.Get("Content-Type")
	body, known := r.bodies[media]
	if !known { // the document may leave the parameters to us
		media, _, _ = strings.Cut(media, ";")
		body, known = r.bodies[media]
	}
	if _, anything := r.bodies["*/*"]; !known && !anything {
		return fmt.Errorf("%s: content type %q is not in the document", what, media)
	}
	if known && (media == "application/json" || media == problemMedia) {
		text, err := unpacked(a)
		if err != nil {
			return fmt.Errorf("%s: unpacking the body: %w", what, err)
		}
		return checkJSON(what, body, text)
	}
	return nil
}

func (h header) check(what string, values []string) error {
	switch len(values) {
	case 0:
		if h.required {
			return fmt.Errorf("%s: required and missing", what)
		}
		return nil
	case 1:
	default:
		return fmt.Errorf("%s: given %d times", what, len(values))
	}
	var parsed any = values[0]
	if h.integer {
		parsed = json.Number(values[0])
	}
	if err := h.schema.Validate(parsed); err != nil {
		return fmt.Errorf("%s: %q: %w", what, values[0], err)
	}
	return nil
}

func checkJSON(what string, s *jsonschema.Schema, body []byte) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: body %.300q: %w", what, body, err)
	}
	if err := s.Validate(value); err != nil {
		return fmt.Errorf("%s: body %.300q: %w", what, body, err)
	}
	return nil
}
