// Package candles is the read model of candles: open, high, low and close of the
// prices of an interval, and how much was traded in it.
//
// An interval is a minute, five, an hour or a day, and begins at a multiple of its
// length since 1970 UTC; a price belongs to the one that its event time is in.
// The open is its first price by event time, ties by sequence and then by log order, the close its
// last, as charts have had it since S. Nison, "Japanese Candlestick Charting
// Techniques" (1991). The volume is the sum of the sizes of the prices that say
// theirs, exactly. A late price updates the candle it belongs to; an interval
// without a price has no candle.
//
// A bar that is within an interval is what the provider says about its span, and takes
// the place of the prices in it: see bars.go.
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
	p := &projection{intervals: names}
	p.corrections = &projections.Corrections{Table: table, Keep: p.keep, Find: p.find,
		Listed: func(f projections.Fact) bool { return f.Bar == nil }}
	return p, nil
}

type projection struct {
	intervals   []string
	corrections *projections.Corrections
}

var (
	_ pipeline.OrderFree     = (*projection)(nil)
	_ projections.Indicator  = (*projection)(nil)
	_ projections.Configured = (*projection)(nil)
)

const table = "candles"

func (*projection) Name() string { return Name }
func (*projection) Version() int { return 4 }

func (p *projection) TableNames() []string {
	return append([]string{table, ticksTable, barsTable}, p.corrections.TableNames()...)
}

// OrderFree implements pipeline.OrderFree.
func (*projection) OrderFree() {}

// Configuration implements projections.Configured.
func (p *projection) Configuration() string { return fmt.Sprintf("intervals=%v", p.intervals) }

func (*projection) Consumes() []schema.EventType {
	return schema.FactTypes()
}

var columns = []projections.Column{
	{Name: "open", Doc: "The first price by event time, or the open of the first bar.", Type: projections.DecimalColumn},
	{Name: "high", Doc: "The highest price.", Type: projections.DecimalColumn},
	{Name: "low", Doc: "The lowest price.", Type: projections.DecimalColumn},
	{Name: "close", Doc: "The last price by event time, or the close of the last bar.", Type: projections.DecimalColumn},
	{Name: "volume", Doc: "The sum of the sizes of the prices and bars that say theirs; null where none does.", Type: projections.DecimalColumn, Nullable: true},
	{Name: "prices", Doc: "How many prices there are. A bar is none.", Type: projections.IntColumn},
	{Name: "rests_on", Doc: "What the candle is made of: ticks (single prices), bars (of the provider), or both.", Type: projections.TextColumn},
}

// Indicator implements projections.Indicator.
func (p *projection) Indicator() projections.IndicatorDoc {
	return projections.IndicatorDoc{
		Doc: "Candles by event time; timestamp is the start of the interval. A late price updates the candle it belongs to; an interval without a price has none. " +
			"A bar of the provider takes the place of the prices in its span.",
		Parameters: []projections.Parameter{{Name: "interval", Doc: "The length of a candle.",
			Default: p.intervals[0], Choices: p.intervals}},
		Columns: columns,
	}
}

// Points implements projections.Indicator.
func (p *projection) Points(ctx context.Context, db store.Querier, q projections.IndicatorQuery) ([]projections.Point, error) {
	return projections.ReadPoints(ctx, db, table, p.Indicator(), q)
}

