package declared

import (
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// HasHistory says whether the definition has a history.
func (d *Definition) HasHistory() bool { return d.past != nil }

// AsksHistory explains the requests of the history of a symbol. What differs from page to page is
// shown as {from}, {to} and {cursor}, and the key as {key}. A definition without a history is an
// error.
func (d *Definition) AsksHistory(symbol schema.Symbol) ([]Field, error) {
	h := d.past
	if h == nil {
		return nil, fmt.Errorf("%w: it has no history", ErrDefinition)
	}
	spelled, err := d.spell(symbol)
	if err != nil {
		return nil, err
	}
	places := shownKey()
	for _, place := range []string{fromPlace, toPlace, cursorPlace} {
		places[place] = "{" + place + "}"
	}
	fields := []Field{{"symbol", d.file.Symbol, spelled}}
	if h.Begin != nil {
		fields = append(fields, Field{"begin", h.Begin.Request, d.address(h.begin, spelled, places)})
	}
	return append(fields, Field{"page", h.history.Request, d.address(h.request, spelled, places)}), nil
}

// ReadsPage explains what History and Normalize make of an answer about a page: how many prices
// it has, the first and the last of them, and where the next page begins.
func (d *Definition) ReadsPage(answer schema.RawResponse, symbol schema.Symbol) ([]Field, error) {
	spelled, err := d.spell(symbol)
	if err != nil {
		return nil, err
	}
	q := pastRequest{past: d.past, provider: &provider{Definition: d}, spelled: spelled,
		asked: pipeline.HistoryRequest{Symbol: symbol, To: endOfTime}}
	value, err := q.decode(answer)
	if err != nil {
		return nil, err
	}
	page, err := q.take(answer, value, "", false)
	if err != nil {
		return nil, err
	}
	n := len(page.Entries)
	fields := []Field{{"prices", q.history.Entries, fmt.Sprint(n)}}
	for i, entry := range page.Entries {
		if i > 0 && i < n-1 {
			continue
		}
		price, err := d.normalizeEntry(symbol, spelled, entry.RawResponse, endOfTime)
		if err != nil {
			return fields, fmt.Errorf("price %d: %w", i+1, err)
		}
		fields = append(fields, Field{Name: fmt.Sprintf("price %d of %d", i+1, n), Value: string(entry.RawResponse)})
		fields = append(fields, q.Read.fields(price)...)
	}
	next := "none: it is the last page"
	if page.Next != "" {
		next = page.Next
	}
	return append(fields, Field{"next", q.history.Next, next}), nil
}
