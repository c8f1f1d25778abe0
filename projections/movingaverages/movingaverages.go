// Package movingaverages is the read model of simple moving averages.
//
// The average of window N of a (provider, symbol) is the mean of its last N
// prices by event time, ties by sequence and then by log order; of those there are, while there are
// fewer. It is exact but for the division, which is rounded half-even to 18
// fractional digits.
package movingaverages

import (
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
	return &projection{sizes}, nil
}

type projection struct{ sizes []int }

var _ projections.Configured = (*projection)(nil)

const (
	averages = "moving_averages"
	windows  = "moving_average_windows"
)

func (*projection) Name() string         { return Name }
func (*projection) Version() int         { return 3 }
func (*projection) TableNames() []string { return []string{averages, windows} }

// Configuration implements projections.Configured: other windows are other rows.
func (p *projection) Configuration() string { return fmt.Sprintf("windows=%v", p.sizes) }

func (*projection) Consumes() []schema.EventType {
	return schema.PriceTypes()
}

func (*projection) Tables(g pipeline.Generation) []string {
	name := g.Table(averages)
	return []string{
		// The history: a row per price and window.
		`CREATE TABLE ` + name + ` (
			id          {int}     PRIMARY KEY,
			symbol      {text}    NOT NULL,
			window_size {int}     NOT NULL,
			value       {decimal} NOT NULL,
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
}

// Apply appends the averages after each price.
func (p *projection) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	cache := pipeline.CacheFor[string, window](tx, p)
	if err := p.load(ctx, tx, g, cache, in); err != nil {
		return err
	}
	columns := []string{"id", "symbol", "window_size", "value", "timestamp", "provider"}
	rows := store.Rows{Table: g.Table(averages), Columns: columns,
		Values: make([]any, 0, len(in)*len(p.sizes)*len(columns))}
	changed := map[string]window{}
	for i := range in {
		price, _ := schema.PriceOf(in[i].Event.Payload)
		id, err := in[i].RowID(0)
		if err != nil {
			return pipeline.Permanent(err)
		}
		key := price.Key()
		before, _ := cache.Get(key)
		after := before.add(entry{projections.Place{Timestamp: price.Timestamp, Sequence: price.Sequence, ID: id}, price.Price}, p.sizes)
		cache.Put(key, after)
		changed[key] = after
		for index, size := range p.sizes {
			// RowID checked the position; ids of one record are consecutive.
			rows.Add(id+int64(index), price.Symbol, size, after.average(index, p.sizes), after.newest(), price.Source)
		}
	}
	if err := tx.Insert(ctx, rows); err != nil {
		return err
	}
	return save(ctx, tx, g, changed)
}

// load brings the windows of a batch into memory.
func (p *projection) load(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation,
	cache *pipeline.Cache[string, window], in []pipeline.Record) error {
	var missing []string
	for i := range in {
		key := in[i].Event.Payload.Key()
		if _, ok := cache.Get(key); !ok {
			cache.Put(key, window{})
			missing = append(missing, key)
		}
	}
	rows, err := store.SelectIn[struct {
		Key     string `db:"quote_key"`
		Entries string `db:"entries"`
	}](ctx, tx, `SELECT quote_key, entries FROM `+g.Table(windows)+` WHERE quote_key IN (?)`, missing)
	if err != nil {
		return fmt.Errorf("loading the windows: %w", err)
	}
	for _, row := range rows {
		w, err := decodeWindow(row.Entries, p.sizes)
		if err != nil {
			return err
		}
		cache.Put(row.Key, w)
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
