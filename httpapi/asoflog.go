package httpapi

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// Places finds places in the log of prices that a read is as of.
type Places interface {
	// PartitionOf is the partition of the prices of a symbol.
	PartitionOf(provider schema.Provider, symbol schema.Symbol) (int32, error)
	// RowID is the row id of the last row of a record, by its number in the chain of a
	// partition, that all of some projections have applied. Its errors are a
	// *projections.PlaceError, or wrap projections.ErrNotApplied.
	RowID(ctx context.Context, names []string, partition int32, number int64) (int64, error)
	// Applied is the number of the last record that all of some projections have applied; 0
	// for none.
	Applied(ctx context.Context, names []string, partition int32) (int64, error)
}

// asOfNow stands for what the read models have applied.
const asOfNow = "now"

// asOfPattern is what as_of_log may be.
const asOfPattern = `^(now|price-events:(0|[1-9][0-9]{0,8}):(0|[1-9][0-9]{0,17})(,price-events:(0|[1-9][0-9]{0,8}):(0|[1-9][0-9]{0,17}))*)$`

// maxAsOfLog is the longest as_of_log, in bytes.
const maxAsOfLog = 4000

var isAsOf = regexp.MustCompile(asOfPattern)

// asOfLog is what as_of_log asks for.
type asOfLog struct {
	text string // empty for none
	// numbers are those of the last records, by partition; nil for now.
	numbers map[int32]int64
}

func (q *query) asOfLog() (p asOfLog) {
	text, given := q.get("as_of_log")
	if !given {
		return asOfLog{}
	}
	if len(text) > maxAsOfLog {
		q.faults = append(q.faults, inQuery("as_of_log", abbreviate(text)).longString(maxAsOfLog))
		return asOfLog{}
	}
	if !isAsOf.MatchString(text) {
		q.faults = append(q.faults, inQuery("as_of_log", abbreviate(text)).mismatch(asOfPattern))
		return asOfLog{}
	}
	if p.text = text; text == asOfNow {
		return p
	}
	p.numbers = map[int32]int64{}
	for one := range strings.SplitSeq(text, ",") {
		parts := strings.Split(one, ":")
		partition, _ := strconv.ParseInt(parts[1], 10, 32) // so many digits it has
		number, _ := strconv.ParseInt(parts[2], 10, 64)
		if _, again := p.numbers[int32(partition)]; again {
			q.faults = append(q.faults, inQuery("as_of_log", abbreviate(text)).wrong(fmt.Sprintf("partition %d is named twice", partition)))
		}
		p.numbers[int32(partition)] = number
	}
	return p
}

// asOf is the place in the log that an answer is as of.
type asOf struct {
	// text names it; empty where the answer is of all that is known.
	text string
	// last is the row id of the last row that counts, by the partition of a symbol.
	last  map[int32]int64
	parts map[schema.Symbol]int32
}

// of is the row id of the last row that counts of a symbol; 0 where all do.
func (p asOf) of(symbol schema.Symbol) int64 {
	if p.text == "" {
		return 0
	}
	return p.last[p.parts[symbol]]
}

// locate finds the place that a request asks for, for symbols of a provider, once all of some
// projections have applied it. What follows is answered with it.
func (a *API) locate(ctx context.Context, w http.ResponseWriter, asked asOfLog, names []string, provider schema.Provider, symbols ...schema.Symbol) (asOf, error) {
	if asked.text == "" {
		return asOf{}, nil
	}
	wrong := func(reason string) error { return faults{inQuery("as_of_log", abbreviate(asked.text)).wrong(reason)} }
	found := asOf{last: map[int32]int64{}, parts: map[schema.Symbol]int32{}}
	numbers := map[int32]int64{}
	for _, symbol := range symbols {
		part, err := a.ports.Places.PartitionOf(provider, symbol)
		if err != nil {
			return asOf{}, fmt.Errorf("finding the partition of %s: %w", symbol, err)
		}
		number, named := asked.numbers[part]
		if asked.numbers == nil {
			if number, err = a.ports.Places.Applied(ctx, names, part); err != nil {
				return asOf{}, fmt.Errorf("reading what is applied: %w", err)
			}
		} else if !named {
			return asOf{}, wrong(fmt.Sprintf("the prices of %s at %s are on partition %d", symbol, provider, part))
		}
		found.parts[symbol], numbers[part] = part, number
	}
	var texts []string
	for _, part := range slices.Sorted(maps.Keys(numbers)) {
		number := numbers[part]
		texts = append(texts, fmt.Sprintf("%s:%d:%d", schema.PriceEvents, part, number))
		if number == 0 { // before the first record
			found.last[part] = -1
			continue
		}
		id, err := a.rowID(ctx, names, part, number)
		var refused *projections.PlaceError
		switch {
		case errors.As(err, &refused):
			return asOf{}, wrong(refused.Reason)
		case err != nil:
			return asOf{}, err
		}
		found.last[part] = id
	}
	found.text = strings.Join(texts, ",")
	w.Header().Set("X-Log-Position", found.text)
	return found, nil
}

// rowID is that of Places. Where the read models are not there yet, it waits for them.
func (a *API) rowID(ctx context.Context, names []string, part int32, number int64) (int64, error) {
	id, err := a.ports.Places.RowID(ctx, names, part, number)
	if !errors.Is(err, projections.ErrNotApplied) {
		return id, err
	}
	waiting, cancel := context.WithTimeout(ctx, defaultWait)
	defer cancel()
	for _, name := range names {
		if err := a.ports.CaughtUp(waiting, name, schema.PriceEvents); err != nil {
			if ctx.Err() == nil && errors.Is(waiting.Err(), context.DeadlineExceeded) {
				return 0, &apiError{codeNotReached, fmt.Sprintf("%s has not applied %s:%d:%d within %v", name, schema.PriceEvents, part, number, defaultWait), err}
			}
			return 0, err
		}
	}
	return a.ports.Places.RowID(ctx, names, part, number)
}

// cannotReadAsOf turns the errors of a read as of a place into what a client can change.
func cannotReadAsOf(err error) error {
	if errors.Is(err, projections.ErrNoAsOf) || errors.Is(err, projections.ErrAsOfTooLong) {
		return faults{place{[]any{"query", "as_of_log"}, nil}.wrong(err.Error())}
	}
	return err
}
