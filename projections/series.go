package projections

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Series describes an indicator that steps from price to price: a state for each
// key, and points that each price adds. NewSeries makes the projection of it,
// with tables, generations and the query.
type Series[S any] struct {
	// Name is the projection's, in kebab case. The tables are named after it.
	Name string
	// Version rises whenever Step would give other points.
	Version int
	// Configuration is as Configured's: it differs where settings lead to other
	// points.
	Configuration string
	// Doc and Columns are as in IndicatorDoc.
	Doc     string
	Columns []Column
	// Parameter tells apart the series that one price adds to, such as averages
	// of several periods; nil where there is one.
	Parameter *Parameter
	// Key names the state that a price belongs to. Whatever the key, its prices
	// must be of one symbol at one provider, whose prices come in log order; those
	// of two symbols may be on two partitions, without any order. Default: the
	// symbol at the provider.
	Key func(schema.PriceObserved) string
	// Step adds a price to a state, of which the zero value is the first. It is
	// pure: no clock, no randomness, no I/O. before is shared and must not be
	// changed. The state is kept as JSON, so what matters must be exported and
	// exact. An error makes the price a dead letter.
	Step func(before S, p SeriesPrice) (after S, points []SeriesPoint, err error)
}

// SeriesPrice is a price and its place in the log.
type SeriesPrice struct {
	schema.PriceObserved
	// ID rises from price to price of a symbol, in the order of the log.
	ID int64
}

// SeriesPoint is a point that a price adds.
type SeriesPoint struct {
	// Parameter is the value of Series.Parameter; "" where there is none.
	Parameter string
	Timestamp schema.Time
	// Values are one for each Column.
	Values []any
}

var seriesName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

// NewSeries checks a description and makes the projection.
func NewSeries[S any](s Series[S]) (Indicator, error) {
	p := &series[S]{Series: s, table: strings.ReplaceAll(s.Name, "-", "_")}
	var errs []error
	if !seriesName.MatchString(s.Name) {
		errs = append(errs, fmt.Errorf("%q is not a name in kebab case", s.Name))
	}
	if s.Step == nil {
		errs = append(errs, errors.New("a series without a Step"))
	}
	errs = append(errs, p.Indicator().Validate())
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("describing the series %s: %w", s.Name, err)
	}
	if s.Key == nil {
		p.Key = schema.PriceObserved.Key
	}
	return p, nil
}

type series[S any] struct {
	Series[S]
	table string
}

var (
	_ Indicator  = (*series[int])(nil)
	_ Configured = (*series[int])(nil)
)

func (p *series[S]) Name() string          { return p.Series.Name }
func (p *series[S]) Version() int          { return p.Series.Version }
func (p *series[S]) Configuration() string { return p.Series.Configuration }
func (p *series[S]) TableNames() []string  { return []string{p.table, p.table + "_state"} }

func (p *series[S]) Consumes() []schema.EventType {
	return []schema.EventType{schema.PriceObserved{}.EventType()}
}

// Indicator implements Indicator.
func (p *series[S]) Indicator() IndicatorDoc {
	d := IndicatorDoc{Doc: p.Doc, Columns: p.Columns}
	if p.Parameter != nil {
		d.Parameters = []Parameter{*p.Parameter}
	}
	return d
}

// Points implements Indicator.
func (p *series[S]) Points(ctx context.Context, db store.Querier, q IndicatorQuery) ([]Point, error) {
	return ReadPoints(ctx, db, p.table, p.Indicator(), q)
}

// columns are those of a point's row.
func (p *series[S]) columns() []string {
	names := []string{"id", "symbol", "provider", "timestamp"}
	if p.Parameter != nil {
		names = append(names, p.Parameter.Name)
	}
	for _, c := range p.Columns {
		names = append(names, c.Name)
	}
	return names
}

func (p *series[S]) Tables(g pipeline.Generation) []string {
	name := g.Table(p.table)
	columns := []string{"id {int} PRIMARY KEY", "symbol {text} NOT NULL", "provider {text} NOT NULL", "timestamp {time} NOT NULL"}
	index := "symbol, provider"
	if p.Parameter != nil {
		columns = append(columns, p.Parameter.Name+" {text} NOT NULL")
		index += ", " + p.Parameter.Name
	}
	for _, c := range p.Columns {
		columns = append(columns, c.DDL())
	}
	return []string{
		"CREATE TABLE " + name + " (" + strings.Join(columns, ", ") + ")",
		"CREATE INDEX " + name + "_by_time ON " + name + " (" + index + ", timestamp, id)",
		"CREATE TABLE " + g.Table(p.table+"_state") + " (state_key {text} PRIMARY KEY, state {text} NOT NULL) {keyed}",
	}
}

