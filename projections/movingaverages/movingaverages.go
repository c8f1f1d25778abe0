// Package movingaverages is the read model of simple moving averages.
//
// The average of window N of a (provider, symbol) is the mean of its last N
// prices by event time, ties by sequence and then by log order; of those there are, while there are
// fewer. It is exact but for the division, which is rounded half-even to 18
// fractional digits. A price that was corrected counts as it is, and one that was
// retracted does not.
package movingaverages

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Name is the name of the projection.
const Name = "moving-averages"

// MaxWindow is the largest window, in prices.
const MaxWindow = 1000

// Settings of the projection.
type Settings struct {
	// Windows are the sizes kept up to date, in prices, 1 to MaxWindow. Others
	// are computed when asked for. Default 5.
	Windows []int `mapstructure:"windows" doc:"sizes of the windows kept up to date, in prices, 1 to 1000"`
}

var defaults = Settings{Windows: []int{5}}

func init() {
	pipeline.RegisterProjection(pipeline.ProjectionModule{
		Name:     Name,
		Doc:      "The simple moving average of each symbol after each price.",
		Settings: defaults,
		New:      New,
	})
}

// New makes the projection.
func New(env pipeline.Env) (pipeline.Projection, error) {
	settings := defaults
	if err := env.Decode(&settings); err != nil {
		return nil, err
	}
	if len(settings.Windows) == 0 {
		settings = defaults
	}
	sizes := slices.Compact(slices.Sorted(slices.Values(settings.Windows)))
	if len(sizes) > rowid.MaxIndex+1 {
		return nil, fmt.Errorf("windows: %d of them, and the most is %d", len(sizes), rowid.MaxIndex+1)
	}
	if sizes[0] < 1 || sizes[len(sizes)-1] > MaxWindow {
		return nil, fmt.Errorf("windows: %v is not within 1 and %d", settings.Windows, MaxWindow)
	}
	return &projection{sizes, &projections.Corrections{Table: averages, Keep: keep, Listed: func(projections.Fact) bool { return true }}}, nil
}

type projection struct {
	sizes       []int
	corrections *projections.Corrections
}

var _ projections.Configured = (*projection)(nil)

const (
	averages = "moving_averages"
	windows  = "moving_average_windows"
)

// keep is that of projections.Corrections.
func keep(f *projections.Fact) bool {
	f.Lean(false)
	f.Size, f.Bar = schema.Decimal{}, nil
	return true
}

func (*projection) Name() string { return Name }
func (*projection) Version() int { return 4 }

func (p *projection) TableNames() []string {
	return append([]string{averages, windows}, p.corrections.TableNames()...)
}

// Configuration implements projections.Configured: other windows are other rows.
func (p *projection) Configuration() string { return fmt.Sprintf("windows=%v", p.sizes) }

func (*projection) Consumes() []schema.EventType {
	return schema.FactTypes()
}

func (p *projection) Tables(g pipeline.Generation) []string {
	name := g.Table(averages)
	tables := []string{
		// The history: a row per window for each price and each correction of one. The value is
		// NULL where the last price was retracted.
		`CREATE TABLE ` + name + ` (
			id          {int}     PRIMARY KEY,
			symbol      {text}    NOT NULL,
			window_size {int}     NOT NULL,
			value       {decimal},
			timestamp   {time}    NOT NULL,
			provider    {text}    NOT NULL
		)`,
		`CREATE INDEX ` + name + `_by_symbol ON ` + name + ` (symbol, provider, window_size, id)`,
		// What the fold needs to continue: the last prices of each key, as JSON.
		`CREATE TABLE ` + g.Table(windows) + ` (
			quote_key {text} PRIMARY KEY,
			entries   {text} NOT NULL
		) {keyed}`,
	}
	return append(tables, p.corrections.Tables(g)...)
}

