package projections

import (
	"context"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// PlaceError says why nothing can be read as of a place in the log.
type PlaceError struct{ Reason string }

// Error implements error.
func (e *PlaceError) Error() string { return e.Reason }

func noPlace(format string, args ...any) error { return &PlaceError{fmt.Sprintf(format, args...)} }

// ErrNotApplied says that a place is in the log, and that a read model is not there yet.
var ErrNotApplied = errors.New("the read model is not there yet")

// Places finds places in price-events that reads are as of.
type Places struct {
	DB store.Querier
	// Log is where the records are.
	Log PlaceLog
	// Partition is the partition of the prices of a symbol.
	Partition func(schema.Quote) (int32, error)
}

// PlaceLog is the part of a log that Places needs.
type PlaceLog interface {
	Offsets(ctx context.Context, topic schema.Topic) ([]log.OffsetRange, error)
	Read(ctx context.Context, tp pipeline.TopicPartition, from, to int64, f func([]pipeline.Record) error) error
}

// PartitionOf is the partition of the prices of a symbol.
func (p Places) PartitionOf(provider schema.Provider, symbol schema.Symbol) (int32, error) {
	return p.Partition(schema.Quote{Provider: provider, Symbol: symbol})
}

// RowID is the row id of the last row that a record may have, by its number in the chain of a
// partition, that all of some projections have applied. Its errors are a PlaceError, or wrap
// ErrNotApplied.
func (p Places) RowID(ctx context.Context, names []string, part int32, number int64) (int64, error) {
	offset := int64(-1)
	var epoch int64
	for _, name := range names {
		state, err := p.state(ctx, name, part)
		if err != nil {
			return 0, err
		}
		if err := check(state, part, number); err != nil {
			return 0, err
		}
		if state.Applied < number {
			return 0, fmt.Errorf("%s has applied %s:%d:%d: %w", name, schema.PriceEvents, part, state.Applied, ErrNotApplied)
		}
		if epoch = state.Epoch; state.Next == state.Applied { // no record came twice
			offset = number - 1
		}
	}
	offsets, err := p.Log.Offsets(ctx, schema.PriceEvents)
	if err != nil {
		return 0, QueryError("which records the log has", err)
	}
	if int(part) >= len(offsets) {
		return 0, noPlace("%s has no partition %d", schema.PriceEvents, part)
	}
	held := offsets[part]
	if offset < 0 {
		if offset, err = p.find(ctx, part, number, held); err != nil {
			return 0, err
		}
	}
	if offset < held.Oldest {
		return 0, noPlace("the log begins with offset %d of %s/%d: retention, or an operator, has deleted the record, and what was known then cannot be said",
			held.Oldest, schema.PriceEvents, part)
	}
	id, err := rowid.Of(epoch, part, offset, rowid.MaxIndex)
	if err != nil {
		return 0, fmt.Errorf("finding a place in the log: %w", err)
	}
	return id, nil
}

func check(state store.LogState, part int32, number int64) error {
	switch {
	case part >= state.Partitions:
		return noPlace("%s has %d partitions, from 0 on", schema.PriceEvents, state.Partitions)
	case number > state.Written:
		return noPlace("it is beyond the end of the log, which is %s:%d:%d", schema.PriceEvents, part, state.Written)
	case state.Incarnations > 1 || state.Timelines > 1:
		return noPlace("the numbers of %s/%d began again, since the topic was created again or the database was restored or failed over: "+
			"which record has the number cannot be said", schema.PriceEvents, part)
	}
	return nil
}

// Applied is the number of the last record that all of some projections have applied; 0 for none.
func (p Places) Applied(ctx context.Context, names []string, part int32) (int64, error) {
	least := int64(-1)
	for _, name := range names {
		state, err := p.state(ctx, name, part)
		if err != nil {
			return 0, err
		}
		if least < 0 || state.Applied < least {
			least = state.Applied
		}
	}
	return least, nil
}

func (p Places) state(ctx context.Context, name string, part int32) (store.LogState, error) {
	g := pipeline.Generation{Projection: name}
	err := p.DB.Get(ctx, &g.Number, `SELECT number FROM generations WHERE projection = $1 AND active = 1`, name)
	if err != nil {
		return store.LogState{}, QueryError("which generation of "+name+" serves", err)
	}
	state, err := store.LogStateOf(ctx, p.DB, schema.PriceEvents, part, stageName(g))
	if err != nil {
		return store.LogState{}, QueryError("how far "+name+" is", err)
	}
	return state, nil
}

var errFound = errors.New("found")

// find looks in the log for the first record with a number. Only Kafka's has others between,
// such as those that were sent twice: so it is at least the number's own offset.
func (p Places) find(ctx context.Context, part int32, number int64, held log.OffsetRange) (int64, error) {
	from, found := max(number-1, held.Oldest), int64(-1)
	err := p.Log.Read(ctx, pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: part}, from, held.End, func(in []pipeline.Record) error {
		for i := range in {
			if n := log.NumberOf(&in[i]); n >= number {
				if n == number {
					found = in[i].Offset
				}
				return errFound
			}
		}
		return nil
	})
	switch {
	case err != nil && !errors.Is(err, errFound):
		return 0, QueryError("which record has a number", err)
	case found < 0:
		return 0, noPlace("the log does not have the record any more: retention, or an operator, has deleted it, and what was known then cannot be said")
	}
	return found, nil
}
