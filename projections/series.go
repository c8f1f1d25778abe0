package projections

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Series describes an indicator that steps from price to price of a symbol at one
// provider, in the order of Place, whatever the order in which the prices came. A state
// is what the prices up to one come to, and a point is what clients see of it.
// NewSeries makes the projection, with tables, generations and the query.
//
// The table holds the prices and, at about one in 32 of them, the state. A price that is
// the newest costs one step. A late one changes the states after it: they are computed
// again from the price before it up to the first stored state that comes out as it
// was, which for a state of the last n prices is n prices later, and for a sum over a
// day is the end of the day unless there is a Join. So are those after a price that was
// corrected or retracted; a Join does not help there. Points are computed when asked
// for, from the nearest stored state.
type Series[S any] struct {
	// Name is the projection's, in kebab case. The table is named after it.
	Name string
	// Version rises whenever Step or Session would give other states.
	Version int
	// Configuration is as Configured's: it differs where settings lead to other
	// states.
	Configuration string
	// Doc, Parameters and Columns are as in IndicatorDoc.
	Doc        string
	Parameters []Parameter
	Columns    []Column
	// Wants reports whether a price belongs to the series, by its symbol, source, time,
	// sequence, price and size. One that was corrected has to belong to it as it came
	// and as it is. Default: each does.
	Wants func(schema.PriceObserved) bool
	// Session names what a price belongs to, such as its day. Where it is not that of
	// the price before, the state begins again with the zero value. Default: it never
	// does.
	Session func(SeriesPrice) string
	// Step adds a price to a state, of which the zero value is the first. It is pure: no
	// clock, no randomness, no I/O. before is shared and must not be changed. The
	// state is kept as JSON, so what matters must be exported and exact, and equal
	// states must have equal JSON. An error makes the price a dead letter, or the late
	// one that led to it.
	Step func(before S, p SeriesPrice) (after S, err error)
	// Join is the state of two sets of prices of a session, of the states of each, for a
	// state that does not depend on their order, such as sums. It saves reading all prices
	// after a late one. Default: there is none.
	Join func(a, b S) S
	// Point is the values of the point at a price, one for each Column, or nil where it
	// has none. at is the state after the price, and parameters has a valid value for
	// each Parameter. It is pure as well.
	Point func(at S, p SeriesPrice, parameters map[string]string) []any
}

// SeriesPrice is a price of a series.
type SeriesPrice struct {
	Place
	Price schema.Decimal
	// Size is zero where the provider does not say.
	Size schema.Decimal
	// fact is the Key of the fact.
	fact int64
}

var seriesName = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)

// NewSeries checks a description and makes the projection.
func NewSeries[S any](s Series[S]) (Indicator, error) {
	p := &series[S]{Series: s, table: strings.ReplaceAll(s.Name, "-", "_")}
	p.corrections = &Corrections{Table: p.table, Keep: p.keep, Find: func(ctx context.Context, q store.Querier, g pipeline.Generation, names []FactName) ([]Fact, error) {
		return findFacts(ctx, q, g.Table(p.table), seriesColumns[:len(seriesColumns)-1], names)
	}}
	var errs []error
	if !seriesName.MatchString(s.Name) {
		errs = append(errs, fmt.Errorf("%q is not a name in kebab case", s.Name))
	}
	if s.Step == nil || s.Point == nil {
		errs = append(errs, errors.New("a series without a Step or a Point"))
	}
	errs = append(errs, p.Indicator().Validate())
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("describing the series %s: %w", s.Name, err)
	}
	return p, nil
}

type series[S any] struct {
	Series[S]
	table       string
	corrections *Corrections
}

var (
	_ Indicator          = (*series[int])(nil)
	_ Configured         = (*series[int])(nil)
	_ pipeline.OrderFree = (*series[int])(nil)
)

func (p *series[S]) Name() string          { return p.Series.Name }
func (p *series[S]) Version() int          { return p.Series.Version }
func (p *series[S]) Configuration() string { return p.Series.Configuration }
func (p *series[S]) TableNames() []string {
	return append([]string{p.table}, p.corrections.TableNames()...)
}

// OrderFree implements pipeline.OrderFree.
func (p *series[S]) OrderFree() {}

func (p *series[S]) Consumes() []schema.EventType {
	return schema.FactTypes()
}

