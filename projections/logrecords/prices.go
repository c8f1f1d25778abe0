package logrecords

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/refill"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// refillEvents is the source of events of which nothing says where they came from.
const refillEvents = pipeline.SourcePrefix + "refill"

func factOf(text string) (projections.Fact, error) {
	var fact projections.Fact
	if err := json.Unmarshal([]byte(text), &fact); err != nil {
		return fact, fmt.Errorf("reading a price as it came: %w", err)
	}
	return fact, nil
}

// placeDerived puts an event where it was that normalize derived from a stored answer, whose row
// is of; n is its number among those of the answer.
func (l *Layout) placeDerived(e schema.Event, n int, quote schema.QuoteStored, of int64, outcomes map[string]outcome, reached map[pipeline.TopicPartition]int64) error {
	key := keyOf(e.ID)
	if known, there := l.prices[key]; there {
		delete(l.prices, key)
		if part, offset, ok := l.place(schema.PriceEvents, known.id); ok {
			p := l.at(schema.PriceEvents, part)
			p.Put(refill.Slot{Offset: offset, Source: ofPrice, Ref: of, N: uint16(n), Link: refill.LinkedDerived})
			reached[p.TopicPartition] = max(reached[p.TopicPartition], offset)
		}
		return nil
	}
	if l.letters[key] || l.waiting[key] {
		return nil
	}
	tp := pipeline.TopicPartition{Topic: e.Payload.Topic(), Partition: l.partitionOf(e.Payload)}
	at := quote.ReceivedAt
	_, isPrice := schema.PriceOf(e.Payload)
	if isPrice && l.unread[tp] == 0 && len(l.ahead[tp.Partition]) == 0 {
		// All prices that the stage gave are in the tables: the answer was read otherwise then.
		tp = pipeline.TopicPartition{Topic: schema.QuoteOutcomes, Partition: l.Partition([]byte(quote.Key()), l.Topics[schema.QuoteOutcomes].Partitions)}
		e.Payload = schema.LogGap{FilledAt: at}
		isPrice = false
	}
	found, there := outcomes[quote.RequestID]
	if there && found.is(e.Payload) {
		if outcome, settled, ok := found.event(); ok {
			e.Payload, at = outcome.Payload, settled // in the words of then
		}
	}
	slot, err := l.literal(e, at, refill.LinkedDerived)
	if err != nil {
		return err
	}
	if there && found.is(e.Payload) {
		if part, offset, ok := l.place(schema.QuoteOutcomes, found.OutcomeID); ok && part == tp.Partition {
			slot.Offset = offset
			if l.partitions[tp].Put(slot) {
				l.countFailure(e.Payload)
				reached[tp] = max(reached[tp], offset)
				return nil
			}
		}
	}
	l.countFailure(e.Payload)
	after, any := reached[tp]
	if !any {
		after = -1
	}
	for isPrice && len(l.ahead[tp.Partition]) > 0 {
		slot.Offset, l.ahead[tp.Partition] = l.ahead[tp.Partition][0], l.ahead[tp.Partition][1:]
		if l.partitions[tp].Put(slot) {
			return nil
		}
	}
	l.floats = append(l.floats, float{tp, after, slot, isPrice})
	return nil
}

// placeOtherPrices puts the prices of the tables that no stored answer gives where they were.
func (l *Layout) placeOtherPrices(ctx context.Context) error {
	var rows []int64
	for _, p := range l.prices {
		rows = append(rows, p.id)
	}
	slices.Sort(rows)
	facts, err := l.facts(ctx, rows)
	if err != nil {
		return err
	}
	for _, f := range facts {
		if f.Bar != nil {
			l.Unplaced++ // the table has no more than the close of a bar
			continue
		}
		if err := l.placeFact(f); err != nil {
			return err
		}
	}
	return nil
}

