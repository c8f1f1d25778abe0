package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
)

const (
	historyBatchPath = "/api/v1/prices/history:batch"
	// maxSeries is how many series one request may ask for.
	maxSeries = 100
	// maxBatchRows is how many prices one answer may have.
	maxBatchRows = 10_000
)

// seriesMembers are those of a series in the body of POST history:batch.
var seriesMembers = []string{"cursor", "from", "limit", "provider", "symbol", "to"}

// historyBatch answers POST history:batch.
type historyBatch struct {
	Series []batchSeries `json:"series"` // in the order of the request
}

// batchSeries is a page of a series, or why there is none.
type batchSeries struct {
	// Symbol and Provider are as the page has them; empty where there is an error.
	Symbol     schema.Symbol   `json:"symbol,omitempty"`
	Provider   schema.Provider `json:"provider,omitempty"`
	Items      []pastPrice     `json:"items,omitzero"`
	NextCursor string          `json:"next_cursor,omitempty"`
	Error      *problem        `json:"error,omitempty"`
}

// postHistoryBatch reads pages of several series. It changes nothing: it is a POST because
// the series would not fit into an address.
func (a *API) postHistoryBatch(w http.ResponseWriter, r *http.Request) error {
	members, err := readSeriesMembers(r)
	if err != nil {
		return err
	}
	body := historyBatch{make([]batchSeries, len(members))}
	var asked []historyQuery
	var at []int // the series of each
	rows := 0
	for i, raw := range members {
		q, err := a.readBatchQuery(raw, i, maxBatchRows-rows)
		if err != nil {
			body.Series[i].Error = newProblem(a.seriesError(err))
			continue
		}
		rows += q.Limit
		asked, at = append(asked, q), append(at, i)
	}
	queries := make([]processedprices.Query, len(asked))
	for i, q := range asked {
		queries[i] = q.oneMore()
	}
	ctx, cancel := withQueryTimeout(r)
	defer cancel()
	pages, err := a.ports.Prices.PricesOf(ctx, queries)
	if err != nil {
		return fmt.Errorf("listing the prices of %d series: %w", len(queries), err)
	}
	for i, q := range asked {
		page := q.page(pages[i])
		body.Series[at[i]] = batchSeries{Symbol: q.Symbol, Provider: q.Provider, Items: page.Items, NextCursor: page.NextCursor}
		if len(page.Items) > 0 {
			a.markSimulated(w, q.Provider)
		}
	}
	text, err := encode(body)
	if err != nil {
		return err
	}
	header := w.Header()
	vary(header, "Accept-Encoding")
	header.Set("Cache-Control", cacheNever)
	header.Set("Content-Type", jsonContent)
	text = pack(header, r, jsonContent, text)
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(text) // as in writeBody
	return nil
}

// readSeriesMembers reads the body as far as it is about all series.
func readSeriesMembers(r *http.Request) ([]json.RawMessage, error) {
	data, err := readBody(r)
	if err != nil {
		return nil, err
	}
	d, err := newBodyDecoder(data)
	if err != nil {
		return nil, err
	}
	raw, at, given := d.field("series")
	if !given {
		return nil, d.faults
	}
	var series []json.RawMessage
	switch {
	case raw[0] != '[' || json.Unmarshal(raw, &series) != nil:
		return nil, faults{at.notList()}
	case len(series) == 0:
		return nil, faults{at.shortList(1, 0)}
	case len(series) > maxSeries:
		return nil, faults{at.longList(maxSeries, len(series))}
	}
	return series, nil
}

// readBatchQuery reads the series at an index of the list, of which as many rows are left.
func (a *API) readBatchQuery(raw json.RawMessage, index, left int) (historyQuery, error) {
	d := &bodyDecoder{object: raw, at: []any{"series", index}}
	if raw[0] != '{' || json.Unmarshal(raw, &d.fields) != nil {
		return historyQuery{}, faults{d.place(raw).notObject()}
	}
	for _, name := range slices.Sorted(maps.Keys(d.fields)) {
		if !slices.Contains(seriesMembers, name) {
			d.add(d.place(d.fields[name], abbreviate(name)).extra(seriesMembers))
		}
	}
	var asked historyQuery
	asked.Symbol, asked.Limit, asked.Behind = d.symbol(), d.limit(), projections.Newest
	from, to := d.optionalTime("from"), d.optionalTime("to")
	if !to.IsZero() {
		if asked.Behind = projections.Before(to); !to.After(from) && len(d.faults) == 0 {
			d.add(d.place(d.fields["to"], "to").notAfter(from.Format(time.RFC3339Nano)))
		}
	}
	asked.From = from
	cursor := d.optionalText("cursor")
	provider, err := a.config.provider(d.provider())
	if err == nil {
		asked.locate(a.config, provider, historyPath, ofPrices, from, to) // cursors are those of GET history
		if cursor != "" && !asked.continueAt(cursor) {
			d.add(d.place(d.fields["cursor"], "cursor").notCursor())
		}
	}
	if len(d.faults) == 0 && err == nil && asked.Limit > left {
		d.add(d.place(d.fields["limit"], "limit").wrong(fmt.Sprintf("an answer has at most %d prices, and the series before this one leave %d of them", maxBatchRows, left)))
	}
	return asked, errors.Join(d.faults.orNil(), err)
}

// seriesError is the answer that a series alone would have had to an error of the request.
func (a *API) seriesError(err error) (status int, body any) {
	var invalid faults
	if errors.As(err, &invalid) {
		return codeInvalid.status(), validationBody{invalid}
	}
	var known *apiError
	if errors.As(err, &known) {
		return known.code.status(), errorBody{known.detail}
	}
	return codeInternal.status(), errorBody{"Internal Server Error"}
}

func (d *bodyDecoder) limit() int {
	raw, given := d.fields["limit"]
	if !given {
		return defaultLimit
	}
	at := d.place(raw, "limit")
	value, f := readInt(raw, at)
	if f == nil {
		f = checkBounds(value, 1, maxLimit, at)
	}
	if f != nil {
		d.add(*f)
		return 0
	}
	return int(value)
}

// optionalText is empty where there is none, or null.
func (d *bodyDecoder) optionalText(name string) string {
	raw, given := d.fields[name]
	if !given || string(raw) == "null" {
		return ""
	}
	text, isString := readString(raw)
	if !isString {
		d.add(d.place(raw, name).notString())
	}
	return text
}

// optionalTime is the zero value where there is none, or null.
func (d *bodyDecoder) optionalTime(name string) schema.Time {
	if raw, given := d.fields[name]; !given || string(raw) == "null" {
		return schema.Time{}
	}
	return d.time(name)
}
