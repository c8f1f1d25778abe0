package adjustments

import (
	"cmp"
	"context"
	"fmt"
	"math/big"
	"slices"
	"sort"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
)

// Adjustment is an adjustment, by what was said of it last.
type Adjustment struct {
	ID           int64
	EventID      string
	AdjustmentID string
	Provider     schema.Provider
	Symbol       schema.Symbol
	// Terms are those that count, or where it was retracted, those that did.
	Terms     schema.AdjustmentTerms
	Retracted bool
	// Reason and SaidAt are of the last event.
	Reason string
	SaidAt schema.Time
}

type row struct {
	ID           int64           `db:"id"`
	EventID      string          `db:"event_id"`
	AdjustmentID string          `db:"adjustment_id"`
	Provider     schema.Provider `db:"provider"`
	Symbol       schema.Symbol   `db:"symbol"`
	EffectiveAt  *schema.Time    `db:"effective_at"`
	Kind         *string         `db:"kind"`
	Value        *schema.Decimal `db:"value"`
	Per          *schema.Decimal `db:"per"`
	Currency     string          `db:"currency"`
	Reason       string          `db:"reason"`
	SaidAt       schema.Time     `db:"said_at"`
}

// Reader answers queries.
type Reader struct{ DB store.Querier }

// Of returns all adjustments of a symbol, the newest effective time first.
func (r Reader) Of(ctx context.Context, provider schema.Provider, symbol schema.Symbol) ([]Adjustment, error) {
	return r.read(ctx, schema.MarketKey(provider, symbol), `symbol = $1 AND provider = $2`, symbol, provider)
}

// Get returns the adjustment with an id, or projections.ErrNotFound.
func (r Reader) Get(ctx context.Context, id string) (Adjustment, error) {
	found, err := r.read(ctx, id, `adjustment_id = $1`, id)
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("adjustment %s: %w", id, projections.ErrNotFound)
	}
	if err != nil {
		return Adjustment{}, err
	}
	return found[0], nil
}

func (r Reader) read(ctx context.Context, what, where string, args ...any) ([]Adjustment, error) {
	var rows []row
	err := r.DB.Select(ctx, &rows, `SELECT id, event_id, adjustment_id, provider, symbol, effective_at, kind, value, per, currency, reason, said_at
		FROM adjustments WHERE `+where+` ORDER BY id`, args...)
	if err != nil {
		return nil, projections.QueryError("the adjustments of "+what, err)
	}
	known := map[string]Adjustment{}
	for _, r := range rows {
		a := Adjustment{ID: r.ID, EventID: r.EventID, AdjustmentID: r.AdjustmentID, Provider: r.Provider, Symbol: r.Symbol,
			Terms: known[r.AdjustmentID].Terms, Retracted: r.EffectiveAt == nil, Reason: r.Reason, SaidAt: r.SaidAt}
		if !a.Retracted {
			a.Terms = schema.AdjustmentTerms{EffectiveAt: *r.EffectiveAt, Kind: schema.AdjustmentKind(*r.Kind), Value: *r.Value, Per: *r.Per, Currency: r.Currency}
		}
		known[r.AdjustmentID] = a
	}
	all := make([]Adjustment, 0, len(known))
	for _, a := range known {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b Adjustment) int {
		if order := b.Terms.EffectiveAt.Compare(a.Terms.EffectiveAt); order != 0 {
			return order
		}
		return int(min(1, max(-1, b.ID-a.ID)))
	})
	return all, nil
}

// WaitCaughtUp returns once every adjustment is known that was in the log before the call, or
// the error of ctx.
func (r Reader) WaitCaughtUp(ctx context.Context) error {
	return projections.WaitCaughtUp(ctx, r.DB, Name, schema.PollingJobs)
}

// FactorError says that a dividend has no factor above 0.
type FactorError struct{ Reason string }

// Error implements error.
func (e *FactorError) Error() string { return e.Reason }

// Factors are what prices of a symbol are multiplied by. The zero value changes nothing.
type Factors struct {
	// steps are in the order of their times; each has the product of its factor and those of
	// all after it.
	steps []step
}

type step struct {
	at           schema.Time
	prices, size *big.Rat
}

// most and least bound the product of factors, so that what is adjusted has no more digits
// than a sum of prices may have.
var (
	most  = new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(18), nil))
	least = new(big.Rat).Inv(most)
)

