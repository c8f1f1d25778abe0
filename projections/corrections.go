package projections

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

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

// statement is a record of a batch: a fact, or a correction of one.
type statement struct {
	id         int64
	key        string // of its correction
	fact       *Fact
	correction *CorrectionRow
}

func (s statement) market() market {
	if s.correction != nil {
		return market{s.correction.Symbol, s.correction.Provider}
	}
	return s.fact.market()
}

// Batch is a batch of records as the changes of facts that it comes to.
type Batch struct {
	// Changes are in the order of the records. Records that are neither facts nor
	// corrections are left out.
	Changes []Change
	// Corrects says that there is a correction among them.
	Corrects bool

	corrections *Corrections
	tx          *pipeline.Tx
	g           pipeline.Generation
	// list is nil unless Corrects, of a projection with Listed.
	list *priceList
	// came are the facts of the batch, as they came; nil where there is no list.
	came []Fact
}

// Batch reads a batch.
func (c *Corrections) Batch(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) (*Batch, error) {
	b := &Batch{corrections: c, tx: tx, g: g, Changes: make([]Change, 0, len(in))}
	facts, err := factsOf(in)
	if err != nil {
		return nil, err
	}
	b.Corrects = corrects(in)
	corrected := b.Corrects
	if corrected {
		pipeline.CacheFor[someKey, bool](tx, c).Put(someKey{}, true)
	} else if corrected, err = c.some(ctx, tx, g); err != nil {
		return nil, err
	}
	if !corrected {
		for i := range facts {
			if f := &facts[i]; c.Keep(f) {
				b.Changes = append(b.Changes, Change{Record: f.ID, After: f, Observed: f})
			}
		}
		return b, nil
	}
	statements, err := statementsOf(in, facts)
	if err != nil {
		return nil, err
	}
	return b, b.read(ctx, in, statements)
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

// read is Batch where something was corrected.
func (b *Batch) read(ctx context.Context, in []pipeline.Record, statements []statement) (err error) {
	c := b.corrections
	if b.Corrects && c.Listed != nil {
		if b.list, err = openList(ctx, b.tx, in); err != nil {
			return fmt.Errorf("correcting %s: %w", c.Table, err)
		}
		for _, s := range statements {
			if s.fact != nil && c.Listed(*s.fact) {
				b.came = append(b.came, *s.fact)
			}
		}
	}
	corrected, err := c.corrected(ctx, b.tx, b.g, statements)
	if err != nil {
		return err
	}
	f := &correcting{Corrections: c, last: map[string]*CorrectionRow{}, facts: map[string][]Fact{}}
	if len(corrected) > 0 {
		for i := range statements {
			if s := &statements[i]; s.fact != nil && corrected[s.fact.market()] {
				s.key = correctionKey(s.fact.market(), s.fact.Timestamp, s.fact.EventID)
			}
		}
		if err := f.load(ctx, b, statements); err != nil {
			return fmt.Errorf("loading corrections of %s: %w", c.Table, err)
		}
	}
	for _, s := range statements {
		b.Changes = f.follow(s, b.Changes)
	}
	return f.save(ctx, b.tx, b.g)
}

// corrects reports whether there is a correction among records.
func corrects(in []pipeline.Record) bool {
	for i := range in {
		if _, ok := schema.CorrectionOf(in[i].Event.Payload); ok {
			return true
		}
	}
	return false
}

// factsOf are the facts of records.
func factsOf(in []pipeline.Record) ([]Fact, error) {
	facts := make([]Fact, 0, len(in))
	for i := range in {
		id, err := in[i].RowID(0)
		if err != nil {
			return nil, pipeline.Permanent(err)
		}
		if f, ok := factOf(&in[i].Event, id); ok {
			facts = append(facts, f)
		}
	}
	return facts, nil
}

// statementsOf are the facts and corrections of records, in their order.
func statementsOf(in []pipeline.Record, facts []Fact) ([]statement, error) {
	statements := make([]statement, 0, len(in))
	for i := range in {
		id, err := in[i].RowID(0)
		if err != nil {
			return nil, pipeline.Permanent(err)
		}
		if row, ok := correctionOf(in[i].Event, id); ok {
			statements = append(statements, statement{id: id, key: row.Key, correction: &row})
		} else if len(facts) > 0 && facts[0].ID == id {
			statements = append(statements, statement{id: id, fact: &facts[0]})
			facts = facts[1:]
		}
	}
	return statements, nil
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

// correcting is a batch on its way.
type correcting struct {
	*Corrections
	// last is the last correction by key, facts the facts by it, as they came.
	last  map[string]*CorrectionRow
	facts map[string][]Fact
	// said and came are what is news of them.
	said []*CorrectionRow
	came []Fact
	keys []string // of came
}

// load reads what was said before about the facts of a batch.
func (b *correcting) load(ctx context.Context, batch *Batch, statements []statement) error {
	tx, g := batch.tx, batch.g
	names := map[string]FactName{} // of those that are corrected in the batch
	keys := map[string]bool{}
	for _, s := range statements {
		if s.key == "" {
			continue
		}
		if keys[s.key] = true; s.correction != nil {
			names[s.key] = FactName{s.correction.Symbol, s.correction.Provider, s.correction.Timestamp, FactKey(s.correction.FactID)}
		}
	}
	rows, err := store.SelectIn[CorrectionRow](ctx, tx, `SELECT `+strings.Join(correctionColumns, ", ")+` FROM `+g.Table(b.Said())+`
		WHERE correction_key IN (?) ORDER BY id`, slices.Sorted(maps.Keys(keys)))
	if err != nil {
		return err
	}
	for _, r := range rows {
		b.last[r.Key] = &r
	}
	kept, err := store.SelectIn[struct {
		Key  string `db:"correction_key"`
		Fact string `db:"fact"`
	}](ctx, tx, `SELECT correction_key, fact FROM `+g.Table(b.originals())+` WHERE correction_key IN (?) ORDER BY id`, slices.Sorted(maps.Keys(names)))
	if err != nil {
		return err
	}
	for _, k := range kept {
		var f Fact
		if err := json.Unmarshal([]byte(k.Fact), &f); err != nil {
			return fmt.Errorf("reading a fact as it came: %w", err)
		}
		b.facts[k.Key] = append(b.facts[k.Key], f)
	}
	var wanted []FactName // are as they came
	byName := map[FactName]string{}
	for _, key := range slices.Sorted(maps.Keys(names)) {
		if b.last[key] == nil {
			wanted = append(wanted, names[key])
			byName[names[key]] = key
		}
	}
	for part := range slices.Chunk(wanted, 100) {
		found, err := batch.find(ctx, part)
		if err != nil {
			return err
		}
		for _, name := range part {
			facts := found[name]
			slices.SortFunc(facts, func(a, b Fact) int { return a.Compare(b.Place) })
			for _, f := range facts {
				b.keep(byName[name], f)
			}
		}
	}
	return nil
}

// keep notes a fact, as it came, that has or will have a correction.
func (b *correcting) keep(key string, f Fact) {
	b.facts[key] = append(b.facts[key], f)
	b.came, b.keys = append(b.came, f), append(b.keys, key)
}

// follow appends what a statement changes.
func (b *correcting) follow(s statement, changes []Change) []Change {
	if s.fact != nil {
		if !b.Keep(s.fact) {
			return changes
		}
		if s.key == "" {
			return append(changes, Change{Record: s.id, After: s.fact, Observed: s.fact})
		}
		b.keep(s.key, *s.fact)
		after := b.as(b.last[s.key], *s.fact)
		if after == nil {
			return changes
		}
		return append(changes, Change{Record: s.id, After: after, Observed: s.fact, Correction: b.last[s.key]})
	}
	before := b.last[s.key]
	if before != nil && before.CorrectionID == s.correction.CorrectionID {
		return changes // it was sent twice
	}
	b.said = append(b.said, s.correction)
	if before != nil && before.ID > s.id { // this one was a dead letter, and is applied late
		return changes
	}
	b.last[s.key] = s.correction
	for _, f := range b.facts[s.key] {
		c := Change{Record: s.id, Before: b.as(before, f), After: b.as(s.correction, f), Observed: &f, Correction: s.correction}
		if c.Before != nil || c.After != nil {
			changes = append(changes, c)
		}
	}
	return changes
}

// as is a fact after a correction, if it is kept.
func (b *correcting) as(c *CorrectionRow, f Fact) *Fact {
	after := c.Of(f)
	if after == nil || !b.Keep(after) {
		return nil
	}
	return after
}

// save writes what is news.
func (b *correcting) save(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation) error {
	said := store.Rows{Table: g.Table(b.Said()), Columns: correctionColumns}
	for _, r := range b.said {
		var price, size any
		if r.Price != nil {
			price = *r.Price
		}
		if r.Size != nil {
			size = *r.Size
		}
		said.Add(r.ID, r.Key, r.FactID, r.Symbol, r.Provider, r.Timestamp, r.CorrectionID, price, size, r.Reason, r.CorrectedAt)
	}
	if err := tx.Insert(ctx, said); err != nil {
		return err
	}
	kept := store.Rows{Table: g.Table(b.originals()), Columns: []string{"id", "correction_key", "symbol", "provider", "timestamp", "sequence", "fact"}}
	for i, f := range b.came {
		if b.last[b.keys[i]] == nil {
			continue // of a corrected symbol, and as it came
		}
		text, err := json.Marshal(f)
		if err != nil {
			return pipeline.Permanent(fmt.Errorf("writing a fact as it came: %w", err))
		}
		kept.Add(f.ID, b.keys[i], f.Symbol, f.Provider, f.Timestamp, f.Sequence, string(text))
	}
	return tx.Insert(ctx, kept)
}