// Apply appends the averages after each price, and after each correction of one.
func (p *projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	batch, err := p.corrections.Batch(ctx, tx, g, in)
	if err != nil {
		return err
	}
	changes := batch.Changes
	f := &fold{projection: p, tx: tx, g: g, batch: batch, cache: pipeline.CacheFor[string, window](tx, p)}
	if err := f.load(ctx, changes); err != nil {
		return err
	}
	columns := []string{"id", "symbol", "window_size", "value", "timestamp", "provider"}
	rows := store.Rows{Table: g.Table(averages), Columns: columns,
		Values: make([]any, 0, len(changes)*len(p.sizes)*len(columns))}
	changed := map[string]window{}
	for i, c := range changes {
		key := c.Market()
		before, _ := f.cache.Get(key)
		after, err := f.change(ctx, before, c)
		if err != nil {
			return err
		}
		f.cache.Put(key, after)
		changed[key] = after
		fact := cmp.Or(c.After, c.Before)
		newest := fact.Timestamp
		if len(after.entries) > 0 {
			newest = after.newest()
		}
		// A correction may come before several equal facts, or change several: the last
		// change of a record has its rows.
		if i+1 < len(changes) && changes[i+1].Record == c.Record {
			continue
		}
		for index, size := range p.sizes {
			var value any
			if len(after.entries) > 0 {
				value = after.average(index, p.sizes)
			}
			// RowID checked the position; ids of one record are consecutive.
			rows.Add(c.Record+int64(index), fact.Symbol, size, value, newest, fact.Provider)
		}
	}
	if err := tx.Insert(ctx, rows); err != nil {
		return err
	}
	return save(ctx, tx, g, changed)
}

// fold is a batch that is folded into a generation.
type fold struct {
	*projection
	tx    *pipeline.Tx
	g     pipeline.Generation
	batch *projections.Batch
	cache *pipeline.Cache[string, window]
}

// change is a window after a change.
func (f *fold) change(ctx context.Context, w window, c projections.Change) (window, error) {
	if c.Before == nil {
		return w.add(entryOf(c.After), f.sizes), nil
	}
	next, held := w.replace(entryOf(c.Before), c.After, f.sizes)
	if !held || c.After != nil || len(w.entries) < f.sizes[len(f.sizes)-1] {
		return next, nil
	}
	// One fell out: the price before the window comes back.
	earlier, err := f.batch.Before(ctx, c.Before.Symbol, c.Before.Provider, w.entries[0].place, c.Record)
	if err != nil || earlier == nil {
		return next, err
	}
	return next.add(entryOf(earlier), f.sizes), nil
}

func entryOf(f *projections.Fact) entry { return entry{f.Place, f.Price} }

// load brings the windows of a batch into memory.
func (f *fold) load(ctx context.Context, changes []projections.Change) error {
	var missing []string
	for _, c := range changes {
		key := c.Market()
		if _, ok := f.cache.Get(key); !ok {
			f.cache.Put(key, window{})
			missing = append(missing, key)
		}
	}
	rows, err := store.SelectIn[struct {
		Key     string `db:"quote_key"`
		Entries string `db:"entries"`
	}](ctx, f.tx, `SELECT quote_key, entries FROM `+f.g.Table(windows)+` WHERE quote_key IN (?)`, missing)
	if err != nil {
		return fmt.Errorf("loading the windows: %w", err)
	}
	for _, row := range rows {
		w, err := decodeWindow(row.Entries, f.sizes)
		if err != nil {
			return err
		}
		f.cache.Put(row.Key, w)
	}
	return nil
}

func save(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, changed map[string]window) error {
	rows := store.Rows{Table: g.Table(windows), Columns: []string{"quote_key", "entries"},
		Clause: "ON CONFLICT (quote_key) DO UPDATE SET entries = excluded.entries"}
	for _, key := range slices.Sorted(maps.Keys(changed)) {
		rows.Add(key, changed[key].encode())
	}
	return tx.Insert(ctx, rows)
}
