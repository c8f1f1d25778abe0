package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// apiPrefix is the beginning of the paths whose parameters are checked.
const apiPrefix = "/api/v1/"

// maxUnknown bounds the unknown parameters that one answer lists.
const maxUnknown = 8

// documentedQueries reads the names of the query parameters of each operation, such
// as "GET /api/v1/symbols", from the OpenAPI document.
func documentedQueries(document []byte) (map[string][]string, error) {
	type parameter struct {
		Ref  string `json:"$ref"`
		Name string `json:"name"`
		In   string `json:"in"`
	}
	var doc struct {
		Paths map[string]map[string]struct {
			Parameters []parameter `json:"parameters"`
		} `json:"paths"`
		Components struct {
			Parameters map[string]parameter `json:"parameters"`
		} `json:"components"`
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, fmt.Errorf("reading the parameters of the OpenAPI document: %w", err)
	}
	queries := map[string][]string{}
	for path, operations := range doc.Paths {
		for method, operation := range operations {
			names := []string{}
			for _, p := range operation.Parameters {
				if p.Ref != "" {
					p = doc.Components.Parameters[strings.TrimPrefix(p.Ref, "#/components/parameters/")]
				}
				if p.In == "query" {
					names = append(names, p.Name)
				}
			}
			queries[strings.ToUpper(method)+" "+path] = names
		}
	}
	return queries, nil
}

// strict makes a route refuse query parameters other than those of these names. The
// original left them out; but who asks for period=10 must not get the answer for 20.
func (rt route) strict(names []string) route {
	serve := rt.serve
	rt.serve = func(w http.ResponseWriter, r *http.Request) error {
		if err := checkQuery(r.URL.RawQuery, names); err != nil {
			return err
		}
		return serve(w, r)
	}
	return rt
}

func checkQuery(raw string, names []string) error {
	if isPlainQuery(raw, names) {
		return nil
	}
	values, err := url.ParseQuery(raw)
	if err != nil { // url.Values of a request leave out what cannot be read
		return faults{place{[]any{"query"}, abbreviate(raw)}.wrong("malformed query: " + abbreviate(err.Error()))}
	}
	var unknown []string
	for name := range values {
		if !slices.Contains(names, name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	var found faults
	for _, name := range unknown[:min(len(unknown), maxUnknown)] {
		given := values[name]
		found = append(found, inQuery(abbreviate(name), abbreviate(given[len(given)-1])).extra(names))
	}
	return found.orNil()
}

// isPlainQuery reports whether all parameters have one of these names, as most do, without
// taking the query apart: false says nothing.
func isPlainQuery(raw string, names []string) bool {
	if strings.ContainsAny(raw, "%;") { // there may be something wrong with it
		return false
	}
	for part := range strings.SplitSeq(raw, "&") {
		if name, _, _ := strings.Cut(part, "="); part != "" && !slices.Contains(names, name) {
			return false
		}
	}
	return true
}
