package candles

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

var _ projections.AsOfIndicator = (*projection)(nil)

// Prices are read in pages, each four times as large as the one before.
const (
	firstAsOfRows = 64
	mostAsOfRows  = 16_384
)

// maxAsOfRows bounds the prices of one candle, and those that are read for a page.
const maxAsOfRows = 100_000

// PointsAsOf implements projections.AsOfIndicator: the candles are made again, of the prices and
// bars that there were.
func (p *projection) PointsAsOf(ctx context.Context, db store.Querier, q projections.IndicatorQuery, asOf int64) ([]projections.Point, error) {
	interval := q.Parameters["interval"]
	length := intervals[interval]
	market := line{q.Symbol, q.Provider, interval}
	end := projections.EndOfTime
	if q.Behind.Timestamp.Before(end.Add(-2 * length).Time) { // the candle that begins there may be wanted
		end = place{market, beginOf(q.Behind.Timestamp, length)}.end()
	}
	var points []projections.Point
	read := 0
	for limit := firstAsOfRows; len(points) < q.Limit; {
		span := projections.SpanAsOf{Provider: q.Provider, Symbol: q.Symbol, Behind: projections.Until(end), Limit: limit, AsOf: asOf}
		facts, err := projections.PricesAsOf(ctx, db, span)
		if err != nil {
			return nil, err
		}
		if len(facts) == 0 {
			break
		}
		// Of the candle that the oldest fact is in, others may be missing.
		complete, all := beginOf(facts[len(facts)-1].Timestamp, length)+int64(length/time.Second), len(facts) < limit
		if all {
			complete = beginOf(earliest(facts), length)
		}
		made, err := p.candlesAsOf(ctx, db, market, facts, complete, end, asOf)
		if err != nil {
			return nil, err
		}
		for _, c := range made {
			at := projections.Place{Timestamp: c.start(), ID: c.ID}
			if at.Timestamp.Before(q.From.Time) {
				return points, nil
			}
			if at.Compare(q.Behind) < 0 && len(points) < q.Limit {
				points = append(points, projections.Point{Place: at, Values: c.values()})
			}
		}
		if all {
			break
		}
		if next := schema.NewTime(time.Unix(complete, 0)); next.Before(end.Time) {
			end, limit = next, min(4*limit, mostAsOfRows)
		} else { // they are of one candle
			limit *= 4
		}
		if read += len(facts); read > maxAsOfRows && len(points) < q.Limit {
			return nil, fmt.Errorf("candles of %s of %s: %w", interval, schema.MarketKey(q.Provider, q.Symbol), projections.ErrAsOfTooLong)
		}
	}
	return points, nil
}

// earliest is the earliest time that facts are about: a bar begins before it is a fact.
func earliest(facts []projections.FactAsOf) schema.Time {
	first := facts[len(facts)-1].Timestamp
	for _, f := range facts {
		if f.Bar != nil && f.Bar.OpenTime.Before(first.Time) {
			first = f.Bar.OpenTime
		}
	}
	return first
}

// made is a candle at its place.
type made struct {
	place
	candle
}

func (m made) values() []any {
	volume := any(nil)
	if v, known := decimalOf(m.Volume).(schema.Decimal); known {
		volume = v
	}
	return []any{m.Open, m.High, m.Low, m.Close, volume, m.Prices, m.RestsOn}
}

// candlesAsOf are the candles of an interval that begin from a time on and end by another, the
// last first, of the list's facts and of the bars that are among them.
func (p *projection) candlesAsOf(ctx context.Context, db store.Querier, of line, facts []projections.FactAsOf, begin int64, end schema.Time, asOf int64) ([]made, error) {
	shortest := line{of.symbol, of.provider, p.intervals[0]}
	pieces, places := map[place]candle{}, map[place]bool{}
	barred := false
	for _, f := range facts {
		if f.Bar != nil {
			barred = true
			continue
		}
		if !f.Timestamp.Before(end.Time) {
			continue
		}
		at := place{shortest, beginOf(f.Timestamp, intervals[shortest.interval])}
		pieces[at] = pieces[at].add(tick(f.Fact))
		places[place{of, beginOf(f.Timestamp, intervals[of.interval])}] = true
	}
	var bars []barRow
	if barred {
		var err error
		if bars, err = p.barsAsOf(ctx, db, of, schema.NewTime(time.Unix(begin, 0)), end, asOf); err != nil {
			return nil, err
		}
	}
	for _, b := range bars {
		if at := (place{of, beginOf(b.Opened, intervals[of.interval])}); !b.Closed.After(at.end()) {
			places[at] = true
		}
	}
	ticks := make([]piece, 0, len(pieces))
	for at, c := range pieces {
		ticks = append(ticks, piece{at, c})
	}
	slices.SortFunc(ticks, func(a, b piece) int { return a.start().Compare(b.start()) })
	var all []made
	for at := range places {
		if at.begin < begin {
			continue
		}
		c := combine(at, between(bars, at, func(b barRow) schema.Time { return b.Opened }),
			between(ticks, at, func(p piece) schema.Time { return p.start() }), intervals[p.intervals[0]])
		if c.RestsOn != "" {
			all = append(all, made{at, c})
		}
	}
	slices.SortFunc(all, func(a, b made) int { return b.start().Compare(a.start()) })
	return all, nil
}

// barsAsOf are the bars that count of those within a stretch of time, in the order of their
// begin.
func (p *projection) barsAsOf(ctx context.Context, db store.Querier, of line, from, to schema.Time, asOf int64) ([]barRow, error) {
	said, kept := p.corrections.Said(), p.corrections.TableNames()[1]
	var bars []barRow
	err := db.Select(ctx, &bars, `SELECT `+strings.Join(barColumns, ", ")+` FROM `+barsTable+` AS b
		WHERE symbol = $1 AND provider = $2 AND close_time > $3 AND close_time <= $4 AND open_time >= $3 AND id <= $5
		AND NOT EXISTS (SELECT 1 FROM `+kept+` AS k WHERE k.id = b.id)`, of.symbol, of.provider, from, to, asOf)
	if err != nil {
		return nil, projections.QueryError("bars as of a place in the log", err)
	}
	var corrected []struct {
		Fact  string          `db:"fact"`
		Price *schema.Decimal `db:"price"`
		Size  *schema.Decimal `db:"size"`
	}
	err = db.Select(ctx, &corrected, `SELECT o.fact, c.price, c.size FROM `+kept+` AS o
		LEFT JOIN `+said+` AS c ON c.id = (SELECT MAX(d.id) FROM `+said+` AS d WHERE d.correction_key = o.correction_key AND d.id <= $5)
		WHERE o.symbol = $1 AND o.provider = $2 AND o.timestamp > $3 AND o.timestamp <= $4 AND o.id <= $5 AND (c.id IS NULL OR c.price IS NOT NULL)`,
		of.symbol, of.provider, from, to, asOf)
	if err != nil {
		return nil, projections.QueryError("bars as of a place in the log", err)
	}
	for _, r := range corrected {
		var f projections.Fact
		if err := json.Unmarshal([]byte(r.Fact), &f); err != nil {
			return nil, fmt.Errorf("reading a fact as it came: %w", err)
		}
		if f.Bar == nil || f.Bar.OpenTime.Before(from.Time) {
			continue
		}
		if r.Price != nil {
			f = *(&projections.CorrectionRow{Price: r.Price, Size: r.Size}).Of(f)
		}
		bars = append(bars, rowOf(f))
	}
	return best(bars), nil
}
