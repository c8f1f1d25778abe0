package httpapi

import (
	"encoding/json"
	"testing"
)

// SymbolPattern is the pattern that faults and the document show.
const SymbolPattern = symbolPattern

// Cursor and Place are those of a listing.
func Cursor(of []string, place ...string) string { return listing(of).cursor(place...) }

// Place reads a cursor.
func Place(of []string, cursor string, parts int) ([]string, bool) {
	return listing(of).place(cursor, parts, parts)
}

// Routes lists method and path of every route.
func (a *API) Routes() [][2]string {
	var routes [][2]string
	for _, rt := range a.routes {
		routes = append(routes, [2]string{rt.method, rt.path})
	}
	return routes
}

// ScopeOf is the scope that a route needs; empty for none.
func ScopeOf(method, path string) string { return string(scopeOf(method, path)) }

// Document is the OpenAPI document with paths for indicators.
var Document = describeAPI

// Paths are those of an OpenAPI document, in its order.
func Paths(t testing.TB, text []byte) []string {
	t.Helper()
	var doc struct{ Paths members }
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range doc.Paths {
		names = append(names, m.name)
	}
	return names
}
