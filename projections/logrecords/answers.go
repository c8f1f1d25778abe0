package logrecords

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/refill"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// The sources of slots whose records are made when they are written.
const (
	ofAnswer uint8 = iota // on raw-quotes
	ofStored              // on stored-quotes
	ofPrice               // on price-events
)

// placeLetters puts the dead letters where they were, byte for byte.
func (l *Layout) placeLetters(ctx context.Context) error {
	for name, topic := range l.Topics {
		var stages []string
		if err := l.View.Select(ctx, &stages, `SELECT DISTINCT stage FROM dead_letters WHERE topic_id = $1 ORDER BY stage`, topic.ID); err != nil {
			return fmt.Errorf("reading which dead letters there are: %w", err)
		}
		for _, stage := range stages {
			for part := range topic.Partitions {
				if err := l.placeLettersOf(ctx, stage, pipeline.TopicPartition{Topic: name, Partition: part}, topic.ID); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

const letterPage = 100

func (l *Layout) placeLettersOf(ctx context.Context, stage string, tp pipeline.TopicPartition, topicID string) error {
	for after := int64(-1); ; {
		letters, err := store.DeadLettersOf(ctx, l.View, stage, topicID, tp.Partition, after, letterPage)
		if err != nil {
			return err
		}
		for _, letter := range letters {
			after = letter.Offset
			headers, err := store.DecodeHeaders(letter.Headers)
			if err != nil {
				return fmt.Errorf("reading dead letter %d: %w", letter.ID, err)
			}
			slot := refill.Slot{Offset: letter.Offset, Letter: true, Record: &log.OutgoingRecord{Key: letter.Key, Headers: headers, Value: letter.Payload, Timestamp: letter.CreatedAt.Time}}
			if link, derived, err := chain.LinkOf(headers); err == nil && link != (chain.Link{}) {
				if slot.Link = refill.Linked; derived {
					slot.Link = refill.LinkedDerived
				}
			}
			l.partitions[tp].Put(slot)
			if id := schema.EventID(headers); id != "" {
				l.letters[keyOf(id)] = true
			}
		}
		if len(letters) < letterPage {
			return nil
		}
	}
}

// answerPage is how many answers are read at once without their bytes, and contentPage with them.
const (
	answerPage  = 5000
	contentPage = 200
)

// readAnswers puts the answers of providers where they were.
func (l *Layout) readAnswers(ctx context.Context) error {
	topic := l.Topics[schema.RawQuotes]
	for part := range topic.Partitions {
		first, last := rowid.Range(topic.Epoch, part)
		for after := first - 1; ; {
			var rows []struct {
				ID        int64  `db:"id"`
				EventID   string `db:"event_id"`
				RequestID string `db:"request_id"`
			}
			err := l.View.Select(ctx, &rows, `SELECT id, event_id, request_id FROM raw_market_data WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3`, after, last, answerPage)
			if err != nil {
				return fmt.Errorf("reading which answers there are: %w", err)
			}
			for _, row := range rows {
				after = row.ID
				a := answer{id: row.ID, event: keyOf(row.EventID), stored: -1}
				l.answerOf[a.event] = answerIndex{part, len(l.answers[part])}
				l.answers[part] = append(l.answers[part], a)
				slot := refill.Slot{Offset: rowid.Offset(row.ID), Source: ofAnswer, Ref: row.ID}
				if row.RequestID != "" {
					slot.Link = refill.Linked // what fetch has published came through the outbox
				}
				l.at(schema.RawQuotes, part).Put(slot)
			}
			if len(rows) < answerPage {
				break
			}
		}
	}
	return nil
}

// readPrices reads the ids of the prices in the tables.
func (l *Layout) readPrices(ctx context.Context) error {
	for _, original := range []bool{false, true} {
		query := `SELECT id, event_id, raw_response_id FROM processed_prices WHERE id > $1 ORDER BY id LIMIT $2`
		if original {
			query = `SELECT id, fact AS event_id, '' AS raw_response_id FROM processed_prices_corrected WHERE id > $1 ORDER BY id LIMIT $2`
		}
		for after := int64(-1); ; {
			var rows []struct {
				ID       int64  `db:"id"`
				EventID  string `db:"event_id"`
				AnswerID string `db:"raw_response_id"`
			}
			if err := l.View.Select(ctx, &rows, query, after, answerPage); err != nil {
				return fmt.Errorf("reading which prices there are: %w", err)
			}
			for _, row := range rows {
				after = row.ID
				event, of := row.EventID, row.AnswerID
				if original {
					fact, err := factOf(row.EventID)
					if err != nil {
						return err
					}
					event, of = fact.EventID, fact.RawResponseID
				}
				l.prices[keyOf(event)] = price{id: row.ID, answer: l.answerKey(of)}
			}
			if len(rows) < answerPage {
				break
			}
		}
	}
	return nil
}

// answerKey is the event of an answer that a price names; older ones name its row.
func (l *Layout) answerKey(id string) eventKey {
	if row, err := strconv.ParseInt(id, 10, 64); err == nil {
		if part, _, ok := l.place(schema.RawQuotes, row); ok {
			if i, there := slices.BinarySearchFunc(l.answers[part], row, func(a answer, row int64) int { return cmp.Compare(a.id, row) }); there {
				return l.answers[part][i].event
			}
		}
	}
	return keyOf(id)
}

// mostTried is how many events of a stored answer are tried to find the price of one.
const mostTried = 8

// locateStored finds the offsets of the events of answers on stored-quotes.
func (l *Layout) locateStored(context.Context) error {
	topic := l.Topics[schema.StoredQuotes]
	for part := range topic.Partitions {
		p := l.at(schema.StoredQuotes, part)
		answers := l.answers[part]
		taken := map[int64]bool{}
		for offset := range p.Known {
			if i, found := l.answerAt(topic, part, offset); found && answers[i].stored < 0 {
				answers[i].stored = offset
				taken[offset] = true
			}
		}
		l.locateRest(p, answers, taken)
	}
	return nil
}

// answerAt finds the answer whose event is at an offset by the price that was derived from it.
func (l *Layout) answerAt(topic store.Topic, part int32, offset int64) (int, bool) {
	r := pipeline.Record{TopicPartition: pipeline.TopicPartition{Topic: schema.StoredQuotes, Partition: part}, TopicID: topic.ID, Offset: offset}
	r.Locate(topic)
	for n := range mostTried {
		known, there := l.prices[keyOf(pipeline.DerivedID(normalize, &r, 0, n))]
		if !there {
			continue
		}
		if at, there := l.answerOf[known.answer]; there && at.part == part {
			return at.index, true
		}
	}
	return 0, false
}

// locateRest gives the answers that no price tells of the free offsets between the others, in
// their order; those that no stage has read come after all.
func (l *Layout) locateRest(p *refill.Partition, answers []answer, taken map[int64]bool) {
	var open []int
	for i := range answers {
		if answers[i].stored < 0 && !l.waiting[keyOf(l.storedID(answers[i]))] {
			open = append(open, i)
		}
	}
	// The last ones were sent, and no stage has read them.
	read := len(open) - min(int(l.unread[p.TopicPartition]), len(open))
	free := func(from int64) int64 {
		for from < p.Known && (taken[from] || p.Has(from)) {
			from++
		}
		return from
	}
	next, after := int64(0), p.Known
	for n, i := range open {
		if i > 0 && answers[i-1].stored < p.Known {
			next = max(next, answers[i-1].stored+1)
		}
		at := free(next)
		if at >= p.Known {
			at = free(0)
		}
		if n >= read || at >= p.Known {
			answers[i].stored, after = after, after+1
			continue
		}
		answers[i].stored, taken[at], next = at, true, at+1
	}
}

// storedID is the id of the event that an answer is stored.
func (l *Layout) storedID(a answer) string {
	topic := l.Topics[schema.RawQuotes]
	r := pipeline.Record{TopicPartition: pipeline.TopicPartition{Topic: schema.RawQuotes, Partition: rowid.PartitionOf(a.id)}, TopicID: topic.ID, Offset: rowid.Offset(a.id)}
	r.Locate(topic)
	return pipeline.DerivedID(rawStore, &r, 0, 0)
}

// content is a row of raw_market_data with its bytes.
type content struct {
	ID         int64           `db:"id"`
	EventID    string          `db:"event_id"`
	Symbol     schema.Symbol   `db:"symbol"`
	Provider   schema.Provider `db:"provider"`
	Text       *string         `db:"raw_response"`
	Raw        []byte          `db:"raw_bytes"`
	Timestamp  schema.Time     `db:"timestamp"`
	RequestID  string          `db:"request_id"`
	Definition string          `db:"definition"`
}

func (c content) fetched() schema.QuoteFetched {
	raw := c.Raw
	if c.Text != nil {
		raw = []byte(*c.Text)
	}
	return schema.QuoteFetched{Quote: schema.Quote{Provider: c.Provider, Symbol: c.Symbol, RequestID: c.RequestID}, RawResponse: raw, ReceivedAt: c.Timestamp, Definition: c.Definition}
}

func (c content) stored() schema.QuoteStored {
	return schema.QuoteStored{QuoteFetched: c.fetched(), RawResponseID: c.EventID}
}

// contents reads answers by their rows.
func (l *Layout) contents(ctx context.Context, ids []int64) (map[int64]content, error) {
	rows, err := store.SelectIn[content](ctx, l.View, `SELECT id, event_id, symbol, provider, raw_response, raw_bytes, timestamp, request_id, definition
		FROM raw_market_data WHERE id IN (?)`, ids)
	if err != nil {
		return nil, fmt.Errorf("reading answers: %w", err)
	}
	all := make(map[int64]content, len(rows))
	for _, row := range rows {
		all[row.ID] = row
	}
	return all, nil
}

// replay puts the stored answers where they were, and what normalize derived from them.
func (l *Layout) replay(ctx context.Context) error {
	topic := l.Topics[schema.StoredQuotes]
	for part := range topic.Partitions {
		p := l.at(schema.StoredQuotes, part)
		placed := slices.DeleteFunc(slices.Clone(l.answers[part]), func(a answer) bool { return a.stored < 0 })
		slices.SortFunc(placed, func(a, b answer) int { return cmp.Compare(a.stored, b.stored) })
		normalizer := l.NewNormalizer()
		reached := map[pipeline.TopicPartition]int64{} // what was derived before
		for page := range slices.Chunk(placed, contentPage) {
			if err := l.replayPage(ctx, normalizer, topic, p, page, reached); err != nil {
				return err
			}
			l.Progress(len(page))
		}
	}
	return nil
}

func (l *Layout) replayPage(ctx context.Context, normalizer Normalizer, topic store.Topic, p *refill.Partition, page []answer, reached map[pipeline.TopicPartition]int64) error {
	ids := make([]int64, len(page))
	for i, a := range page {
		ids[i] = a.id
	}
	rows, err := l.contents(ctx, ids)
	if err != nil {
		return err
	}
	var records []pipeline.Record
	var of []int64
	var requests []string
	for _, a := range page {
		slot := refill.Slot{Offset: a.stored, Source: ofStored, Ref: a.id, Link: refill.LinkedDerived}
		if a.stored >= p.Known {
			p.Append(slot)
			continue
		}
		if !p.Put(slot) {
			continue // a dead letter
		}
		r := pipeline.Record{TopicPartition: p.TopicPartition, TopicID: topic.ID, Offset: a.stored,
			Event: schema.Event{ID: l.storedID(a), Payload: rows[a.id].stored()}}
		r.Locate(topic)
		records, of = append(records, r), append(of, a.id)
		if id := rows[a.id].RequestID; id != "" {
			requests = append(requests, id)
		}
	}
	events, err := normalizer.Events(ctx, l.View, records)
	if err != nil {
		return err
	}
	outcomes, err := l.outcomesOf(ctx, requests)
	if err != nil {
		return err
	}
	for i, derived := range events {
		for n, e := range derived {
			if err := l.placeDerived(e, n, records[i].Event.Payload.(schema.QuoteStored), of[i], outcomes, reached); err != nil {
				return err
			}
		}
	}
	return nil
}
