package projections

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// A read as of a place in the log counts what the log had up to there: facts that came
// later and corrections that came later do not exist for it. The tables have what it needs:
// a fact that was never corrected is in its table with the row id of its record, and one
// that was is, as it came, next to its corrections with theirs. So such a read is the fold
// of the log up to the place, whichever generation answers it.

// ErrNoAsOf says that a read model cannot be read as of a place in the log.
var ErrNoAsOf = errors.New("it keeps no prices, and so cannot be read as of a place in the log")

// ErrAsOfTooLong says that a read as of a place in the log would have to go through more
// than maxAsOf prices.
var ErrAsOfTooLong = fmt.Errorf("more than %d prices would have to be read", maxAsOf)

// maxAsOf bounds the prices that are read for one answer, beyond those that are in it.
const maxAsOf = 100_000

// FactAsOf is a fact as it was at a place in the log.
type FactAsOf struct {
	Fact
	// Observed is the price as it came and CorrectionID the last correction up to the
	// place; nil where there is none.
	Observed     *schema.Decimal
	CorrectionID *string
}

// SpanAsOf says which facts of a symbol are wanted.
type SpanAsOf struct {
	Provider schema.Provider
	Symbol   schema.Symbol
	// From is the oldest event time, and Behind leaves the facts that are listed after it.
	From   schema.Time
	Behind Place
	// Limit is how many at the most.
	Limit int
	// AsOf is the row id of the last record that counts.
	AsOf int64
}

// PricesAsOf are facts of the list of prices that serves, newest first. Of a bar they have the
// OpenTime alone. All is read by one statement.
func PricesAsOf(ctx context.Context, q store.Querier, span SpanAsOf) ([]FactAsOf, error) {
	return factsAsOf(ctx, q, PriceListTable, "received_at, open_time", span)
}

// factsAsOf reads a table with a row a price, and those of its Corrections.
func factsAsOf(ctx context.Context, q store.Querier, table, more string, span SpanAsOf) ([]FactAsOf, error) {
	said, kept := table+"_corrections", table+"_corrected"
	const where = `symbol = $1 AND provider = $2 AND timestamp >= $3 AND (timestamp, sequence, id) < ($4, $5, $6)`
	const order = ` ORDER BY timestamp DESC, sequence DESC, id DESC LIMIT $7`
	var rows []struct {
		Timestamp    schema.Time     `db:"timestamp"`
		Sequence     schema.Sequence `db:"sequence"`
		ID           int64           `db:"id"`
		Price        *schema.Decimal `db:"price"`
		Size         *schema.Decimal `db:"size"`
		ReceivedAt   schema.Time     `db:"received_at"`
		OpenTime     *schema.Time    `db:"open_time"`
		Fact         *string         `db:"fact"`
		CorrectionID *string         `db:"correction_id"`
	}
	err := q.Select(ctx, &rows, `SELECT plain.*, CAST(NULL AS TEXT) AS fact, CAST(NULL AS TEXT) AS correction_id FROM (
			SELECT timestamp, sequence, id, price, size, `+more+` FROM `+table+` AS t
			WHERE `+where+` AND id <= $8 AND NOT EXISTS (SELECT 1 FROM `+kept+` AS k WHERE k.id = t.id)`+order+`) AS plain
		UNION ALL SELECT timestamp, sequence, id, price, size, timestamp, timestamp, fact, correction_id FROM (
			SELECT o.timestamp, o.sequence, o.id, c.price, c.size, o.fact, c.correction_id FROM `+kept+` AS o
			LEFT JOIN `+said+` AS c ON c.id = (SELECT MAX(d.id) FROM `+said+` AS d WHERE d.correction_key = o.correction_key AND d.id <= $8)
			WHERE o.symbol = $1 AND o.provider = $2 AND o.timestamp >= $3 AND (o.timestamp, o.sequence, o.id) < ($4, $5, $6)
			AND o.id <= $8 AND (c.id IS NULL OR c.price IS NOT NULL)`+` ORDER BY o.timestamp DESC, o.sequence DESC, o.id DESC LIMIT $7) AS corrected`,
		span.Symbol, span.Provider, span.From, span.Behind.Timestamp, span.Behind.Sequence, span.Behind.ID, span.Limit, span.AsOf)
	if err != nil {
		return nil, QueryError(table+" as of a place in the log, of "+schema.MarketKey(span.Provider, span.Symbol), err)
	}
	facts := make([]FactAsOf, len(rows))
	for i, r := range rows {
		if r.Fact == nil {
			f := Fact{Symbol: span.Symbol, Provider: span.Provider, Place: Place{r.Timestamp, r.Sequence, r.ID}, Price: *r.Price, ReceivedAt: r.ReceivedAt}
			if r.Size != nil {
				f.Size = *r.Size
			}
			if r.OpenTime != nil {
				f.Bar = &schema.Bar{OpenTime: *r.OpenTime}
			}
			facts[i] = FactAsOf{Fact: f}
			continue
		}
		var came Fact
		if err := json.Unmarshal([]byte(*r.Fact), &came); err != nil {
			return nil, fmt.Errorf("reading a fact as it came: %w", err)
		}
		if facts[i].Fact = came; r.CorrectionID != nil {
			correction := CorrectionRow{Price: r.Price, Size: r.Size}
			facts[i] = FactAsOf{*correction.Of(came), &came.Price, r.CorrectionID}
		}
	}
	slices.SortFunc(facts, func(a, b FactAsOf) int { return b.Compare(a.Place) })
	return facts[:min(len(facts), span.Limit)], nil
}

