package projections

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Indicator is a projection that clients ask by GET /api/v1/indicators/{indicator}.
// What it gives is a list of points of one symbol at one provider, newest first.
type Indicator interface {
	pipeline.Projection
	// Indicator describes the query. It is the same in every call.
	Indicator() IndicatorDoc
	// Points answers it from the generation that serves, whose tables have their
	// plain names. It returns at most q.Limit points, in the order of Place, the last
	// first, and none where there are none.
	Points(ctx context.Context, db store.Querier, q IndicatorQuery) ([]Point, error)
}

// IndicatorDoc describes a query, for OpenAPI and for the route that checks it.
type IndicatorDoc struct {
	// Doc says in a sentence or two what the indicator is.
	Doc string
	// Parameters are those that it has besides symbol, provider, from, to, limit
	// and cursor.
	Parameters []Parameter
	// Columns are the values of a point.
	Columns []Column
}

// Parameter is one that a request may give. Its value is one of Choices, or where
// there are none a whole number within Low and High.
type Parameter struct {
	Name string // lower case, as in a URL
	Doc  string
	// Default is the value where a request gives none.
	Default string
	Choices []string
	Low     int64
	High    int64
	// Convention says that the parameter decides how points are computed, not which
	// series is asked for: a point does not repeat its value.
	Convention bool
}

// Repeated are the parameters whose values each point repeats.
func (d IndicatorDoc) Repeated() []Parameter {
	return slices.DeleteFunc(slices.Clone(d.Parameters), func(p Parameter) bool { return p.Convention })
}

// ColumnType is what a value is.
type ColumnType string

// The types of values, each with the Go type of a Point's value.
const (
	DecimalColumn ColumnType = "decimal" // schema.Decimal
	IntColumn     ColumnType = "int"     // int64
	TimeColumn    ColumnType = "time"    // schema.Time
	TextColumn    ColumnType = "text"    // string
)

// Column is one value of a point, and its column in the table.
type Column struct {
	Name string // lower case
	Doc  string
	Type ColumnType
	// Nullable says that a point may be without; its value then is nil.
	Nullable bool
}

// IndicatorQuery is what a request asks for.
type IndicatorQuery struct {
	Provider schema.Provider
	Symbol   schema.Symbol
	// Parameters has a valid value for each Parameter.
	Parameters map[string]string
	// Behind leaves the points that are listed after this place.
	Behind Place
	// From is the oldest event time that is wanted. The zero value is no bound.
	From schema.Time
	// Limit is how many at the most.
	Limit int
	// AsOf is the row id of the last record that counts; 0 counts all. It is for
	// AsOfIndicator, and Points never sees it.
	AsOf int64
}

// Point is the value of an indicator at an event time.
type Point struct {
	Place
	// Values are one for each Column.
	Values []any
}

// reserved are the names that each query and each point has anyway.
var reserved = []string{"id", "symbol", "provider", "timestamp", "from", "to", "limit", "cursor"}

var columnName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,30}$`)

// Validate reports all faults of a description at once.
func (d IndicatorDoc) Validate() error {
	var errs []error
	if d.Doc == "" {
		errs = append(errs, errors.New("an indicator without a Doc"))
	}
	if len(d.Columns) == 0 {
		errs = append(errs, errors.New("an indicator without columns"))
	}
	seen := slices.Clone(reserved)
	name := func(what, name, doc string) {
		if !columnName.MatchString(name) || slices.Contains(seen, name) {
			errs = append(errs, fmt.Errorf("%s %q: a name is of lower case letters, digits and underscores, and none is given twice or is one of %q", what, name, reserved))
		}
		if doc == "" {
			errs = append(errs, fmt.Errorf("%s %q has no Doc", what, name))
		}
		seen = append(seen, name)
	}
	for _, p := range d.Parameters {
		name("parameter", p.Name, p.Doc)
		if err := p.Check(p.Default); err != nil {
			errs = append(errs, fmt.Errorf("parameter %q: the default: %w", p.Name, err))
		}
	}
	for _, c := range d.Columns {
		name("column", c.Name, c.Doc)
		if _, known := columnTypes[c.Type]; !known {
			errs = append(errs, fmt.Errorf("column %q: there is no type %q", c.Name, c.Type))
		}
	}
	return errors.Join(errs...)
}

// Check reports a value that the parameter cannot have.
func (p Parameter) Check(value string) error {
	if len(p.Choices) > 0 {
		if !slices.Contains(p.Choices, value) {
			return fmt.Errorf("%q is none of %q", value, p.Choices)
		}
		return nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < p.Low || n > p.High {
		return fmt.Errorf("%q is not a whole number within %d and %d", value, p.Low, p.High)
	}
	return nil
}

// columnTypes are pointers, so that a column may be NULL.
var columnTypes = map[ColumnType]reflect.Type{
	DecimalColumn: reflect.TypeFor[*schema.Decimal](), IntColumn: reflect.TypeFor[*int64](),
	TimeColumn: reflect.TypeFor[*schema.Time](), TextColumn: reflect.TypeFor[*string](),
}

// ReadPoints reads the points of a table with the columns id, symbol, provider,
// timestamp, those of d, and one as text for each of its parameters. It needs an
// index on symbol, provider, the parameters, timestamp and id.
func ReadPoints(ctx context.Context, db store.Querier, table string, d IndicatorDoc, q IndicatorQuery) ([]Point, error) {
	fields := []reflect.StructField{
		{Name: "Timestamp", Type: reflect.TypeFor[schema.Time](), Tag: `db:"timestamp"`},
		{Name: "ID", Type: reflect.TypeFor[int64](), Tag: `db:"id"`},
	}
	names := []string{"timestamp", "id"}
	for i, c := range d.Columns {
		fields = append(fields, reflect.StructField{Name: "Value" + strconv.Itoa(i), Type: columnTypes[c.Type],
			Tag: reflect.StructTag(`db:"` + c.Name + `"`)})
		names = append(names, c.Name)
	}
	args := []any{q.Symbol, q.Provider}
	where := "symbol = $1 AND provider = $2"
	for _, p := range d.Parameters {
		args = append(args, q.Parameters[p.Name])
		where += " AND " + p.Name + " = $" + strconv.Itoa(len(args))
	}
	n := len(args)
	args = append(args, q.From, q.Behind.Timestamp, q.Behind.ID, q.Limit)
	rows := reflect.New(reflect.SliceOf(reflect.StructOf(fields)))
	err := db.Select(ctx, rows.Interface(), fmt.Sprintf(`SELECT %s FROM %s WHERE %s AND timestamp >= $%d AND (timestamp, id) < ($%d, $%d)
		ORDER BY timestamp DESC, id DESC LIMIT $%d`, strings.Join(names, ", "), table, where, n+1, n+2, n+3, n+4), args...)
	if err != nil {
		return nil, QueryError(table+" of "+schema.MarketKey(q.Provider, q.Symbol), err)
	}
	points := make([]Point, rows.Elem().Len())
	for i := range points {
		row := rows.Elem().Index(i)
		points[i].Timestamp, points[i].ID = row.Field(0).Interface().(schema.Time), row.Field(1).Int()
		for c := range d.Columns {
			var value any
			if field := row.Field(2 + c); !field.IsNil() {
				value = field.Elem().Interface()
			}
			points[i].Values = append(points[i].Values, value)
		}
	}
	return points, nil
}
