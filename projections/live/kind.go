package live

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/candles"
	"github.com/pricemill/pricemill/projections/latestprices"
	"github.com/pricemill/pricemill/projections/movingaverages"
	"github.com/pricemill/pricemill/projections/processedprices"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/names"
)

// Kind is a kind of event: prices, or what a read model says of a symbol.
type Kind struct {
	// Name is that of its events.
	Name string
	// Text is what was asked for, in one form: average:20.
	Text string
	// from are the projections that it may be read from, the first of them if that has it.
	from []string
	// bucket sorts prices by what they change; nil where each changes the one value.
	bucket func(schema.Time) int64
	// read reads the value of a bucket, and says from which projection;
	// projections.ErrNotFound where there is none.
	read func(ctx context.Context, q store.Querier, provider schema.Provider, symbol schema.Symbol, bucket int64) (value any, from string, err error)
}

// isPrice reports whether its events come from the log itself.
func (k Kind) isPrice() bool { return k.Name == PriceEvent }

// Kinds are the kinds of events that there are.
type Kinds struct {
	// Window is that of average where a client names none, in prices; MaxWindow is the
	// longest.
	Window, MaxWindow int
	// Indicators are those of this process, by name.
	Indicators map[string]projections.Indicator
}

// otherNames are the events of indicators that are called otherwise than the indicator.
var otherNames = map[string]string{candles.Name: CandleEvent}

// Names are the kinds, by name.
func (k Kinds) Names() []string {
	all := []string{PriceEvent, AverageEvent}
	for _, name := range slices.Sorted(maps.Keys(k.Indicators)) {
		if event, other := otherNames[name]; other {
			name = event
		}
		all = append(all, name)
	}
	return all
}

// Parse reads a kind as a client names it: price, average or average:20, and the name of
// an indicator, with the values of its parameters in their order: candle:5m, ema:26. Its
// error wraps ErrKind.
func (k Kinds) Parse(text string) (Kind, error) {
	parts := strings.Split(text, ":")
	name, values := parts[0], parts[1:]
	switch name {
	case PriceEvent:
		if len(values) > 0 {
			return Kind{}, fmt.Errorf("%w: price has no parameters", ErrKind)
		}
		return Kind{Name: PriceEvent, Text: PriceEvent, from: []string{latestprices.Name},
			read: func(ctx context.Context, q store.Querier, provider schema.Provider, symbol schema.Symbol, _ int64) (any, string, error) {
				price, err := latestprices.At(ctx, q, provider, symbol)
				return price, latestprices.Name, err
			}}, nil
	case AverageEvent:
		return k.average(values)
	}
	for indicator, event := range otherNames {
		if name == event {
			name = indicator
		}
	}
	indicator, known := k.Indicators[name]
	if !known {
		return Kind{}, fmt.Errorf("%w: %s", ErrKind, names.Hint(name, k.Names()))
	}
	return indicated(name, indicator, values)
}

func (k Kinds) average(values []string) (Kind, error) {
	window := k.Window
	if len(values) > 0 {
		n, err := strconv.Atoi(values[0])
		if err != nil || len(values) > 1 || n < 1 || n > k.MaxWindow {
			return Kind{}, fmt.Errorf("%w: average:N wants a window of 1 to %d prices", ErrKind, k.MaxWindow)
		}
		window = n
	}
	return Kind{Name: AverageEvent, Text: written(AverageEvent, values, strconv.Itoa(window)), from: []string{movingaverages.Name, processedprices.Name},
		read: func(ctx context.Context, q store.Querier, provider schema.Provider, symbol schema.Symbol, _ int64) (any, string, error) {
			return movingaverages.At(ctx, q, provider, symbol, window)
		}}, nil
}

// written is a kind in the form in which snapshots name it: without the values that a
// client did not give.
func written(name string, given []string, values ...string) string {
	if len(given) == 0 {
		return name
	}
	return strings.Join(append([]string{name}, values...), ":")
}

// indicated is the kind of an indicator.
func indicated(name string, indicator projections.Indicator, given []string) (Kind, error) {
	doc := indicator.Indicator()
	if len(given) > len(doc.Parameters) {
		return Kind{}, fmt.Errorf("%w: %s has %d parameters", ErrKind, name, len(doc.Parameters))
	}
	parameters := map[string]string{}
	var values []string
	for i, p := range doc.Parameters {
		value := p.Default
		if i < len(given) {
			value = given[i]
		}
		if err := p.Check(value); err != nil {
			return Kind{}, fmt.Errorf("%w: parameter %s of %s: %w", ErrKind, p.Name, name, err)
		}
		parameters[p.Name] = value
		values = append(values, value)
	}
	event := name
	if other, named := otherNames[name]; named {
		event = other
	}
	kind := Kind{Name: event, Text: written(event, given, values...), from: []string{name}}
	if name == candles.Name {
		interval := parameters["interval"]
		kind.bucket = func(t schema.Time) int64 { return candles.BeginOf(t, interval).Unix() }
	}
	kind.read = func(ctx context.Context, q store.Querier, provider schema.Provider, symbol schema.Symbol, bucket int64) (any, string, error) {
		query := projections.IndicatorQuery{Provider: provider, Symbol: symbol, Parameters: parameters, Behind: projections.Newest, Limit: 1}
		if bucket != newest {
			query.From = schema.NewTime(time.Unix(bucket, 0))
			query.Behind = projections.Until(query.From)
		}
		points, err := indicator.Points(ctx, q, query)
		if err != nil {
			return nil, name, err
		}
		if len(points) == 0 {
			return nil, name, fmt.Errorf("%s of %s: %w", name, schema.MarketKey(provider, symbol), projections.ErrNotFound)
		}
		return Point{Provider: provider, Symbol: symbol, Doc: doc, Parameters: parameters, Point: points[0]}, name, nil
	}
	return kind, nil
}

// newest is the bucket of a value that is the only one, and of the last candle.
const newest = int64(-1 << 63)

// bucketOf is what a price of an event time changes.
func (k Kind) bucketOf(t schema.Time) int64 {
	if k.bucket == nil {
		return newest
	}
	return k.bucket(t)
}

// value reads a value, nil where there is none, and says from which projection.
func (k Kind) value(ctx context.Context, q store.Querier, m *market, bucket int64) (value any, from string, err error) {
	value, from, err = k.read(ctx, q, m.provider, m.symbol, bucket)
	if errors.Is(err, projections.ErrNotFound) {
		return nil, k.from[0], nil
	}
	return value, from, err
}
