// Package candles is the read model of candles: open, high, low and close of the
// prices of an interval, and how much was traded in it.
//
// An interval is a minute, five, an hour or a day, and begins at a multiple of its
// length since 1970 UTC; a price belongs to the one that its event time lies in.
// The open is its first price by event time, ties by sequence and then by log order, the close its
// last, as charts have had it since S. Nison, "Japanese Candlestick Charting
// Techniques" (1991). The volume is the sum of the sizes of the prices that say
// theirs, exactly. A late price mends the candle it belongs to; an interval
// without a price has no candle.
package candles

import (
	"context"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = "candles"

// intervals are all there are, by name.
var intervals = map[string]time.Duration{"1m": time.Minute, "5m": 5 * time.Minute, "1h": time.Hour, "1d": 24 * time.Hour}

// Settings of the projection.
type Settings struct {
	Intervals []string `mapstructure:"intervals" doc:"intervals kept: 1m, 5m, 1h, 1d"`
}

var defaults = Settings{Intervals: []string{"1m", "5m", "1h", "1d"}}

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name:     Name,
		Doc:      "Open, high, low, close and volume of each symbol by minute, five minutes, hour and day.",
		Settings: defaults,
		Optional: true,
		New:      New,
	})
}

// New makes the projection.
func New(env pipeline.Env) (pipeline.Projection, error) {
	settings := defaults
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	names := slices.Clone(settings.Intervals)
	for _, name := range names {
		if intervals[name] == 0 {
			return nil, fmt.Errorf("intervals: %q is none of 1m, 5m, 1h, 1d", name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return int(intervals[a]/time.Second - intervals[b]/time.Second) })
	if names = slices.Compact(names); len(names) == 0 {
		return nil, fmt.Errorf("intervals: at least one of 1m, 5m, 1h, 1d is needed")
	}
	return &projection{names}, nil
}

type projection struct{ intervals []string }

var (
	_ pipeline.OrderFree     = (*projection)(nil)
	_ projections.Indicator  = (*projection)(nil)
	_ projections.Configured = (*projection)(nil)
)

const table = "candles"

func (*projection) Name() string         { return Name }
func (*projection) Version() int         { return 2 }
func (*projection) TableNames() []string { return []string{table} }

// OrderFree implements pipeline.OrderFree.
func (*projection) OrderFree() {}

// Configuration implements projections.Configured.
func (p *projection) Configuration() string { return fmt.Sprintf("intervals=%v", p.intervals) }

func (*projection) Consumes() []schema.EventType {
	return []schema.EventType{schema.PriceObserved{}.EventType()}
}

var columns = []projections.Column{
	{Name: "open", Doc: "The first price by event time.", Type: projections.DecimalColumn},
	{Name: "high", Doc: "The highest price.", Type: projections.DecimalColumn},
	{Name: "low", Doc: "The lowest price.", Type: projections.DecimalColumn},
	{Name: "close", Doc: "The last price by event time.", Type: projections.DecimalColumn},
	{Name: "volume", Doc: "The sum of the sizes of the prices that say theirs; null where none does.", Type: projections.DecimalColumn, Nullable: true},
	{Name: "prices", Doc: "How many prices there are.", Type: projections.IntColumn},
}

// Indicator implements projections.Indicator.
func (p *projection) Indicator() projections.IndicatorDoc {
	return projections.IndicatorDoc{
		Doc: "Candles by event time; timestamp is the start of the interval. A late price updates the candle it belongs to; an interval without a price has none.",
		Parameters: []projections.Parameter{{Name: "interval", Doc: "The length of a candle.",
			Default: p.intervals[0], Choices: p.intervals}},
		Columns: columns,
	}
}

// Points implements projections.Indicator.
func (p *projection) Points(ctx context.Context, db store.Querier, q projections.IndicatorQuery) ([]projections.Point, error) {
	return projections.ReadPoints(ctx, db, table, p.Indicator(), q)
}

func (*projection) Tables(g pipeline.Generation) []string {
	definitions := []string{
		"candle_key {text} PRIMARY KEY", // see place.String
		"symbol {text} NOT NULL", "provider {text} NOT NULL", "interval {text} NOT NULL",
		"timestamp {time} NOT NULL", // where the interval begins
		"id {int} NOT NULL",         // of the first of its prices in the log
		// The places of open and close among the prices of one event time.
		"open_time {time} NOT NULL", "open_sequence {int} NOT NULL", "open_id {int} NOT NULL",
		"close_time {time} NOT NULL", "close_sequence {int} NOT NULL", "close_id {int} NOT NULL",
	}
	for _, c := range columns {
		definitions = append(definitions, c.DDL())
	}
	name := g.Table(table)
	return []string{
		"CREATE TABLE " + name + " (" + strings.Join(definitions, ", ") + ") {keyed}",
		"CREATE INDEX " + name + "_by_time ON " + name + " (symbol, provider, interval, timestamp, id)",
	}
}

// line is the candles of one interval of a symbol.
type line struct {
	symbol   schema.Symbol
	provider schema.Provider
	interval string
}

// place is where a candle stands.
type place struct {
	line
	begin int64 // seconds since 1970
}

// String is the key of the candle's row.
func (p place) String() string {
	return schema.MarketKey(p.provider, p.symbol) + "|" + p.interval + "|" + strconv.FormatInt(p.begin, 10)
}

// beginOf is where the interval that a time lies in begins; before 1970 too.
func beginOf(t schema.Time, length time.Duration) int64 {
	seconds := int64(length / time.Second)
	at := t.Unix()
	return at - ((at%seconds)+seconds)%seconds
}

// last is a candle of a line in memory.
type last struct {
	begin int64
	candle
}

// Apply puts each price into its candle of each interval. Of each line one candle
// stays in memory, the newest that came; any other is looked for in the table.
func (p *projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	cache := pipeline.CacheFor[line, last](tx, p)
	candles, places := map[place]candle{}, make([]place, 0, len(in)*len(p.intervals))
	var missing []string
	for i := range in {
		price := in[i].Event.Payload.(schema.PriceObserved)
		for _, name := range p.intervals {
			at := place{line{price.Symbol, price.Source, name}, beginOf(price.Timestamp, intervals[name])}
			places = append(places, at)
			if _, known := candles[at]; known {
				continue
			}
			newest, remembered := cache.Get(at.line)
			if remembered && newest.begin == at.begin {
				candles[at] = newest.candle
				continue
			}
			candles[at] = candle{}
			missing = append(missing, at.String())
		}
	}
	if err := load(ctx, tx, g, candles, missing); err != nil {
		return err
	}
	for i := range in {
		price := in[i].Event.Payload.(schema.PriceObserved)
		id, err := in[i].RowID(0)
		if err != nil {
			return pipeline.Permanent(err)
		}
		for _, at := range places[i*len(p.intervals) : (i+1)*len(p.intervals)] {
			candles[at] = candles[at].add(price, id)
		}
	}
	for at, c := range candles {
		if newest, remembered := cache.Get(at.line); !remembered || newest.begin <= at.begin {
			cache.Put(at.line, last{at.begin, c})
		}
	}
	return save(ctx, tx, g, candles)
}

// load reads candles; one that does not exist stays the zero value.
func load(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, candles map[place]candle, keys []string) error {
	rows, err := store.SelectIn[row](ctx, tx, `SELECT `+strings.Join(rowColumns, ", ")+` FROM `+g.Table(table)+`
		WHERE candle_key IN (?)`, keys)
	if err != nil {
		return fmt.Errorf("loading candles: %w", err)
	}
	for _, r := range rows {
		candles[place{line{r.Symbol, r.Provider, r.Interval}, r.Begin.Unix()}] = r.stored()
	}
	return nil
}

func save(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, changed map[place]candle) error {
	clause := make([]string, 0, len(rowColumns))
	for _, name := range rowColumns[1:] {
		clause = append(clause, name+" = excluded."+name)
	}
	rows := store.Rows{Table: g.Table(table), Columns: rowColumns,
		Clause: "ON CONFLICT (candle_key) DO UPDATE SET " + strings.Join(clause, ", ")}
	byKey := map[string]place{}
	for at := range changed {
		byKey[at.String()] = at
	}
	// In one order everywhere: two transactions never wait in a circle.
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		at := byKey[key]
		c := changed[at]
		var volume any
		if c.Volume != nil {
			volume = schema.RoundUnits(c.Volume, big.NewInt(1))
		}
		rows.Add(key, at.symbol, at.provider, at.interval, schema.NewTime(time.Unix(at.begin, 0)), c.ID,
			c.OpenTime, c.OpenSequence, c.OpenID, c.CloseTime, c.CloseSequence, c.CloseID, c.Open, c.High, c.Low, c.Close, volume, c.Prices)
	}
	return tx.Insert(ctx, rows)
}