// Indicator implements Indicator.
func (p *series[S]) Indicator() IndicatorDoc {
	return IndicatorDoc{Doc: p.Doc, Parameters: p.Parameters, Columns: p.Columns}
}

// seriesPlace is the order of the prices in SQL.
const seriesPlace = "timestamp, sequence, id"

func (p *series[S]) Tables(g pipeline.Generation) []string {
	name := g.Table(p.table)
	tables := []string{`CREATE TABLE ` + name + ` (
		symbol    {text}    NOT NULL,
		provider  {text}    NOT NULL,
		timestamp {time}    NOT NULL,
		sequence  {int}     NOT NULL,
		id        {int}     NOT NULL,
		fact      {int}     NOT NULL,
		price     {decimal} NOT NULL,
		size      {decimal} NOT NULL,
		state     {text},
		PRIMARY KEY (symbol, provider, ` + seriesPlace + `)
	) {keyed}`}
	if p.Join != nil { // which looks for states alone
		tables = append(tables, `CREATE INDEX `+name+`_states ON `+name+` (symbol, provider, `+seriesPlace+`) WHERE state IS NOT NULL`)
	}
	return append(tables, p.corrections.Tables(g)...)
}

// keep is that of Corrections.
func (p *series[S]) keep(f *Fact) bool {
	f.Lean(true)
	f.Bar = nil
	return p.Wants == nil || p.Wants(schema.PriceObserved{Symbol: f.Symbol, Source: f.Provider, Price: f.Price, Size: f.Size, Timestamp: f.Timestamp, Sequence: f.Sequence})
}

// DDL is the definition of the column.
func (c Column) DDL() string {
	definition := c.Name + " {" + string(c.Type) + "}"
	if !c.Nullable {
		definition += " NOT NULL"
	}
	return definition
}

// keepsState reports whether the state after the price with this id is stored: after one
// in stateGap, by the id alone, so that the same log gives the same rows in whatever
// order its prices are applied.
func keepsState(id int64) bool {
	x := uint64(id) * 0x9e3779b97f4a7c15 // the finalizer of SplitMix64
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return (x^x>>31)%stateGap == 0
}

// stateGap is how many prices there are to a stored state.
const stateGap = 32

// standing is where a series stands after a price. The zero value is before the first.
type standing[S any] struct {
	place   Place
	session string
	state   S
	begun   bool
}

// step is the standing after one more price.
func (p *series[S]) step(before standing[S], price SeriesPrice) (standing[S], error) {
	after := standing[S]{place: price.Place, begun: true}
	if p.Session != nil {
		after.session = p.Session(price)
	}
	if before.begun && before.session == after.session {
		after.state = before.state
	}
	var err error
	if after.state, err = p.Step(after.state, price); err != nil {
		return after, pipeline.Permanent(fmt.Errorf("stepping %s to the price of %s: %w", p.Series.Name, price.Timestamp, err))
	}
	return after, nil
}

// seriesRow is a price in the table.
type seriesRow struct {
	FactRow
	State *string `db:"state"`
}

func (r seriesRow) price() SeriesPrice {
	return SeriesPrice{Place{r.Timestamp, r.Sequence, r.ID}, r.Price, r.Size, r.Key}
}

func (r seriesRow) market() market { return market{r.Symbol, r.Provider} }

var seriesColumns = []string{"symbol", "provider", "timestamp", "sequence", "id", "fact", "price", "size", "state"}

// market is a symbol at a provider.
type market struct {
	symbol   schema.Symbol
	provider schema.Provider
}

func (m market) String() string { return schema.MarketKey(m.provider, m.symbol) }

// rowsBefore reads prices before a place, newest first.
func (p *series[S]) rowsBefore(ctx context.Context, db store.Querier, table string, m market, before Place, limit int) ([]seriesRow, error) {
	var rows []seriesRow
	err := db.Select(ctx, &rows, `SELECT `+strings.Join(seriesColumns, ", ")+` FROM `+table+`
		WHERE symbol = $1 AND provider = $2 AND (`+seriesPlace+`) < ($3, $4, $5)
		ORDER BY timestamp DESC, sequence DESC, id DESC LIMIT $6`,
		m.symbol, m.provider, before.Timestamp, before.Sequence, before.ID, limit)
	return rows, err
}