func (p *projection) Tables(g pipeline.Generation) []string {
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
	var tables []string
	for _, name := range []string{g.Table(table), g.Table(ticksTable)} {
		tables = append(tables, "CREATE TABLE "+name+" ("+strings.Join(definitions, ", ")+") {keyed}",
			"CREATE INDEX "+name+"_by_time ON "+name+" (symbol, provider, interval, timestamp, id)")
	}
	return slices.Concat(tables, barTables(g.Table(barsTable)), p.corrections.Tables(g))
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

// beginOf is where the interval that a time is in begins; before 1970 too.
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

// Apply puts each price into its candle of each interval, and makes the candles again
// that have bars in them, or prices that were corrected. Of each line one candle stays in
// memory, the newest that came; any other is looked for in the table.
func (p *projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	batch, err := p.corrections.Batch(ctx, tx, g, in)
	if err != nil {
		return err
	}
	f := &fold{projection: p, tx: tx, g: g, batch: batch, cache: pipeline.CacheFor[line, last](tx, p), changed: map[place]candle{}, again: map[place]bool{}}
	ticks, bars, err := f.divide(ctx, projections.Net(batch.Changes))
	if err != nil {
		return err
	}
	if err := f.amend(ctx); err != nil {
		return err
	}
	if err := f.load(ctx, ticks, bars); err != nil {
		return err
	}
	under, err := f.addTicks(ctx, ticks, bars)
	if err != nil {
		return err
	}
	if err := save(ctx, tx, g.Table(ticksTable), under); err != nil {
		return err
	}
	if err := save(ctx, tx, g.Table(table), f.changed); err != nil {
		return err
	}
	f.remember(f.changed)
	if len(f.again) == 0 {
		return nil
	}
	made, err := f.makeAgain(ctx)
	if err != nil {
		return err
	}
	f.remember(made)
	return save(ctx, tx, g.Table(table), made)
}

// fold is a batch that is folded into a generation.
type fold struct {
	*projection
	tx    *pipeline.Tx
	g     pipeline.Generation
	batch *projections.Batch
	cache *pipeline.Cache[line, last]
	// changed are the candles that rest on ticks alone, again those that have bars, or
	// amended prices.
	changed map[place]candle
	again   map[place]bool
	// amended are the candles of prices and bars that were corrected or retracted.
	amended map[place]bool
}

// observed is a price of a batch, as the candle that it would be alone.
type observed struct {
	candle
	places []place // of the candles that it belongs to
}

// places are the candles that a price belongs to, the shortest first.
func (p *projection) places(f projections.Fact) []place {
	places := make([]place, len(p.intervals))
	for i, name := range p.intervals {
		places[i] = place{line{f.Symbol, f.Provider, name}, beginOf(f.Timestamp, intervals[name])}
	}
	return places
}

// divide stores the bars, notes which candles have amended ones, and returns
// those that came, without the prices of amended candles.
func (f *fold) divide(ctx context.Context, changes []projections.Change) (ticks []observed, bars []barRow, err error) {
	f.amended = map[place]bool{}
	var ofBars []projections.Change
	for _, c := range changes {
		fact := c.After
		if fact == nil {
			fact = c.Before
		}
		if fact.Bar == nil {
			if c.Before == nil {
				ticks = append(ticks, observed{tick(*fact), f.places(*fact)})
				continue
			}
			for _, at := range f.places(*fact) {
				f.amended[at] = true
			}
			continue
		}
		row := rowOf(*fact)
		ofBars = append(ofBars, c)
		if c.Before == nil {
			bars = append(bars, row)
			continue
		}
		for _, at := range f.within(row) {
			f.amended[at] = true
		}
	}
	if err := f.saveBars(ctx, ofBars); err != nil {
		return nil, nil, err
	}
	for i := range ticks {
		if len(f.amended) == 0 {
			break
		}
		ticks[i].places = slices.DeleteFunc(ticks[i].places, func(at place) bool { return f.amended[at] })
	}
	return ticks, bars, nil
}

// load fills changed with the candles of a batch; one that does not exist is the zero
// value. Of bars it takes the shortest candle, whose ticks are kept.
func (f *fold) load(ctx context.Context, ticks []observed, bars []barRow) error {
	var missing []string
	want := func(at place) {
		if _, known := f.changed[at]; known {
			return
		}
		newest, remembered := f.cache.Get(at.line)
		if remembered && newest.begin == at.begin {
			f.changed[at] = newest.candle
			return
		}
		f.changed[at] = candle{}
		missing = append(missing, at.String())
	}
	for _, o := range ticks {
		for _, at := range o.places {
			want(at)
		}
	}
	for _, b := range bars {
		for _, at := range f.within(b) {
			if at.interval == f.intervals[0] && !f.amended[at] {
				want(at)
			}
		}
	}
	return load(ctx, f.tx, f.g.Table(table), f.changed, missing)
}

// addTicks adds prices to the candles that have no bars, and leaves only those in
// changed. It returns the ticks of the shortest candles that have bars: in a longer
// candle, whose bars are others, they may count.
func (f *fold) addTicks(ctx context.Context, ticks []observed, bars []barRow) (under map[place]candle, err error) {
	for _, b := range bars {
		for _, at := range f.within(b) {
			f.again[at] = true
		}
	}
	under = map[place]candle{}
	var missing []string
	for at, c := range f.changed {
		if c.RestsOn == "" || c.RestsOn == onTicks {
			continue
		}
		if f.again[at] = true; at.interval == f.intervals[0] {
			under[at] = candle{}
			missing = append(missing, at.String())
		}
		delete(f.changed, at)
	}
	if err := load(ctx, f.tx, f.g.Table(ticksTable), under, missing); err != nil {
		return nil, err
	}
	for _, o := range ticks {
		for _, at := range o.places {
			if c, rests := f.changed[at]; rests {
				f.changed[at] = c.add(o.candle)
			} else if c, kept := under[at]; kept {
				under[at] = c.add(o.candle)
			}
		}
	}
	for at := range f.again { // has its first bar, or had one
		if c, rests := f.changed[at]; rests {
			if at.interval == f.intervals[0] {
				under[at] = c
			}
			delete(f.changed, at)
		}
	}
	maps.DeleteFunc(under, func(_ place, c candle) bool { return c.RestsOn == "" })
	return under, nil
}

// remember keeps the newest candle of each line in memory.
func (f *fold) remember(candles map[place]candle) {
	for at, c := range candles {
		if newest, remembered := f.cache.Get(at.line); !remembered || newest.begin <= at.begin {
			f.cache.Put(at.line, last{at.begin, c})
		}
	}
}

// load reads candles; one that does not exist stays the zero value.
func load(ctx context.Context, tx *pipeline.Tx, table string, candles map[place]candle, keys []string) error {
	slices.Sort(keys)
	rows, err := store.SelectIn[row](ctx, tx, `SELECT `+strings.Join(rowColumns, ", ")+` FROM `+table+`
		WHERE candle_key IN (?)`, keys)
	if err != nil {
		return fmt.Errorf("loading candles: %w", err)
	}
	for _, r := range rows {
		candles[r.place()] = r.stored()
	}
	return nil
}

// save stores candles, and takes those out that have no price any more.
func save(ctx context.Context, tx *pipeline.Tx, table string, changed map[place]candle) error {
	clause := make([]string, 0, len(rowColumns))
	for _, name := range rowColumns[1:] {
		clause = append(clause, name+" = excluded."+name)
	}
	rows := store.Rows{Table: table, Columns: rowColumns,
		Clause: "ON CONFLICT (candle_key) DO UPDATE SET " + strings.Join(clause, ", ")}
	byKey := map[string]place{}
	for at := range changed {
		byKey[at.String()] = at
	}
	// In one order everywhere: two transactions never wait in a circle.
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		at := byKey[key]
		c := changed[at]
		if c.RestsOn == "" {
			if _, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE candle_key = $1`, key); err != nil {
				return fmt.Errorf("taking a candle without prices out of %s: %w", table, err)
			}
			continue
		}
		rows.Add(key, at.symbol, at.provider, at.interval, schema.NewTime(time.Unix(at.begin, 0)), c.ID,
			c.OpenTime, c.OpenSequence, c.OpenID, c.CloseTime, c.CloseSequence, c.CloseID, c.Open, c.High, c.Low, c.Close, decimalOf(c.Volume), c.Prices, c.RestsOn)
	}
	return tx.Insert(ctx, rows)
}

// decimalOf is a volume for the table; nil for none.
func decimalOf(volume *big.Int) any {
	if volume == nil {
		return nil
	}
	return schema.RoundUnits(volume, big.NewInt(1))
}
