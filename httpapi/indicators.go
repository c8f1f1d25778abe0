package httpapi

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/gorilla/mux"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema/names"
	"github.com/pricemill/pricemill/schema/parquet"
)

// Indicator answers GET indicators/{indicator} of one name.
type Indicator interface {
	// Indicator describes the query, which is checked before Points is called.
	Indicator() projections.IndicatorDoc
	// Points is as projections.Indicator's.
	Points(ctx context.Context, q projections.IndicatorQuery) ([]projections.Point, error)
}

// indicatorItem is a point as it is written.
type indicatorItem struct {
	columns []string
	values  []any
}

// MarshalJSON writes the values in the order of the columns.
func (i indicatorItem) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	for at, column := range i.columns {
		if at > 0 {
			out.WriteByte(',')
		}
		value, err := encode(i.values[at])
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, "%q:%s", column, value)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

func (i indicatorItem) row() []any { return i.values }

// indicatorColumns are those of an item.
func indicatorColumns(d projections.IndicatorDoc) []parquet.Column {
	var repeated []string
	for _, p := range d.Repeated() {
		repeated = append(repeated, p.Name)
	}
	return IndicatorColumns(repeated, d.Columns)
}

// getIndicator makes the handler of one indicator.
func (a *API) getIndicator(name string, indicator Indicator) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error { return a.serveIndicator(w, r, name, indicator) }
}

func (a *API) serveIndicator(w http.ResponseWriter, r *http.Request, name string, indicator Indicator) error {
	d := indicator.Indicator()
	parameters := map[string]string{}
	asked, err := a.readHistoryQuery(w, r, func(q *query) []string {
		var key []string
		for _, p := range d.Parameters {
			parameters[p.Name] = q.parameter(p)
			key = append(key, parameters[p.Name])
		}
		return key
	}, name, processedprices.Name)
	if err != nil {
		return err
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	points, err := indicator.Points(ctx, projections.IndicatorQuery{Provider: asked.Provider, Symbol: asked.Symbol, Parameters: parameters,
		Behind: asked.Behind, From: asked.From, Limit: asked.Limit + 1, AsOf: asked.AsOf})
	if err = cannotReadAsOf(err); err != nil {
		return fmt.Errorf("reading indicator %s of %s at %s: %w", name, asked.Symbol, asked.Provider, err)
	}
	if asked.adjusts {
		f, err := a.factors(ctx, w, asked.Provider, asked.Symbol)
		if err != nil {
			return err
		}
		if err := adjustCandles(points[:min(len(points), asked.Limit)], parameters["interval"], f); err != nil {
			return err
		}
	}
	a.showAge(w, name)
	columns := indicatorColumns(d)
	names := namesOf(columns)
	page := newPage(points, asked.Limit, func(p projections.Point) indicatorItem {
		values := []any{string(asked.Symbol), string(asked.Provider)}
		for _, parameter := range d.Repeated() {
			values = append(values, parameters[parameter.Name])
		}
		return indicatorItem{names, append(append(values, p.Timestamp), p.Values...)}
	}, func(p projections.Point) string { return asked.cursorOf(p.Place) })
	page.Adjusted = asked.adjusts
	if err := a.markList(ctx, w, asked.Provider, asked.Symbol, len(page.Items)); err != nil {
		return err
	}
	return writeSeries(w, r, page, columns)
}

// indicatorInfo is a line of GET indicators.
type indicatorInfo struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	On          bool            `json:"on"`
	Parameters  []parameterInfo `json:"parameters"`
	Values      []valueInfo     `json:"values"`
}

// parameterInfo has either choices or bounds.
type parameterInfo struct {
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Default     string   `json:"default"`
	Choices     []string `json:"choices,omitempty"`
	Minimum     *int64   `json:"minimum,omitempty"`
	Maximum     *int64   `json:"maximum,omitempty"`
	Convention  bool     `json:"convention,omitempty"`
}

type valueInfo struct {
	Name        string                 `json:"name"`
	Description string                 `json:"description"`
	Type        projections.ColumnType `json:"type"`
	Nullable    bool                   `json:"nullable,omitempty"`
}

// getIndicators lists all indicators of this binary in one page.
func (a *API) getIndicators(w http.ResponseWriter, r *http.Request) error {
	page := listBody[indicatorInfo]{Items: []indicatorInfo{}}
	for name, indicator := range a.ports.Indicators {
		page.Items = append(page.Items, describeIndicator(name, indicator.Indicator(), true))
	}
	for name, d := range a.ports.SwitchedOff {
		page.Items = append(page.Items, describeIndicator(name, d, false))
	}
	slices.SortFunc(page.Items, func(a, b indicatorInfo) int { return strings.Compare(a.Name, b.Name) })
	a.writeState(w, r, page)
	return nil
}

func describeIndicator(name string, d projections.IndicatorDoc, on bool) indicatorInfo {
	info := indicatorInfo{Name: name, Description: d.Doc, On: on, Parameters: []parameterInfo{}, Values: []valueInfo{}}
	for _, p := range d.Parameters {
		parameter := parameterInfo{Name: p.Name, Description: p.Doc, Default: p.Default, Choices: p.Choices, Convention: p.Convention}
		if len(p.Choices) == 0 {
			parameter.Minimum, parameter.Maximum = &p.Low, &p.High
		}
		info.Parameters = append(info.Parameters, parameter)
	}
	for _, c := range d.Columns {
		info.Values = append(info.Values, valueInfo{c.Name, c.Doc, c.Type, c.Nullable})
	}
	return info
}

// noIndicator answers for the names that no indicator has, or one that is switched off.
func (a *API) noIndicator(_ http.ResponseWriter, r *http.Request) error {
	name := mux.Vars(r)["indicator"]
	if a.ports.SwitchedOff[name].Doc != "" {
		return newError(codeNotFound, "Indicator %q is switched off; start the service with PLUGINS=%s, which may name several, separated by commas", name, name)
	}
	known := slices.Sorted(maps.Keys(a.ports.Indicators))
	return newError(codeNotFound, "Unknown indicator %q; %s", abbreviate(name), names.Hint(name, known))
}

// parameter reads a parameter that an indicator describes.
func (q *query) parameter(p projections.Parameter) string {
	if len(p.Choices) == 0 {
		absent, _ := strconv.ParseInt(p.Default, 10, 64) // checked when it was described
		return strconv.FormatInt(q.integer(p.Name, absent, p.Low, p.High), 10)
	}
	text, given := q.get(p.Name)
	if !given {
		return p.Default
	}
	if !slices.Contains(p.Choices, text) {
		q.faults = append(q.faults, inQuery(p.Name, text).notOneOf(choices(p.Choices)))
	}
	return text
}

// choices is 'a', 'b' or 'c'.
func choices(all []string) string {
	last := "'" + all[len(all)-1] + "'"
	if len(all) == 1 {
		return last
	}
	return "'" + strings.Join(all[:len(all)-1], "', '") + "' or " + last
}