// unit is one, in the units of a decimal.
var unit = schema.MustDecimal("1").Units()

// Factors are those that count of a symbol. Its error is a *FactorError where a dividend is not
// below what a share was worth before it.
func (r Reader) Factors(ctx context.Context, provider schema.Provider, symbol schema.Symbol) (Factors, error) {
	all, err := r.Of(ctx, provider, symbol)
	if err != nil {
		return Factors{}, err
	}
	all = slices.DeleteFunc(all, func(a Adjustment) bool { return a.Retracted })
	slices.SortStableFunc(all, inEffect)
	closes, err := r.closes(ctx, all)
	if err != nil {
		return Factors{}, err
	}
	factors, err := factorsOf(all, closes)
	if err != nil {
		return Factors{}, err
	}
	var f Factors
	prices, sizes := big.NewRat(1, 1), big.NewRat(1, 1)
	for i, a := range slices.Backward(all) {
		if factors[i] == nil {
			continue
		}
		prices = new(big.Rat).Mul(prices, factors[i])
		if a.Terms.Kind == schema.SplitAdjustment {
			sizes = new(big.Rat).Mul(sizes, factors[i])
		}
		if prices.Cmp(most) > 0 || prices.Cmp(least) < 0 || sizes.Cmp(most) > 0 || sizes.Cmp(least) < 0 {
			return Factors{}, &FactorError{fmt.Sprintf("the factors of %s at %s from %s on multiply to more than 10^18 or less than 10^-18: retract one of them",
				symbol, provider, a.Terms.EffectiveAt.Text())}
		}
		f.steps = append(f.steps, step{a.Terms.EffectiveAt, prices, sizes})
	}
	slices.Reverse(f.steps)
	return f, nil
}

// inEffect orders adjustments as they become effective. A dividend is paid for the shares there
// were before a split of the same instant.
func inEffect(a, b Adjustment) int {
	if order := a.Terms.EffectiveAt.Compare(b.Terms.EffectiveAt); order != 0 {
		return order
	}
	rank := func(a Adjustment) int {
		if a.Terms.Kind == schema.DividendAdjustment {
			return 0
		}
		return 1
	}
	return cmp.Compare(rank(a), rank(b))
}

// closes are the last prices before dividends; nil for other adjustments, and where there is no
// such price.
func (r Reader) closes(ctx context.Context, all []Adjustment) ([]*processedprices.Price, error) {
	closes := make([]*processedprices.Price, len(all))
	var queries []processedprices.Query
	var of []int
	for i, a := range all {
		if a.Terms.Kind == schema.DividendAdjustment {
			queries = append(queries, processedprices.Query{Provider: a.Provider, Symbol: a.Symbol, Behind: projections.Before(a.Terms.EffectiveAt), Limit: 1})
			of = append(of, i)
		}
	}
	pages, err := processedprices.Reader{DB: r.DB}.PricesOf(ctx, queries)
	if err != nil {
		return nil, err
	}
	for n, page := range pages {
		for _, p := range page {
			closes[of[n]] = &p
		}
	}
	return closes, nil
}

// factorsOf are the factors of adjustments, which are in the order of inEffect; nil where one has
// none, since there is no price that it could adjust.
func factorsOf(all []Adjustment, closes []*processedprices.Price) ([]*big.Rat, error) {
	factors := make([]*big.Rat, len(all))
	left := make([]*big.Rat, len(all)) // what a share is worth after each dividend, in units
	for i, a := range all {
		value := a.Terms.Value.Units()
		switch a.Terms.Kind {
		case schema.SplitAdjustment:
			per := unit
			if !a.Terms.Per.IsZero() {
				per = a.Terms.Per.Units()
			}
			factors[i] = new(big.Rat).SetFrac(per, value)
		case schema.DividendAdjustment:
			if closes[i] == nil {
				continue
			}
			worth := worthBefore(i, all, closes[i], factors, left)
			left[i] = new(big.Rat).Sub(worth, new(big.Rat).SetInt(value))
			if left[i].Sign() <= 0 {
				return nil, notBelow(a, closes[i].Price, worth)
			}
			factors[i] = new(big.Rat).Quo(left[i], worth)
		case schema.FactorAdjustment:
			factors[i] = new(big.Rat).SetFrac(value, unit)
		}
	}
	return factors, nil
}