// facts are prices as the tables have them, by their rows; of a bar they have the close alone.
func (l *Layout) facts(ctx context.Context, ids []int64) (map[int64]projections.Fact, error) {
	type row struct {
		ID       int64           `db:"id"`
		EventID  string          `db:"event_id"`
		Symbol   schema.Symbol   `db:"symbol"`
		Provider schema.Provider `db:"provider"`
		Price    schema.Decimal  `db:"price"`
		Size     *schema.Decimal `db:"size"`
		Time     schema.Time     `db:"timestamp"`
		Sequence schema.Sequence `db:"sequence"`
		AnswerID string          `db:"raw_response_id"`
		Received schema.Time     `db:"received_at"`
		OpenTime *schema.Time    `db:"open_time"`
	}
	found, err := store.SelectIn[row](ctx, l.View, `SELECT id, event_id, symbol, provider, price, size, timestamp, sequence, raw_response_id, received_at, open_time
		FROM processed_prices WHERE id IN (?)`, ids)
	if err != nil {
		return nil, fmt.Errorf("reading prices: %w", err)
	}
	facts := make(map[int64]projections.Fact, len(found))
	for _, r := range found {
		f := projections.Fact{Symbol: r.Symbol, Provider: r.Provider, Place: projections.Place{Timestamp: r.Time, Sequence: r.Sequence, ID: r.ID}, Price: r.Price,
			EventID: r.EventID, RawResponseID: r.AnswerID, ReceivedAt: r.Received}
		if r.Size != nil {
			f.Size = *r.Size
		}
		if r.OpenTime != nil {
			f.Bar = &schema.Bar{OpenTime: *r.OpenTime}
		}
		facts[r.ID] = f
	}
	originals, err := store.SelectIn[string](ctx, l.View, `SELECT fact FROM processed_prices_corrected WHERE id IN (?)`, ids)
	if err != nil {
		return nil, fmt.Errorf("reading prices as they came: %w", err)
	}
	for _, text := range originals {
		f, err := factOf(text)
		if err != nil {
			return nil, err
		}
		facts[f.ID] = f
	}
	return facts, nil
}

// observed is a price as an event, as the tables have it.
func observed(f projections.Fact, requestID string) schema.PriceObserved {
	return schema.PriceObserved{Symbol: f.Symbol, Price: f.Price, Size: f.Size, Timestamp: f.Timestamp,
		Sequence: f.Sequence, Source: f.Provider, RawResponseID: f.RawResponseID, ReceivedAt: f.ReceivedAt, RequestID: requestID}
}

// placeFact puts a price where it was.
func (l *Layout) placeFact(f projections.Fact) error {
	part, offset, ok := l.place(schema.PriceEvents, f.ID)
	if !ok {
		return nil
	}
	slot, err := l.literal(schema.Event{ID: f.EventID, Source: refillEvents, Payload: observed(f, "")}, f.ReceivedAt, refill.Unlinked)
	slot.Offset = offset
	l.at(schema.PriceEvents, part).Put(slot)
	return err
}

// placeCorrections puts corrections and retractions where they were.
func (l *Layout) placeCorrections(ctx context.Context) error {
	for after := int64(-1); ; {
		var rows []projections.CorrectionRow
		err := l.View.Select(ctx, &rows, `SELECT id, correction_key, fact_id, symbol, provider, timestamp, correction_id, price, size, reason, corrected_at
			FROM processed_prices_corrections WHERE id > $1 ORDER BY id LIMIT $2`, after, answerPage)
		if err != nil {
			return fmt.Errorf("reading corrections: %w", err)
		}
		for _, row := range rows {
			after = row.ID
			part, offset, ok := l.place(schema.PriceEvents, row.ID)
			if !ok {
				continue
			}
			about := schema.Correction{FactID: row.FactID, Symbol: row.Symbol, Timestamp: row.Timestamp, Source: row.Provider, Reason: row.Reason}
			var payload schema.Payload = schema.PriceRetracted{Correction: about, RetractedAt: row.CorrectedAt}
			if row.Price != nil {
				corrected := schema.PriceCorrected{Correction: about, Price: *row.Price, CorrectedAt: row.CorrectedAt}
				if row.Size != nil {
					corrected.Size = *row.Size
				}
				payload = corrected
			}
			slot, err := l.literal(schema.Event{ID: row.CorrectionID, Source: l.Commands, Payload: payload}, row.CorrectedAt, refill.Linked)
			if err != nil {
				return err
			}
			slot.Offset = offset
			l.at(schema.PriceEvents, part).Put(slot)
		}
		if len(rows) < answerPage {
			return nil
		}
	}
}

