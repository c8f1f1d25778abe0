package movingaverages

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
)

// Average is the mean of the last Window prices of one symbol.
type Average struct {
	Provider schema.Provider `db:"provider"`
	Symbol   schema.Symbol   `db:"symbol"`
	Window   int             `db:"window_size"`
	Value    schema.Decimal  `db:"value"`
	// Timestamp is the newest event time in the window.
	Timestamp schema.Time `db:"timestamp"`
}

// Reader answers queries.
type Reader struct {
	db      store.Querier
	current *store.Loader[kept, Average]
	kept    *projections.Kept[kept, Average]
}

// kept is what the table has averages of.
type kept struct {
	provider schema.Provider
	symbol   schema.Symbol
	size     int
}

// NewReader returns a reader of committed rows, for use by many goroutines.
func NewReader(db store.Committed) Reader {
	return Reader{db, store.NewLoader(db.ReadsAtOnce(), func(ctx context.Context, asked []kept) (map[kept]Average, error) {
		return current(ctx, db, asked)
	}), projections.NewKept[kept, Average](db, Name)}
}

// Average returns the current average: the one whose price or correction is last in the log.
// A window that is not kept is computed from the prices. It returns
// projections.ErrNotFound where there is no price.
func (r Reader) Average(ctx context.Context, provider schema.Provider, symbol schema.Symbol, size int) (Average, error) {
	found, err := r.kept.Load(ctx, []kept{{provider, symbol, size}}, r.loadOne)
	if err != nil {
		return Average{}, projections.QueryError("the average of "+schema.MarketKey(provider, symbol), err)
	}
	if found[0] != nil {
		return *found[0], nil
	}
	return r.AsOf(ctx, provider, symbol, size, projections.EndOfTime)
}

// loadOne reads one average that is in the table, with those that others ask for.
func (r Reader) loadOne(ctx context.Context, asked []kept) (map[kept]Average, error) {
	average, err := r.current.Load(ctx, asked[0])
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return map[kept]Average{asked[0]: average}, err
}

// AveragesOf returns the current averages of symbols, in their order; nil where a symbol has
// no price. Those of a window that is kept are read by one statement; of another, one symbol
// is computed after another. They are not to be changed.
func (r Reader) AveragesOf(ctx context.Context, provider schema.Provider, symbols []schema.Symbol, size int) ([]*Average, error) {
	asked := make([]kept, len(symbols))
	for i, symbol := range symbols {
		asked[i] = kept{provider, symbol, size}
	}
	averages, err := r.kept.Load(ctx, asked, func(ctx context.Context, _ []kept) (map[kept]Average, error) {
		rows, err := store.SelectFor[averageRow](ctx, r.db, `WITH asked (symbol) AS (VALUES (?))
			SELECT m.provider, m.symbol, m.window_size, m.value, m.timestamp FROM asked JOIN moving_averages m
			ON m.id = (SELECT id FROM moving_averages WHERE symbol = asked.symbol AND provider = $1 AND window_size = $2
				ORDER BY id DESC LIMIT 1)`, store.Padded(symbols), provider, size)
		return averagesIn(rows), err
	})
	if err != nil {
		return nil, projections.QueryError(fmt.Sprintf("the averages of %d symbols at %s", len(symbols), provider), err)
	}
	for i, symbol := range symbols {
		if averages[i] != nil {
			continue
		}
		average, err := r.AsOf(ctx, provider, symbol, size, projections.EndOfTime)
		switch {
		case err == nil:
			averages[i] = &average
		case !errors.Is(err, projections.ErrNotFound):
			return nil, err
		}
	}
	return averages, nil
}

// averageRow is a row of the table, whose value is NULL where all prices were retracted.
type averageRow struct {
	Average
	Value *schema.Decimal `db:"value"`
}

func averagesIn(rows []averageRow) map[kept]Average {
	known := make(map[kept]Average, len(rows))
	for _, r := range rows {
		if r.Value != nil {
			r.Average.Value = *r.Value
			known[kept{r.Provider, r.Symbol, r.Window}] = r.Average
		}
	}
	return known
}

func current(ctx context.Context, db store.Querier, asked []kept) (map[kept]Average, error) {
	args := make([]any, 0, 3*len(asked))
	for _, k := range asked {
		args = append(args, k.symbol, k.provider, k.size)
	}
	var rows []averageRow
	err := db.Select(ctx, &rows, store.ForEach(`SELECT provider, symbol, window_size, value, timestamp FROM moving_averages
		WHERE symbol = ? AND provider = ? AND window_size = ? ORDER BY id DESC LIMIT 1`, len(asked)), args...)
	if err != nil {
		return nil, err
	}
	return averagesIn(rows), nil
}

// AsOf returns the average of the last prices up to and including an event
// time, whether the window is kept or not, or projections.ErrNotFound.
func (r Reader) AsOf(ctx context.Context, provider schema.Provider, symbol schema.Symbol, size int, t schema.Time) (Average, error) {
	points, err := r.History(ctx, size, processedprices.Query{Provider: provider, Symbol: symbol, Behind: projections.Until(t), Limit: 1})
	if err != nil {
		return Average{}, err
	}
	if len(points) == 0 {
		return Average{}, fmt.Errorf("the average of %s as of %s: %w", schema.MarketKey(provider, symbol), t, projections.ErrNotFound)
	}
	return Average{provider, symbol, size, points[0].Value, points[0].Timestamp}, nil
}

// Point is the average at one price: of it and those before it by event time.
type Point struct {
	projections.Place
	Value schema.Decimal
}

// History returns the averages at the prices that a query selects, of any
// window. It is read from the prices, so that a late one takes its place: the
// table moving_averages has the averages in the order of the log, as they were
// when each price came.
func (r Reader) History(ctx context.Context, size int, q processedprices.Query) ([]Point, error) {
	limit, from := q.Limit, q.From
	q.Limit, q.From = limit+size-1, schema.Time{} // the window of the last one reaches back
	prices, err := processedprices.Reader{DB: r.db}.Prices(ctx, q)
	if err != nil {
		return nil, err
	}
	var sum schema.Decimal
	for _, p := range prices[:min(size-1, len(prices))] {
		sum = sum.Add(p.Price)
	}
	var points []Point
	for i, p := range prices[:min(limit, len(prices))] {
		if p.Timestamp.Before(from.Time) {
			break
		}
		if oldest := i + size - 1; oldest < len(prices) {
			sum = sum.Add(prices[oldest].Price)
		}
		points = append(points, Point{p.Place(), sum.Quo(min(size, len(prices)-i))})
		sum = sum.Sub(p.Price)
	}
	return points, nil
}