// worthBefore is what a share is worth before adjustment i, in units: the last price before it,
// less the dividends since that price and by the factors of splits since then.
func worthBefore(i int, all []Adjustment, closing *processedprices.Price, factors, left []*big.Rat) *big.Rat {
	since := big.NewRat(1, 1)
	for j := i - 1; j >= 0 && all[j].Terms.EffectiveAt.After(closing.Timestamp); j-- {
		if left[j] != nil { // it follows the same price
			return since.Mul(since, left[j])
		}
		since.Mul(since, factors[j])
	}
	return since.Mul(since, new(big.Rat).SetInt(closing.Price.Units()))
}

func notBelow(a Adjustment, closing schema.Decimal, worth *big.Rat) error {
	since := ""
	if worth.Cmp(new(big.Rat).SetInt(closing.Units())) != 0 {
		since = fmt.Sprintf(", of which the adjustments since leave %s", schema.RoundUnits(worth.Num(), worth.Denom()))
	}
	return &FactorError{fmt.Sprintf("the dividend of %s of %s at %s, %s, is not below the last price before it, %s%s: retract one of them",
		a.Terms.EffectiveAt.Text(), a.Symbol, a.Provider, a.Terms.Value, closing, since)}
}

// from is the first step after a time; its product is that of all adjustments after it.
func (f Factors) from(t schema.Time) (step, bool) {
	i := sort.Search(len(f.steps), func(i int) bool { return f.steps[i].at.Compare(t) > 0 })
	if i == len(f.steps) {
		return step{}, false
	}
	return f.steps[i], true
}

// Price is a price of an event time as it is adjusted.
func (f Factors) Price(price schema.Decimal, t schema.Time) schema.Decimal {
	s, adjusts := f.from(t)
	if !adjusts {
		return price
	}
	return multiply(price, s.prices.Num(), s.prices.Denom())
}

// Size is a size of an event time as splits adjust it: what the price is divided by, it is
// multiplied by.
func (f Factors) Size(size schema.Decimal, t schema.Time) schema.Decimal {
	s, adjusts := f.from(t)
	if !adjusts {
		return size
	}
	return multiply(size, s.size.Denom(), s.size.Num())
}

// Within is the first time after from and before to at which an adjustment becomes effective.
func (f Factors) Within(from, to schema.Time) (at schema.Time, found bool) {
	s, found := f.from(from)
	if !found || !s.at.Before(to.Time) {
		return schema.Time{}, false
	}
	return s.at, true
}

func multiply(d schema.Decimal, numerator, denominator *big.Int) schema.Decimal {
	return schema.RoundUnits(new(big.Int).Mul(d.Units(), numerator), denominator)
}

// Event is an event as the read model has it.
type Event struct {
	ID      int64 // the row id of its record
	EventID string
	Payload schema.Payload
}

// Said are the events after a row id, in the order of their row ids.
func Said(ctx context.Context, db store.Querier, after int64, limit int) ([]Event, error) {
	var rows []row
	err := db.Select(ctx, &rows, `SELECT id, event_id, adjustment_id, provider, symbol, effective_at, kind, value, per, currency, reason, said_at
		FROM adjustments WHERE id > $1 ORDER BY id LIMIT $2`, after, limit)
	if err != nil {
		return nil, projections.QueryError("adjustments", err)
	}
	events := make([]Event, len(rows))
	for i, r := range rows {
		events[i] = Event{r.ID, r.EventID, schema.AdjustmentRetracted{AdjustmentID: r.AdjustmentID, Symbol: r.Symbol, Source: r.Provider, Reason: r.Reason, RetractedAt: r.SaidAt}}
		if r.EffectiveAt != nil {
			events[i].Payload = schema.AdjustmentRecorded{AdjustmentID: r.AdjustmentID, Symbol: r.Symbol, Source: r.Provider, Reason: r.Reason, RecordedAt: r.SaidAt,
				AdjustmentTerms: schema.AdjustmentTerms{EffectiveAt: *r.EffectiveAt, Kind: schema.AdjustmentKind(*r.Kind), Value: *r.Value, Per: *r.Per, Currency: r.Currency}}
		}
	}
	return events, nil
}
