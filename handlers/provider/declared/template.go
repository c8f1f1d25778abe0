package declared

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/pricemill/pricemill/schema/names"
)

// What is filled in where a template has it in braces.
const (
	symbolPlace = "symbol"
	keyPlace    = "key"
)

// template is text with places: texts and places take turns, the first is a text.
type template []string

// parseTemplate reads text with places such as {symbol}.
func parseTemplate(text string, places ...string) (template, error) {
	var t template
	for {
		before, after, found := strings.Cut(text, "{")
		if strings.Contains(before, "}") {
			return nil, errors.New("a } without a {")
		}
		t = append(t, before)
		if !found {
			return t, nil
		}
		place, rest, closed := strings.Cut(after, "}")
		if !closed {
			return nil, errors.New("a { without a }")
		}
		known := false
		for _, p := range places {
			known = known || p == place
		}
		if !known {
			return nil, fmt.Errorf("there is no {%s} here; %s", place, names.Hint(place, places))
		}
		t, text = append(t, place), rest
	}
}

func (t template) has(place string) bool {
	for i := 1; i < len(t); i += 2 {
		if t[i] == place {
			return true
		}
	}
	return false
}

// fill puts values in the places.
func (t template) fill(values map[string]string) string {
	return t.fillFrom(func(place string) string { return values[place] })
}

func (t template) fillFrom(value func(place string) string) string {
	var b strings.Builder
	for i, text := range t {
		if i%2 == 1 {
			text = value(text)
		}
		b.WriteString(text)
	}
	return b.String()
}

// request is a path below the base URL, and a query.
type request struct {
	path  []template
	query map[string]template
}

// parseRequest reads "quote/{symbol}?apikey={key}".
func parseRequest(text string) (request, error) {
	r, err := parseBelow(text, append([]string{symbolPlace}, keyPlaces...)...)
	if err == nil && !r.has(symbolPlace) {
		err = errors.New("want {symbol} in it")
	}
	return r, err
}

// parseBelow reads a path below a base URL, and a query, with these places.
func parseBelow(text string, places ...string) (request, error) {
	path, query, _ := strings.Cut(text, "?")
	r := request{query: map[string]template{}}
	switch {
	case strings.ContainsAny(text, "# \t\r\n"):
		return r, errors.New("holds a space or a #")
	case strings.Contains(path, "://") || strings.HasPrefix(path, "//"):
		return r, errors.New("an address: want the path below base_url, such as quote/{symbol}")
	}
	for step := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if step == "" && strings.Trim(path, "/") == "" {
			break // all is in the query
		}
		if step == "" || step == "." || step == ".." {
			return r, fmt.Errorf("a path with %q between its slashes, which cannot be asked for: want one below base_url", step)
		}
		t, err := parseTemplate(step, places...)
		if err != nil {
			return r, err
		}
		r.path = append(r.path, t)
	}
	if strings.HasSuffix(path, "/") && len(r.path) > 0 {
		r.path = append(r.path, template{""})
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return r, errors.New("a query that cannot be read")
	}
	for name, all := range values {
		if len(all) > 1 || strings.Contains(name, "{") {
			return r, fmt.Errorf("parameter %q: want one value, and no place in its name", name)
		}
		t, err := parseTemplate(all[0], places...)
		if err != nil {
			return r, fmt.Errorf("parameter %q: %w", name, err)
		}
		r.query[name] = t
	}
	return r, nil
}

func (r request) has(place string) bool {
	for _, t := range r.path {
		if t.has(place) {
			return true
		}
	}
	for _, t := range r.query {
		if t.has(place) {
			return true
		}
	}
	return false
}

// fill returns the query and the steps of the path.
func (r request) fill(values map[string]string) (url.Values, []string) {
	query := url.Values{}
	for name, t := range r.query {
		query.Set(name, t.fill(values))
	}
	path := make([]string, len(r.path))
	for i, t := range r.path {
		path[i] = t.fill(values)
	}
	return query, path
}
