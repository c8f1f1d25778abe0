// Package rawstore keeps every provider's answer byte for byte, before anyone
// reads it.
package rawstore

import (
	"bytes"
	"context"
	"fmt"
	"unicode/utf8"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the stage.
const Name = "raw-store"

func init() {
	pipeline.RegisterHandler(pipeline.HandlerModule{
		Name:     Name,
		Doc:      "Keeps every answer in raw_market_data, byte for byte; an answer that comes twice is kept once.",
		Consumes: []schema.EventType{schema.QuoteFetched{}.EventType()},
		Produces: []schema.EventType{schema.QuoteStored{}.EventType()},
		New:      func(pipeline.Env) (pipeline.Handler, error) { return handler{}, nil },
	})
}

type handler struct{}

var _ pipeline.Handler = handler{}

var columns = []string{"id", "event_id", "symbol", "provider", "raw_response", "raw_bytes", "timestamp", "request_id", "definition"}

// Handle inserts the answers that are not known yet. The id of an event is that
// of the fact (a trade, a file's line, a request), so an answer that a stream
// repeats after a reconnect, or a file ingested twice, is one row and passed on
// once.
func (handler) Handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	rows := store.Rows{Table: "raw_market_data", Columns: columns,
		Values: make([]any, 0, len(in)*len(columns)), Clause: "ON CONFLICT (event_id) DO NOTHING RETURNING id"}
	ids := make([]int64, len(in))
	for i := range in {
		quote := in[i].Event.Payload.(schema.QuoteFetched)
		id, err := in[i].RowID(0)
		if err != nil {
			return nil, pipeline.Permanent(err)
		}
		ids[i] = id
		text, raw := split(quote.RawResponse)
		rows.Add(id, in[i].Event.ID, quote.Symbol, quote.Provider, text, raw, quote.ReceivedAt, quote.RequestID, quote.Definition)
	}
	var inserted []int64
	if err := store.InsertReturning(ctx, tx.Tx, &inserted, rows); err != nil {
		return nil, err
	}
	fresh := make(map[int64]bool, len(inserted))
	for _, id := range inserted {
		fresh[id] = true
	}
	events := make([]schema.Event, 0, len(inserted))
	for i := range in {
		if fresh[ids[i]] {
			quote := in[i].Event.Payload.(schema.QuoteFetched)
			events = append(events, in[i].Derive(schema.QuoteStored{
				QuoteFetched: quote, RawResponseID: in[i].Event.ID}))
		}
	}
	return events, nil
}

// split returns the answer as text where psql can show it, else as bytes.
func split(answer schema.RawResponse) (text, raw any) {
	if utf8.Valid(answer) && bytes.IndexByte(answer, 0) < 0 {
		return string(answer), nil
	}
	return nil, []byte(answer)
}

// Known returns those of the ids of events whose answers are kept.
func Known(ctx context.Context, db store.Querier, ids []string) ([]string, error) {
	known, err := store.SelectIn[string](ctx, db, `SELECT event_id FROM raw_market_data WHERE event_id IN (?)`, ids)
	if err != nil {
		return nil, fmt.Errorf("looking for answers that are kept: %w", err)
	}
	return known, nil
}
