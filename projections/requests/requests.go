// Package requests is the read model of fetch requests and what became of them,
// one by one and summed up by polling job.
package requests

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = "requests"

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name: Name,
		Doc:  "Each fetch request with its outcome, and the outcomes of each polling job.",
		New:  func(pipeline.Env) (pipeline.Projection, error) { return projection{}, nil },
	})
}

type projection struct{}

var _ pipeline.OrderFree = projection{}

const table = "requests"

func (projection) Name() string         { return Name }
func (projection) Version() int         { return 2 }
func (projection) TableNames() []string { return []string{table, jobCounts, jobFailures} }

// OrderFree implements pipeline.OrderFree.
func (projection) OrderFree() {}

func (projection) Consumes() []schema.EventType {
	return append(schema.PriceTypes(), schema.FetchRequested{}.EventType(),
		schema.QuoteFailed{}.EventType(), schema.QuoteRejected{}.EventType(), schema.QuoteUnchanged{}.EventType())
}

func (projection) Tables(g pipeline.Generation) []string {
	return append([]string{`CREATE TABLE ` + g.Table(table) + ` (
		request_id  {text} PRIMARY KEY,
		provider    {text} NOT NULL,
		symbol      {text} NOT NULL,
		state       {text} NOT NULL,
		price       {decimal},
		timestamp   {time},
		received_at {time},
		code        {text} NOT NULL,
		reason      {text} NOT NULL,
		outcome_id  {int}  NOT NULL
	) {keyed}`}, jobTables(g)...)
}

// undecided is the outcome_id of a request without an outcome: above all others.
const undecided = math.MaxInt64

// candidate is a request with the id of the record that tells of it.
type candidate struct {
	Request
	id int64
}

// Apply keeps the first outcome of each request: that with the lowest id, since
// an answer with several prices may have outcomes on two topics, which are read
// in any order. The request itself only counts where there is no outcome.
func (projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	found, ofJobs := map[string]candidate{}, tallies{}
	for i := range in {
		request, err := read(in[i].Event.Payload)
		if err != nil {
			return err
		}
		if request.RequestID == "" {
			continue // from a stream or a file: no one asked
		}
		next := candidate{request, undecided}
		if request.State != Pending {
			if next.id, err = in[i].RowID(0); err != nil {
				return pipeline.Permanent(err)
			}
			ofJobs.add(next, in[i].Event.Payload.OccurredAt())
		}
		if known, seen := found[request.RequestID]; !seen || next.id < known.id {
			found[request.RequestID] = next
		}
	}
	name := g.Table(table)
	rows := store.Rows{Table: name, Columns: []string{"request_id", "provider", "symbol", "state", "price", "timestamp",
		"received_at", "code", "reason", "outcome_id"},
		Clause: `ON CONFLICT (request_id) DO UPDATE SET provider = excluded.provider, symbol = excluded.symbol,
			state = excluded.state, price = excluded.price, timestamp = excluded.timestamp, received_at = excluded.received_at,
			code = excluded.code, reason = excluded.reason, outcome_id = excluded.outcome_id
			WHERE excluded.outcome_id < ` + name + `.outcome_id`}
	for _, id := range slices.Sorted(maps.Keys(found)) {
		r := found[id]
		if r.State == Observed || r.State == Unchanged {
			rows.Add(id, r.Provider, r.Symbol, string(r.State), r.Price, r.Timestamp, r.ReceivedAt, "", "", r.id)
		} else {
			rows.Add(id, r.Provider, r.Symbol, string(r.State), nil, nil, nil, string(r.Code), r.Reason, r.id)
		}
	}
	if err := tx.Insert(ctx, rows); err != nil {
		return err
	}
	return ofJobs.save(ctx, tx, g)
}

func read(payload schema.Payload) (Request, error) {
	request := func(q schema.Quote, s State) Request {
		return Request{RequestID: q.RequestID, Provider: q.Provider, Symbol: q.Symbol, State: s}
	}
	if p, ok := schema.PriceOf(payload); ok {
		return Request{RequestID: p.RequestID, Provider: p.Source, Symbol: p.Symbol, State: Observed,
			Price: p.Price, Timestamp: p.Timestamp, ReceivedAt: p.ReceivedAt}, nil
	}
	switch p := payload.(type) {
	case schema.FetchRequested:
		return request(p.Quote, Pending), nil
	case schema.QuoteUnchanged:
		r := request(p.Quote, Unchanged)
		r.Price, r.Timestamp, r.ReceivedAt = p.Price, p.Timestamp, p.ReceivedAt
		return r, nil
	case schema.QuoteFailed:
		r := request(p.Quote, Failed)
		r.Code, r.Reason = p.Code, p.Reason
		return r, nil
	case schema.QuoteRejected:
		r := request(p.Quote, Rejected)
		r.Code, r.Reason = p.Code, p.Reason
		return r, nil
	default:
		return Request{}, pipeline.Permanent(fmt.Errorf("unexpected event %T", p))
	}
}