// DDL is the definition of the column.
func (c Column) DDL() string {
	definition := c.Name + " {" + string(c.Type) + "}"
	if !c.Nullable {
		definition += " NOT NULL"
	}
	return definition
}

// Apply takes a step for each price.
func (p *series[S]) Apply(ctx context.Context, tx *pipeline.Tx, g pipeline.Generation, in []pipeline.Record) error {
	states := NewStates[S](tx, p, g.Table(p.table+"_state"))
	keys := make([]string, len(in))
	for i := range in {
		keys[i] = p.Key(in[i].Event.Payload.(schema.PriceObserved))
	}
	if err := states.Load(ctx, keys); err != nil {
		return err
	}
	columns := p.columns()
	rows := store.Rows{Table: g.Table(p.table), Columns: columns, Values: make([]any, 0, len(in)*len(columns))}
	for i := range in {
		price := in[i].Event.Payload.(schema.PriceObserved)
		id, err := in[i].RowID(0)
		if err != nil {
			return pipeline.Permanent(err)
		}
		after, points, err := p.Step(states.Get(keys[i]), SeriesPrice{price, id})
		if err == nil && len(points) > pipeline.MaxRowIndex+1 {
			err = fmt.Errorf("a price added %d points, and the most is %d", len(points), pipeline.MaxRowIndex+1)
		}
		if err != nil {
			return pipeline.Permanent(fmt.Errorf("stepping %s of %s: %w", p.Series.Name, keys[i], err))
		}
		states.Put(keys[i], after)
		for index, point := range points {
			// RowID checked the position; ids of one record are consecutive.
			rows.Add(id+int64(index), price.Symbol, price.Source, point.Timestamp)
			if p.Parameter != nil {
				rows.Add(point.Parameter)
			}
			rows.Add(point.Values...)
		}
	}
	if err := tx.Insert(ctx, rows); err != nil {
		return err
	}
	return states.Save(ctx)
}

// States are the states of a fold by key: in memory while the partitions stay,
// and as JSON in a table with the columns state_key and state. They are good for
// one transaction.
type States[S any] struct {
	tx      *pipeline.Tx
	table   string
	cache   *pipeline.Cache[string, S]
	changed map[string]S
}

// NewStates returns the states of a transaction. owner is the projection.
func NewStates[S any](tx *pipeline.Tx, owner any, table string) *States[S] {
	return &States[S]{tx, table, pipeline.CacheFor[string, S](tx, owner), map[string]S{}}
}

// Load brings the states of keys into memory; that of a new key is the zero
// value.
func (s *States[S]) Load(ctx context.Context, keys []string) error {
	var missing []string
	for _, key := range keys {
		if _, ok := s.cache.Get(key); !ok {
			var zero S
			s.cache.Put(key, zero)
			missing = append(missing, key)
		}
	}
	rows, err := store.SelectIn[struct {
		Key   string `db:"state_key"`
		State string `db:"state"`
	}](ctx, s.tx, `SELECT state_key, state FROM `+s.table+` WHERE state_key IN (?)`, missing)
	if err != nil {
		return fmt.Errorf("loading the states of %s: %w", s.table, err)
	}
	for _, row := range rows {
		var state S
		if err := json.Unmarshal([]byte(row.State), &state); err != nil {
			return fmt.Errorf("reading the state of %s in %s: %w", row.Key, s.table, err)
		}
		s.cache.Put(row.Key, state)
	}
	return nil
}

// Get returns the state of a key that was loaded.
func (s *States[S]) Get(key string) S {
	state, _ := s.cache.Get(key)
	return state
}

// Put changes the state of a key.
func (s *States[S]) Put(key string, state S) {
	s.cache.Put(key, state)
	s.changed[key] = state
}

// Save writes what was changed.
func (s *States[S]) Save(ctx context.Context) error {
	rows := store.Rows{Table: s.table, Columns: []string{"state_key", "state"},
		Clause: "ON CONFLICT (state_key) DO UPDATE SET state = excluded.state"}
	// In one order everywhere: two transactions never wait in a circle.
	for _, key := range slices.Sorted(maps.Keys(s.changed)) {
		text, err := json.Marshal(s.changed[key])
		if err != nil {
			return pipeline.Permanent(fmt.Errorf("writing the state of %s: %w", key, err))
		}
		rows.Add(key, string(text))
	}
	return s.tx.Insert(ctx, rows)
}
