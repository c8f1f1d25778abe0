package projections

import (
	"context"
	"fmt"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Corrections turns the events of a batch into changes of facts, for one projection. All
// projections of prices have one, so that they agree on what a correction does: the last
// in the log counts, whether it comes before its fact or after.
//
// Its tables belong to the projection. They have a row for each correction and for each
// fact that was corrected. Where nothing of a symbol ever was, a batch costs nothing more.
type Corrections struct {
	// Table is what the names of its tables begin with.
	Table string
	// Keep takes from a fact what the projection has no use for; false where it keeps none
	// of it. A fact is kept if it would be as it came and as it was corrected.
	Keep func(*Fact) bool
	// Find returns the kept facts of some names, as they are. Nil where a projection has
	// none of its own.
	Find func(ctx context.Context, q store.Querier, g pipeline.Generation, names []FactName) ([]Fact, error)
	// Listed says which facts the projection does not keep, but looks for in the list of
	// prices, those of one generation of processed-prices; see Batch. Nil where there are
	// none.
	Listed func(Fact) bool
}

// FactName tells a fact from all others.
type FactName struct {
	Symbol    schema.Symbol
	Provider  schema.Provider
	Timestamp schema.Time
	Key       int64
}

// nameOf is the name of a fact that has its Key.
func nameOf(f Fact) FactName { return FactName{f.Symbol, f.Provider, f.Timestamp, f.Key} }

// CorrectionRow is a correction of a fact.
type CorrectionRow struct {
	Key       string          `db:"correction_key"` // see correctionKey
	FactID    string          `db:"fact_id"`
	Symbol    schema.Symbol   `db:"symbol"`
	Provider  schema.Provider `db:"provider"`
	Timestamp schema.Time     `db:"timestamp"` // of the fact
	// ID is the row id of the correction's record, CorrectionID the id of its event.
	ID           int64  `db:"id"`
	CorrectionID string `db:"correction_id"`
	// Price is nil where the fact was retracted, Size where it is as it came.
	Price       *schema.Decimal `db:"price"`
	Size        *schema.Decimal `db:"size"`
	Reason      string          `db:"reason"`
	CorrectedAt schema.Time     `db:"corrected_at"`
}

var correctionColumns = []string{"id", "correction_key", "fact_id", "symbol", "provider", "timestamp", "correction_id", "price", "size", "reason", "corrected_at"}

func correctionKey(m market, t schema.Time, factID string) string {
	return m.String() + "|" + t.Text() + "|" + factID
}

// correctionOf is the row of an event that corrects a fact.
func correctionOf(e schema.Event, id int64) (CorrectionRow, bool) {
	c, ok := schema.CorrectionOf(e.Payload)
	if !ok {
		return CorrectionRow{}, false
	}
	row := CorrectionRow{Key: correctionKey(market{c.Symbol, c.Source}, c.Timestamp, c.FactID), FactID: c.FactID, Symbol: c.Symbol, Provider: c.Source,
		Timestamp: c.Timestamp, ID: id, CorrectionID: e.ID, Reason: c.Reason, CorrectedAt: e.Payload.OccurredAt()}
	if p, corrected := e.Payload.(schema.PriceCorrected); corrected {
		if row.Price = &p.Price; p.Size.Sign() > 0 {
			row.Size = &p.Size
		}
	}
	return row, true
}

// Of is a fact, as it came, after the correction; nil where it was retracted.
func (c *CorrectionRow) Of(f Fact) *Fact {
	if c == nil {
		return &f
	}
	if c.Price == nil {
		return nil
	}
	f.Price = *c.Price
	if c.Size != nil && f.Size.Sign() > 0 {
		f.Size = *c.Size
	}
	if f.Bar != nil {
		b := *f.Bar
		if b.Close = f.Price; b.Close.Cmp(b.High) > 0 {
			b.High = b.Close
		} else if b.Close.Cmp(b.Low) < 0 {
			b.Low = b.Close
		}
		f.Bar = &b
	}
	return &f
}

// Said is the plain name of the table of all corrections.
func (c *Corrections) Said() string      { return c.Table + "_corrections" }
func (c *Corrections) originals() string { return c.Table + "_corrected" }

// TableNames are those of pipeline.Projection.
func (c *Corrections) TableNames() []string { return []string{c.Said(), c.originals()} }

// Tables is the DDL of a generation.
func (c *Corrections) Tables(g pipeline.Generation) []string {
	said, kept := g.Table(c.Said()), g.Table(c.originals())
	return []string{
		`CREATE TABLE ` + said + ` (
			id             {int}  PRIMARY KEY,
			correction_key {text} NOT NULL,
			fact_id        {text} NOT NULL,
			symbol         {text} NOT NULL,
			provider       {text} NOT NULL,
			timestamp      {time} NOT NULL,
			correction_id  {text} NOT NULL,
			price          {decimal},
			size           {decimal},
			reason         {text} NOT NULL,
			corrected_at   {time} NOT NULL
		)`,
		`CREATE INDEX ` + said + `_by_key ON ` + said + ` (correction_key, id)`,
		`CREATE INDEX ` + said + `_by_correction ON ` + said + ` (correction_id)`,
		`CREATE INDEX ` + said + `_by_symbol ON ` + said + ` (symbol, provider, id)`,
		`CREATE INDEX ` + said + `_by_time ON ` + said + ` (symbol, provider, timestamp)`,
		// The facts that were corrected, as they came.
		`CREATE TABLE ` + kept + ` (
			id             {int}  PRIMARY KEY,
			correction_key {text} NOT NULL,
			symbol         {text} NOT NULL,
			provider       {text} NOT NULL,
			timestamp      {time} NOT NULL,
			sequence       {int}  NOT NULL,
			fact           {text} NOT NULL
		)`,
		`CREATE INDEX ` + kept + `_by_key ON ` + kept + ` (correction_key)`,
		`CREATE INDEX ` + kept + `_by_time ON ` + kept + ` (symbol, provider, ` + seriesPlace + `)`,
	}
}

// someKey is the key of the one value that says whether there is any correction.
type someKey struct{}

// some reports whether any fact was ever corrected that this lane has, or whether that has
// to be looked for.
func (c *Corrections) some(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation) (bool, error) {
	cache := pipeline.CacheFor[someKey, bool](tx, c)
	yes, known := cache.Get(someKey{})
	if known {
		return yes, nil
	}
	var first []int64
	if err := tx.Select(ctx, &first, `SELECT id FROM `+g.Table(c.Said())+` LIMIT 1`); err != nil {
		return false, fmt.Errorf("looking for corrections of %s: %w", c.Table, err)
	}
	cache.Put(someKey{}, len(first) > 0)
	return len(first) > 0, nil
}

// corrected are the markets of a batch of which a fact was ever corrected, or is in it.
func (c *Corrections) corrected(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, statements []statement) (map[market]bool, error) {
	markets := map[market]bool{}
	for _, s := range statements {
		markets[s.market()] = true
	}
	all, err := c.correctedOf(ctx, tx, g, markets)
	known := pipeline.CacheFor[market, bool](tx, c)
	for _, s := range statements {
		if s.correction != nil {
			known.Put(s.market(), true)
			all[s.market()] = true
		}
	}
	return all, err
}

func (c *Corrections) correctedOf(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, markets map[market]bool) (map[market]bool, error) {
	all := map[market]bool{}
	if some, err := c.some(ctx, tx, g); err != nil || !some {
		return all, err
	}
	known := pipeline.CacheFor[market, bool](tx, c)
	var missing []market
	for m := range markets {
		switch yes, ok := known.Get(m); {
		case yes:
			all[m] = true
		case !ok:
			known.Put(m, false)
			missing = append(missing, m)
		}
	}
	for part := range slices.Chunk(missing, 100) {
		args := make([]any, 0, 2*len(part))
		for _, m := range part {
			args = append(args, m.symbol, m.provider)
		}
		var rows []CorrectionRow
		err := tx.Select(ctx, &rows, store.ForEach(`SELECT symbol, provider FROM `+g.Table(c.Said())+` WHERE symbol = ? AND provider = ? LIMIT 1`, len(part)), args...)
		if err != nil {
			return all, fmt.Errorf("looking for corrections of %s: %w", c.Table, err)
		}
		for _, r := range rows {
			m := market{r.Symbol, r.Provider}
			known.Put(m, true)
			all[m] = true
		}
	}
	return all, nil
}

// Of reports of which symbols, of those of some quotes, a fact was ever corrected. After
// Batch it includes those of the batch.
func (c *Corrections) Of(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, quotes []schema.Quote) (map[string]bool, error) {
	markets := map[market]bool{}
	for _, q := range quotes {
		markets[market{q.Symbol, q.Provider}] = true
	}
	all, err := c.correctedOf(ctx, tx, g, markets)
	keys := make(map[string]bool, len(all))
	for m := range all {
		keys[m.String()] = true
	}
	return keys, err
}
