// Package instruments is the read model of what providers' answers tell of instruments
// besides prices: the currency, say, or when they are traded.
package instruments

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = "instruments"

const table = "instruments"

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name:     Name,
		Doc:      "What the last answer about each symbol tells of it: currency, venue, class and trading hours.",
		Optional: true,
		New:      New,
	})
}

// New makes the projection.
func New(env pipeline.Env) (pipeline.Projection, error) {
	if err := env.Decode(&struct{}{}); err != nil {
		return nil, err
	}
	return projection{env.Provider}, nil
}

type projection struct {
	provider func(schema.Provider) (pipeline.Provider, bool)
}

func (projection) Name() string { return Name }

// Version rises also when a provider reads an answer in another way.
func (projection) Version() int { return 1 }

func (projection) Consumes() []schema.EventType {
	return []schema.EventType{schema.QuoteFetched{}.EventType()}
}

func (projection) TableNames() []string { return []string{table} }

func (projection) Tables(g pipeline.Generation) []string {
	return []string{`CREATE TABLE ` + g.Table(table) + ` (
		quote_key {text} PRIMARY KEY,
		about     {text} NOT NULL
	) {keyed}`}
}

// Apply keeps of each symbol what the last answer in the log tells that tells anything. All
// answers of a symbol are on one partition.
func (p projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	told := map[string]string{}
	for i := range in {
		quote := in[i].Event.Payload.(schema.QuoteFetched)
		of, known := p.provider(quote.Provider)
		if !known {
			continue
		}
		describer, tells := of.(pipeline.AnswerDescriber)
		if !tells {
			continue
		}
		about, any := describer.DescribeAnswer(quote)
		if !any {
			continue
		}
		text, err := json.Marshal(about)
		if err != nil {
			return pipeline.Permanent(fmt.Errorf("encoding what is known of %s: %w", quote.Key(), err))
		}
		told[quote.Key()] = string(text)
	}
	return save(ctx, tx, g, told)
}

func save(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, told map[string]string) error {
	name := g.Table(table)
	rows := store.Rows{Table: name, Columns: []string{"quote_key", "about"},
		Clause: "ON CONFLICT (quote_key) DO UPDATE SET about = excluded.about WHERE " + name + ".about <> excluded.about"}
	for _, key := range slices.Sorted(maps.Keys(told)) {
		rows.Add(key, told[key])
	}
	return tx.Insert(ctx, rows)
}

// Market is a symbol at a provider.
type Market struct {
	Provider schema.Provider
	Symbol   schema.Symbol
}

// Told returns what answers told of markets, those of which they told anything.
func Told(ctx context.Context, db store.Querier, markets []Market) (map[Market]schema.Instrument, error) {
	keys := make([]string, len(markets))
	of := make(map[string]Market, len(markets))
	for i, m := range markets {
		keys[i] = schema.MarketKey(m.Provider, m.Symbol)
		of[keys[i]] = m
	}
	type row struct {
		Key   string `db:"quote_key"`
		About string `db:"about"`
	}
	found, err := store.SelectIn[row](ctx, db, `SELECT quote_key, about FROM `+table+` WHERE quote_key IN (?)`, store.Padded(keys))
	if err != nil {
		return nil, projections.QueryError(fmt.Sprintf("what is known of %d instruments", len(markets)), err)
	}
	told := make(map[Market]schema.Instrument, len(found))
	for _, r := range found {
		var about schema.Instrument
		if err := json.Unmarshal([]byte(r.About), &about); err != nil {
			return nil, fmt.Errorf("decoding what is known of %s: %w", r.Key, err)
		}
		told[of[r.Key]] = about
	}
	return told, nil
}
