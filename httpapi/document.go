package httpapi

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/candles"
	"github.com/pricemill/pricemill/schema"
)

// indicatorPath is the path of an indicator, and that of all of them.
const indicatorPath = "/api/v1/indicators/"

// describeAPI is the OpenAPI document with a path for each indicator, before the one
// for all of them, which is left out if there is none. What they have in common is
// that of the path with the parameter indicator.
func describeAPI(indicators map[string]Indicator) ([]byte, error) {
	var doc members
	if err := json.Unmarshal(schema.OpenAPI(), &doc); err != nil {
		return nil, fmt.Errorf("reading the OpenAPI document: %w", err)
	}
	names := slices.Sorted(maps.Keys(indicators))
	err := edit(doc, "paths", func(paths members) (members, error) {
		at := slices.IndexFunc(paths, func(m member) bool { return m.name == indicatorPath+"{indicator}" })
		if len(names) == 0 {
			return slices.Delete(paths, at, at+1), nil
		}
		var described members
		for _, name := range names {
			var path map[string]any
			if err := json.Unmarshal(paths[at].value, &path); err != nil {
				return nil, fmt.Errorf("reading the path of indicators: %w", err)
			}
			describe(path["get"].(map[string]any), name, indicators[name].Indicator())
			value, err := json.Marshal(path)
			if err != nil {
				return nil, fmt.Errorf("describing indicator %s: %w", name, err)
			}
			described = append(described, member{indicatorPath + name, value})
		}
		err := edit(paths[at:at+1], paths[at].name, func(path map[string]any) (map[string]any, error) {
			for _, p := range path["get"].(map[string]any)["parameters"].([]any) {
				if p := p.(map[string]any); p["name"] == "indicator" {
					p["example"] = names[0]
				}
			}
			return path, nil
		})
		return slices.Insert(paths, at, described...), err
	})
	if err != nil {
		return nil, fmt.Errorf("describing the indicators: %w", err)
	}
	return json.Marshal(doc)
}

// adjustedParameter is where the document describes it. Of the indicators, candles have it.
const adjustedParameter = "#/components/parameters/Adjusted"

// describe makes the operation of all indicators that of one.
func describe(operation map[string]any, name string, d projections.IndicatorDoc) {
	operation["operationId"] = "indicator_" + name
	operation["summary"] = "Indicator " + name
	operation["description"] = d.Doc + " Newest first. JSON, CSV (RFC 4180) if the client prefers `text/csv`, or Parquet if it prefers `application/vnd.apache.parquet`."
	var parameters []any
	for _, p := range d.Parameters {
		parameters = append(parameters, parameterDoc(p))
	}
	for _, p := range operation["parameters"].([]any) {
		if p.(map[string]any)["name"] != "indicator" {
			parameters = append(parameters, p)
		}
	}
	if name == candles.Name {
		parameters = append(parameters, map[string]any{"$ref": adjustedParameter})
		operation["responses"].(map[string]any)["409"] = map[string]any{"$ref": "#/components/responses/NotAdjusted"}
	}
	operation["parameters"] = parameters
	responses := operation["responses"].(map[string]any)
	delete(responses, "404")
	content := responses["200"].(map[string]any)["content"].(map[string]any)
	content[jsonContent].(map[string]any)["schema"] = pageDoc(d)
}

func parameterDoc(p projections.Parameter) map[string]any {
	form := map[string]any{"type": "string", "enum": p.Choices, "default": p.Default}
	if len(p.Choices) == 0 {
		standard, _ := strconv.ParseInt(p.Default, 10, 64) // checked when it was described
		form = map[string]any{"type": "integer", "minimum": p.Low, "maximum": p.High, "default": standard}
	}
	return map[string]any{"name": p.Name, "in": "query", "description": p.Doc, "schema": form}
}

// pageDoc is the schema of a page.
func pageDoc(d projections.IndicatorDoc) map[string]any {
	properties := map[string]any{
		"symbol":    map[string]any{"$ref": "#/components/schemas/Symbol"},
		"provider":  map[string]any{"$ref": "#/components/schemas/Provider"},
		"timestamp": map[string]any{"type": "string", "format": "date-time", "description": "The event time of the point."},
	}
	for _, p := range d.Repeated() {
		properties[p.Name] = map[string]any{"type": "string", "description": p.Doc}
	}
	for _, c := range d.Columns {
		properties[c.Name] = columnDoc(c)
	}
	return map[string]any{"type": "object", "required": []string{"items"}, "properties": map[string]any{
		"items": map[string]any{"type": "array", "items": map[string]any{"type": "object",
			"required": namesOf(indicatorColumns(d)), "properties": properties}},
		"adjusted":    map[string]any{"type": "boolean", "description": "Present and true where the values are adjusted for splits and dividends."},
		"next_cursor": map[string]any{"type": "string", "description": "Leads to the next page; absent on the last one."},
	}}
}

func columnDoc(c projections.Column) map[string]any {
	form := map[string]any{"description": c.Doc}
	kind := map[projections.ColumnType]string{projections.DecimalColumn: "number", projections.IntColumn: "integer",
		projections.TimeColumn: "string", projections.TextColumn: "string"}[c.Type]
	switch c.Type {
	case projections.TimeColumn:
		form["format"] = "date-time"
	case projections.DecimalColumn:
		form["format"] = "double" // without one, generators of clients take a float of 32 bits
	}
	form["type"] = kind
	if c.Nullable {
		form["type"] = []string{kind, "null"}
	}
	return form
}

// getAsyncAPI serves the document of the log, which others made.
func (a *API) getAsyncAPI(w http.ResponseWriter, r *http.Request) error {
	newDocument(jsonContent, a.ports.AsyncAPI).write(w, r, cacheDocument)
	return nil
}