var _ refill.Records = (*Layout)(nil)

// Make implements refill.Records.
func (l *Layout) Make(ctx context.Context, tp pipeline.TopicPartition, slots []refill.Slot) ([]log.OutgoingRecord, error) {
	if len(slots) == 0 {
		return nil, nil
	}
	ids := map[int64]bool{}
	var prices []int64
	for _, s := range slots {
		ids[s.Ref] = true
		if s.Source == ofPrice {
			id, err := rowid.Of(l.Topics[tp.Topic].Epoch, tp.Partition, s.Offset, 0)
			if err != nil {
				return nil, err
			}
			prices = append(prices, id)
		}
	}
	facts, err := l.facts(ctx, prices)
	if err != nil {
		return nil, err
	}
	byOffset := make(map[int64]projections.Fact, len(facts))
	for id, f := range facts {
		byOffset[rowid.Offset(id)] = f
	}
	rows, err := l.contents(ctx, slices.Collect(maps.Keys(ids)))
	if err != nil {
		return nil, err
	}
	records := make([]log.OutgoingRecord, len(slots))
	for i, s := range slots {
		row, there := rows[s.Ref]
		if !there {
			return nil, fmt.Errorf("row %d of raw_market_data is gone", s.Ref)
		}
		event, err := l.event(ctx, s, row, byOffset[s.Offset])
		if err != nil {
			return nil, err
		}
		if records[i], err = l.record(event, row.Timestamp); err != nil {
			return nil, err
		}
	}
	return records, nil
}

// event is that of a slot, which follows from an answer.
func (l *Layout) event(ctx context.Context, s refill.Slot, row content, f projections.Fact) (schema.Event, error) {
	switch s.Source {
	case ofAnswer:
		source := refillEvents
		if row.RequestID != "" {
			source = pipeline.SourcePrefix + fetch
		}
		return schema.Event{ID: row.EventID, Source: source, Payload: row.fetched()}, nil
	case ofStored:
		return schema.Event{ID: l.storedID(answer{id: row.ID}), Source: pipeline.SourcePrefix + rawStore, Payload: row.stored()}, nil
	}
	at, there := l.answerOf[keyOf(row.EventID)]
	if !there {
		return schema.Event{}, fmt.Errorf("row %d of raw_market_data is at no place of the log", row.ID)
	}
	topic := l.Topics[schema.StoredQuotes]
	r := pipeline.Record{TopicPartition: pipeline.TopicPartition{Topic: schema.StoredQuotes, Partition: at.part}, TopicID: topic.ID,
		Offset: l.answers[at.part][at.index].stored, Event: schema.Event{Payload: row.stored()}}
	r.Locate(topic)
	event := schema.Event{ID: f.EventID, Source: pipeline.SourcePrefix + normalize, Payload: observed(f, row.RequestID)}
	if f.Bar == nil {
		return event, nil
	}
	prices, err := l.normalizer.Prices(ctx, l.View, []pipeline.Record{r})
	if err != nil {
		return event, err
	}
	if int(s.N) >= len(prices[0]) {
		return event, fmt.Errorf("the answer in row %d of raw_market_data has no bar %d any more", row.ID, s.N)
	}
	event.Payload = prices[0][s.N]
	return event, nil
}
