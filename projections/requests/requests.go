// Package requests is the read model of fetch requests and what became of them,
// one by one and summed up by polling job.
package requests

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

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
func (projection) Version() int         { return 3 }
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
		outcome_id  {int}  NOT NULL,
		asked_at    {time} NOT NULL,
		deadline    {time},
		settled_at  {time},
		fact_id     {text} NOT NULL,
		raw_response_id {text} NOT NULL
	) {keyed}`, `CREATE INDEX ` + g.Table(table) + `_by_age ON ` + g.Table(table) + ` (asked_at)`}, jobTables(g)...)
}

// undecided is the outcome_id of a request without an outcome: above all others.
const undecided = math.MaxInt64

// candidate is a request with the id of the record that tells of it.
type candidate struct {
	Request
	id int64
	// asked is the earliest time that is known of the request, which is that of the request
	// itself once it is read. Retention goes by it.
	asked schema.Time
	// deadline is the zero value until the request itself is read.
	deadline schema.Time
	// settled is when the outcome came about; the zero value without one.
	settled schema.Time
	// factID is the id of the event of the price, rawID that of the provider's answer.
	factID, rawID string
}

// and is the request by what two records tell of it, in whatever order they are read.
func (c candidate) and(other candidate) candidate {
	first := c
	if other.id < c.id {
		first = other
	}
	if c.asked.Compare(other.asked) < 0 {
		first.asked = c.asked
	} else {
		first.asked = other.asked
	}
	if first.deadline = c.deadline; other.deadline.After(c.deadline) {
		first.deadline = other.deadline
	}
	return first
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
		next, err := newCandidate(request, &in[i])
		if err != nil {
			return err
		}
		if request.State != Pending {
			ofJobs.add(next, in[i].Event.Payload.OccurredAt())
		}
		if known, seen := found[request.RequestID]; seen {
			next = known.and(next)
		}
		found[request.RequestID] = next
	}
	rows := store.Rows{Table: g.Table(table), Columns: append([]string{"request_id", "asked_at", "deadline"}, ofOutcome...), Clause: merging(g.Table(table))}
	for _, id := range slices.Sorted(maps.Keys(found)) {
		r := found[id]
		values := []any{id, r.asked, timeOrNull(r.deadline), r.Provider, r.Symbol, string(r.State)}
		if r.State == Observed || r.State == Unchanged {
			values = append(values, r.Price, r.Timestamp, r.ReceivedAt, "", "", r.id)
		} else {
			values = append(values, nil, nil, nil, string(r.Code), r.Reason, r.id)
		}
		rows.Add(append(values, timeOrNull(r.settled), r.factID, r.rawID)...)
	}
	if err := tx.Insert(ctx, rows); err != nil {
		return err
	}
	return ofJobs.save(ctx, tx, g)
}

// ofOutcome are the columns of which a row has those of its first outcome.
var ofOutcome = []string{"provider", "symbol", "state", "price", "timestamp", "received_at", "code", "reason", "outcome_id",
	"settled_at", "fact_id", "raw_response_id"}

// merging is what candidate.and does, for a row that is in the table.
func merging(name string) string {
	var set strings.Builder
	for _, column := range ofOutcome {
		fmt.Fprintf(&set, "%s = CASE WHEN excluded.outcome_id < %s.outcome_id THEN excluded.%s ELSE %[2]s.%[1]s END, ", column, name, column)
	}
	return `ON CONFLICT (request_id) DO UPDATE SET ` + set.String() + strings.ReplaceAll(
		`asked_at = CASE WHEN excluded.asked_at < {t}.asked_at THEN excluded.asked_at ELSE {t}.asked_at END,
		deadline = CASE WHEN {t}.deadline IS NULL OR excluded.deadline > {t}.deadline THEN excluded.deadline ELSE {t}.deadline END
		WHERE excluded.outcome_id < {t}.outcome_id OR excluded.asked_at < {t}.asked_at
			OR excluded.deadline IS NOT NULL AND ({t}.deadline IS NULL OR excluded.deadline > {t}.deadline)`, "{t}", name)
}

func timeOrNull(t schema.Time) any {
	if t.IsZero() {
		return nil
	}
	return t
}

// toldAt is our clock when an event came about, not that of the provider.
func toldAt(payload schema.Payload) schema.Time {
	if price, ok := schema.PriceOf(payload); ok {
		return price.ReceivedAt
	}
	switch p := payload.(type) {
	case schema.QuoteUnchanged:
		return p.ReceivedAt
	case schema.QuoteRejected:
		return p.ReceivedAt
	}
	return payload.OccurredAt()
}

func newCandidate(request Request, record *pipeline.Record) (candidate, error) {
	c := candidate{Request: request, id: undecided, asked: toldAt(record.Event.Payload)}
	if request.State == Pending {
		c.deadline = record.Event.Payload.(schema.FetchRequested).Deadline
		return c, nil
	}
	var err error
	if c.id, err = record.RowID(0); err != nil {
		return candidate{}, pipeline.Permanent(err)
	}
	c.settled = c.asked
	if price, ok := schema.PriceOf(record.Event.Payload); ok {
		c.factID, c.rawID = record.Event.ID, price.RawResponseID
		return c, nil
	}
	switch p := record.Event.Payload.(type) {
	case schema.QuoteUnchanged:
		c.rawID = p.RawResponseID
	case schema.QuoteRejected:
		c.rawID = p.RawResponseID
	}
	return c, nil
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
