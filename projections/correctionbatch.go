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

// read is Batch where something was corrected.
func (b *Batch) read(ctx context.Context, in []pipeline.Record, statements []statement) (err error) {
	c := b.corrections
	if b.Corrects && c.Listed != nil {
		if b.list, err = openList(ctx, b.tx, b.g, in); err != nil {
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
