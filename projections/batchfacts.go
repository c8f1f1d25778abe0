package projections

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/pricemill/pricemill/schema"
)

// find are the kept facts of some names, as they are, by name.
func (b *Batch) find(ctx context.Context, names []FactName) (map[FactName][]Fact, error) {
	var all []Fact
	if b.corrections.Find != nil {
		own, err := b.corrections.Find(ctx, b.tx, b.g, names)
		if err != nil {
			return nil, err
		}
		all = own
	}
	if b.list != nil {
		listed, err := b.list.named(ctx, names)
		if err != nil {
			return nil, err
		}
		all = append(all, slices.DeleteFunc(listed, func(f Fact) bool { return !b.corrections.Listed(f) })...)
	}
	found := map[FactName][]Fact{}
	for _, f := range all {
		if name := nameOf(f); b.corrections.Keep(&f) { // which may take its Key
			found[name] = append(found[name], f)
		}
	}
	return found, nil
}

// Between are the listed facts of a symbol from a time up to but without another, as they
// are after the batch, in no order. The batch must be one that Corrects.
func (b *Batch) Between(ctx context.Context, symbol schema.Symbol, provider schema.Provider, from, to schema.Time) ([]Fact, error) {
	m := market{symbol, provider}
	if err := b.list.complete(m); err != nil {
		return nil, err
	}
	facts, err := b.list.read(ctx, `symbol = $1 AND provider = $2 AND timestamp >= $3 AND timestamp < $4`, symbol, provider, from, to)
	if err != nil {
		return nil, err
	}
	facts = slices.DeleteFunc(facts, func(f Fact) bool { return !b.list.applied(f.ID) })
	for _, f := range b.came {
		if f.market() == m && !f.Timestamp.Before(from.Time) && f.Timestamp.Before(to.Time) {
			facts = append(facts, f)
		}
	}
	return b.live(ctx, m, facts, math.MaxInt64)
}

// nearPage is how many facts are read at once to find the next one that is live.
const nearPage = 32

// Before is the newest listed fact of a symbol before a place, as it was after the record
// with a row id, those of the batch before it included; nil for none. The batch must be one
// that Corrects.
func (b *Batch) Before(ctx context.Context, symbol schema.Symbol, provider schema.Provider, before Place, asOf int64) (*Fact, error) {
	return b.nearest(ctx, market{symbol, provider}, before, asOf, -1)
}

// Oldest is the oldest listed fact of a symbol after the batch; nil for none. The batch must
// be one that Corrects.
func (b *Batch) Oldest(ctx context.Context, symbol schema.Symbol, provider schema.Provider) (*Fact, error) {
	return b.nearest(ctx, market{symbol, provider}, Place{ID: math.MinInt64, Sequence: math.MinInt64}, math.MaxInt64, 1)
}

// nearest looks for the next live fact from a place, backwards where direction is -1.
func (b *Batch) nearest(ctx context.Context, m market, from Place, asOf int64, direction int) (*Fact, error) {
	if err := b.list.complete(m); err != nil {
		return nil, err
	}
	beyond := func(p Place) bool { return p.Compare(from)*direction > 0 }
	order := func(a, b Fact) int { return direction * a.Compare(b.Place) }
	var came []Fact
	for _, f := range b.came {
		if f.market() == m && beyond(f.Place) {
			came = append(came, f)
		}
	}
	came, err := b.live(ctx, m, came, asOf)
	if err != nil {
		return nil, err
	}
	var best *Fact
	if len(came) > 0 {
		f := slices.MinFunc(came, order)
		best = &f
	}
	where := ` > ($3, $4, $5) ORDER BY timestamp, sequence, id LIMIT $6`
	if direction < 0 {
		where = ` < ($3, $4, $5) ORDER BY timestamp DESC, sequence DESC, id DESC LIMIT $6`
	}
	for limit := nearPage; ; limit = min(2*limit, 1000) {
		facts, err := b.list.read(ctx, `symbol = $1 AND provider = $2 AND (timestamp, sequence, id)`+where,
			m.symbol, m.provider, from.Timestamp, from.Sequence, from.ID, limit)
		if err != nil {
			return nil, err
		}
		slices.SortFunc(facts, order)
		last := len(facts) < limit
		facts = facts[:min(limit, len(facts))]
		if !last {
			from = facts[len(facts)-1].Place
		}
		facts = slices.DeleteFunc(facts, func(f Fact) bool { return !b.list.applied(f.ID) })
		live, err := b.live(ctx, m, facts, asOf)
		if err != nil {
			return nil, err
		}
		if len(live) > 0 && (best == nil || order(live[0], *best) < 0) {
			best = &live[0]
		}
		if last || best != nil && best.Compare(from)*direction <= 0 {
			return best, nil
		}
	}
}

// live are facts of a market, as they came, after the corrections up to a record, without
// those that are retracted, not listed, or not kept, or come after it.
func (b *Batch) live(ctx context.Context, m market, facts []Fact, asOf int64) ([]Fact, error) {
	if len(facts) == 0 {
		return nil, nil
	}
	byTime := func(a, b Fact) int { return a.Timestamp.Compare(b.Timestamp) }
	var rows []CorrectionRow
	err := b.tx.Select(ctx, &rows, `SELECT id, correction_key, price, size FROM `+b.g.Table(b.corrections.Said())+`
		WHERE symbol = $1 AND provider = $2 AND timestamp >= $3 AND timestamp <= $4 AND id <= $5 ORDER BY id`,
		m.symbol, m.provider, slices.MinFunc(facts, byTime).Timestamp, slices.MaxFunc(facts, byTime).Timestamp, asOf)
	if err != nil {
		return nil, fmt.Errorf("reading corrections: %w", err)
	}
	last := map[string]*CorrectionRow{}
	for i := range rows {
		last[rows[i].Key] = &rows[i]
	}
	live := make([]Fact, 0, len(facts))
	for _, f := range facts {
		if !b.corrections.Listed(f) || f.ID > asOf {
			continue
		}
		after := last[correctionKey(m, f.Timestamp, f.EventID)].Of(f)
		if after == nil {
			continue
		}
		if b.corrections.Keep(after) {
			live = append(live, *after)
		}
	}
	return live, nil
}