// AsOfIndicator is an Indicator that can be read as of a place in the log.
type AsOfIndicator interface {
	Indicator
	// PointsAsOf is Points as they were when the log had no more than the record with a row
	// id. db is a snapshot. Its errors wrap ErrAsOfTooLong.
	PointsAsOf(ctx context.Context, db store.Querier, q IndicatorQuery, asOf int64) ([]Point, error)
}

var _ AsOfIndicator = (*series[int])(nil)

// PointsAsOf implements AsOfIndicator. Up to the first price that came or was corrected
// later, the series is as it was. From there on it is stepped through again.
func (p *series[S]) PointsAsOf(ctx context.Context, db store.Querier, q IndicatorQuery, asOf int64) ([]Point, error) {
	m := market{q.Symbol, q.Provider}
	first, changed, err := p.firstAfter(ctx, db, m, asOf)
	if err != nil {
		return nil, err
	}
	if !changed || q.Behind.Compare(first) <= 0 {
		return p.Points(ctx, db, q)
	}
	facts, err := factsAsOf(ctx, db, p.table, "timestamp AS received_at, timestamp AS open_time",
		SpanAsOf{q.Provider, q.Symbol, first.Timestamp, q.Behind, maxAsOf + 1, asOf})
	if err != nil {
		return nil, err
	}
	if len(facts) > maxAsOf {
		return nil, fmt.Errorf("%s of %s: %w", p.Series.Name, m, ErrAsOfTooLong)
	}
	facts = slices.DeleteFunc(facts, func(f FactAsOf) bool { return f.Compare(first) < 0 || !p.keep(&f.Fact) })
	at, err := p.standingBefore(ctx, db, m, first)
	if err != nil {
		return nil, err
	}
	standings := make([]standing[S], len(facts))
	for i := len(facts) - 1; i >= 0; i-- {
		if at, err = p.step(at, priceOf(facts[i].Fact)); err != nil {
			return nil, err
		}
		standings[i] = at
	}
	var points []Point
	for i, f := range facts {
		if f.Timestamp.Before(q.From.Time) || len(points) == q.Limit {
			return points, nil
		}
		values, err := p.values(standings[i], priceOf(f.Fact), q.Parameters)
		if err != nil {
			return nil, fmt.Errorf("the point of %s of %s at %s: %w", p.Series.Name, m, f.Timestamp, err)
		}
		if values != nil {
			points = append(points, Point{f.Place, values})
		}
	}
	q.Behind, q.Limit = first, q.Limit-len(points)
	rest, err := p.Points(ctx, db, q)
	return append(points, rest...), err
}

func priceOf(f Fact) SeriesPrice { return SeriesPrice{f.Place, f.Price, f.Size, f.Key} }

// firstAfter is the place of the first price, by event time, that came or was corrected after
// a record.
func (p *series[S]) firstAfter(ctx context.Context, db store.Querier, m market, asOf int64) (first Place, found bool, err error) {
	var rows []FactRow
	said, kept := p.corrections.Said(), p.corrections.originals()
	err = db.Select(ctx, &rows, `SELECT * FROM (SELECT timestamp, sequence, id FROM `+p.table+`
			WHERE symbol = $1 AND provider = $2 AND id > $3 ORDER BY `+seriesPlace+` LIMIT 1) AS came
		UNION ALL SELECT * FROM (SELECT timestamp, sequence, id FROM `+kept+` AS o WHERE symbol = $1 AND provider = $2
			AND (id > $3 OR EXISTS (SELECT 1 FROM `+said+` AS c WHERE c.correction_key = o.correction_key AND c.id > $3))
			ORDER BY `+seriesPlace+` LIMIT 1) AS corrected`, m.symbol, m.provider, asOf)
	if err != nil {
		return first, false, QueryError("what came later of "+m.String(), err)
	}
	if len(rows) == 0 {
		return first, false, nil
	}
	first = rows[0].Fact().Place
	for _, r := range rows[1:] {
		first = first.Earlier(r.Fact().Place)
	}
	return first, true, nil
}

// standingBefore is where the series stands before a place, by what the table that serves
// holds.
func (p *series[S]) standingBefore(ctx context.Context, db store.Querier, m market, place Place) (standing[S], error) {
	for lead := leadRows; ; lead *= 8 {
		rows, err := p.rowsBefore(ctx, db, p.table, m, place, lead)
		if err != nil {
			return standing[S]{}, QueryError(p.Series.Name+" of "+m.String(), err)
		}
		if at, known, err := p.follow(rows, 0, len(rows) < lead); known || err != nil {
			if err != nil {
				return standing[S]{}, err
			}
			return at[0], nil
		}
	}
}
