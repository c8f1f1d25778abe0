package projections

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// readings are the ids of the renormalizations that a generation takes, in their order,
// with commas between. Its fold sees each price as the last of them reads it, in the place
// that the price has in the log.
type readings string

// with are the readings and one more.
func (r readings) with(id string) readings {
	if r == "" {
		return readings(id)
	}
	return r + "," + readings(id)
}

func (r readings) ids() []string {
	if r == "" {
		return nil
	}
	return strings.Split(string(r), ",")
}

// of are those of a projection: one that folds no prices takes none.
func (r readings) of(p pipeline.Projection) readings {
	if !foldsPrices(p) {
		return ""
	}
	return r
}

// foldsPrices reports whether a projection takes prices.
// A read model of requests does not: it says what was answered at the time.
func foldsPrices(p pipeline.Projection) bool {
	consumed := p.Consumes()
	return !slices.Contains(consumed, schema.FetchRequested{}.EventType()) &&
		slices.ContainsFunc(consumed, func(t schema.EventType) bool { return slices.Contains(schema.PriceTypes(), t) })
}

// consumes are the events of the stage of a projection. One that takes prices gets those
// that a renormalization adds, as prices.
func consumes(p pipeline.Projection) []schema.EventType {
	if !foldsPrices(p) {
		return p.Consumes()
	}
	return append(slices.Clone(p.Consumes()), schema.PriceAdded{}.EventType())
}

// promotedReadings are those that what serves takes.
func promotedReadings(ctx context.Context, q store.Querier) (readings, error) {
	var ids []string
	if err := q.Select(ctx, &ids, `SELECT id FROM renormalizations WHERE state = $1 ORDER BY seq`, RenormalizationPromoted); err != nil {
		return "", fmt.Errorf("reading which renormalizations serve: %w", err)
	}
	return readings(strings.Join(ids, ",")), nil
}

// revisedRow is what a renormalization reads in the place of a record.
type revisedRow struct {
	Renormalization string           `db:"renormalization"`
	RecordID        int64            `db:"record_id"`
	EventType       schema.EventType `db:"event_type"`
	Payload         string           `db:"payload"`
}

// read are the records as these readings have them: those whose prices are withdrawn, or
// were added by others, are left out. The slice is the given one where nothing changes.
func (r readings) read(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]pipeline.Record, error) {
	return r.readWith(ctx, tx, pipeline.CacheFor[lastKey, int64](tx, r), in)
}

// lastKey is a partition, as rowid.Partition has it.
type lastKey int64

// lasts are the last revised records of partitions.
type lasts interface {
	Get(lastKey) (int64, bool)
	Put(lastKey, int64)
}

func (r readings) readWith(ctx context.Context, q store.Querier, last lasts, in []pipeline.Record) ([]pipeline.Record, error) {
	payloads, err := r.payloads(ctx, q, last, in)
	if err != nil || payloads == nil {
		return in, err
	}
	out := make([]pipeline.Record, 0, len(in))
	for i := range in {
		if rec := in[i]; payloads[i] != nil {
			rec.Event.Payload = payloads[i]
			out = append(out, rec)
		}
	}
	return out, nil
}

// payloads are what each of the records says by these readings, nil for one that says nothing;
// none at all where each says what it says in the log.
func (r readings) payloads(ctx context.Context, q store.Querier, last lasts, in []pipeline.Record) ([]schema.Payload, error) {
	revised, err := r.revised(ctx, q, last, in)
	if err != nil {
		return nil, err
	}
	added := slices.ContainsFunc(in, func(rec pipeline.Record) bool { return isAdded(&rec) })
	if len(revised) == 0 && !added {
		return nil, nil
	}
	payloads := make([]schema.Payload, len(in))
	for i := range in {
		payloads[i] = in[i].Event.Payload
		if isRevised(in[i].Topic) {
			if payloads[i], err = payload(&in[i], revised); err != nil {
				return nil, err
			}
		}
	}
	return payloads, nil
}

// isRevised reports whether records of a topic say what was read from answers.
func isRevised(topic schema.Topic) bool {
	return topic == schema.PriceEvents || topic == schema.QuoteOutcomes
}

func isAdded(r *pipeline.Record) bool {
	_, is := r.Event.Payload.(schema.PriceAdded)
	return is
}

// payload is what a record says; nil for one that says nothing, as an added price does that
// is not among those that are taken: its renormalization is not, or it was sent twice.
func payload(r *pipeline.Record, revised map[int64]revisedRow) (schema.Payload, error) {
	id, err := r.RowID(0)
	if err != nil {
		return nil, pipeline.Permanent(err)
	}
	row, is := revised[id]
	_, isAdded := r.Event.Payload.(schema.PriceAdded)
	switch {
	case !is && isAdded:
		return nil, nil
	case !is:
		return r.Event.Payload, nil
	case row.Payload == "":
		return nil, nil
	}
	p, err := schema.DecodePayload(row.EventType, []byte(row.Payload))
	if err != nil {
		return nil, fmt.Errorf("reading a price of %s: %w", row.Renormalization, err)
	}
	if added, is := p.(schema.PriceAdded); is {
		return added.Fact(), nil
	}
	return p, nil
}

// span is the records of one partition in a batch.
type span struct{ first, last int64 }

// revised are the revised prices among records, each as the last of the readings has it.
func (r readings) revised(ctx context.Context, q store.Querier, last lasts, in []pipeline.Record) (map[int64]revisedRow, error) {
	ids := r.ids()
	if len(ids) == 0 {
		return nil, nil
	}
	spans := map[lastKey]span{}
	for i := range in {
		if !isRevised(in[i].Topic) {
			continue
		}
		id, err := in[i].RowID(0)
		if err != nil {
			return nil, pipeline.Permanent(err)
		}
		key := lastKey(rowid.Partition(id))
		s, known := spans[key]
		if !known {
			s = span{id, id}
		}
		spans[key] = span{min(s.first, id), max(s.last, id)}
	}
	revised := map[int64]revisedRow{}
	for key, s := range spans {
		end, known := last.Get(key)
		if !known {
			var err error
			if end, err = lastRevised(ctx, q, ids, int64(key)); err != nil {
				return nil, err
			}
			last.Put(key, end)
		}
		if s.first > end {
			continue
		}
		for _, id := range ids { // the last one counts
			var rows []revisedRow
			err := q.Select(ctx, &rows, `SELECT renormalization, record_id, event_type, payload FROM revised_prices
				WHERE renormalization = $1 AND record_id >= $2 AND record_id <= $3`, id, s.first, s.last)
			if err != nil {
				return nil, fmt.Errorf("reading the prices of %s: %w", id, err)
			}
			for _, row := range rows {
				revised[row.RecordID] = row
			}
		}
	}
	return revised, nil
}

// lastRevised is the last record of a partition that one of some renormalizations revises;
// below all ids where there is none.
func lastRevised(ctx context.Context, q store.Querier, ids []string, partition int64) (int64, error) {
	last := int64(-1)
	from, to := rowid.Bounds(partition)
	for _, id := range ids {
		var of int64
		err := q.Get(ctx, &of, `SELECT COALESCE(MAX(record_id), -1) FROM revised_prices
			WHERE renormalization = $1 AND record_id >= $2 AND record_id <= $3`, id, from, to)
		if err != nil {
			return 0, fmt.Errorf("looking for the prices of %s: %w", id, err)
		}
		last = max(last, of)
	}
	return last, nil
}
