package cmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/pricemill/pricemill/handlers/normalize"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// sentPatience is how long events may take from the outbox to the log.
const sentPatience = 10 * time.Second

// renormalization reads the answers of a provider again.
type renormalization struct {
	b        *backends
	m        *modules
	topics   *topics.Set
	log      *slog.Logger
	provider schema.Provider
}

// start reads the answers, notes what differs, and orders the builds.
func (w renormalization) start(ctx context.Context, r renormalizing) (id string, err error) {
	reading, err := projections.Reread(ctx, w.b.store, w.m.projections, w.provider, r.reason)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, reading.Fail(ctx, err))
		}
	}()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case why := <-reading.Lost():
			cancel(why)
		case <-ctx.Done():
		}
	}()
	before, err := w.ranges(ctx, schema.PriceEvents)
	if err != nil {
		return "", err
	}
	var again *normalize.Again
	err = w.b.store.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.LockPositions(ctx, normalize.Name); err != nil {
			return err
		}
		if again, err = w.begin(ctx); err != nil {
			return err
		}
		return again.Begin(ctx, tx)
	})
	if err != nil {
		return "", err
	}
	added := map[string]bool{} // by event id, which are in the log and not noted
	note := func(differences []normalize.Difference) error { return w.note(ctx, reading, differences, added) }
	span, err := w.span(ctx, place{})
	if err != nil {
		return "", err
	}
	if err := again.Read(ctx, span.Span, note); err != nil {
		return "", err
	}
	// From here on the stage itself reads as it would have: what it has read meanwhile is read
	// again too.
	err = reading.Cut(ctx, func(tx *store.Tx) error {
		if _, err := tx.LockPositions(ctx, normalize.Name); err != nil {
			return err
		}
		return again.Cut(ctx, tx)
	})
	if err != nil {
		return "", err
	}
	if span, err = w.span(ctx, span.end); err != nil {
		return "", err
	}
	if err := again.Read(ctx, span.Span, note); err != nil {
		return "", err
	}
	if err := w.place(ctx, reading, before, added); err != nil {
		return "", err
	}
	return reading.ID, reading.Build(ctx, w.m.projections, again.Answers, again.Unread, r.rate)
}

// note notes what differs. Prices that no event tells are brought into the log.
func (w renormalization) note(ctx context.Context, reading *projections.Rereading, differences []normalize.Difference, added map[string]bool) error {
	var revised []projections.RevisedPrice
	var events []schema.Event
	for _, d := range differences {
		if d.EventID != "" {
			revised = append(revised, projections.RevisedPrice{EventID: d.EventID, RecordID: d.RecordID, Payload: d.Is})
			continue
		}
		payload := schema.PriceAdded{RenormalizationID: reading.ID}
		switch is := d.Is.(type) {
		case schema.PriceObserved:
			payload.Price = &is
		case schema.BarObserved:
			payload.Bar = &is
		}
		e := schema.Event{ID: schema.DeriveID("renormalize", reading.ID, d.Answer, fmt.Sprint(d.Number)), Source: projections.RenormalizationSource, Payload: payload}
		added[e.ID] = true
		events = append(events, e)
	}
	if err := reading.Revise(ctx, revised); err != nil {
		return err
	}
	for chunk := range slices.Chunk(events, log.BatchRecords) {
		if err := engine.NewAppender(w.b.broker, w.topics).Append(ctx, chunk); err != nil {
			return fmt.Errorf("adding prices to the log: %w", err)
		}
	}
	return nil
}

// place finds the records of added prices, each of which may have been sent twice, and notes
// the first of them.
func (w renormalization) place(ctx context.Context, reading *projections.Rereading, from []log.OffsetRange, added map[string]bool) error {
	if len(added) == 0 {
		return nil
	}
	ends, err := w.ranges(ctx, schema.PriceEvents)
	if err != nil {
		return err
	}
	for i := range ends {
		ends[i].Oldest = from[i].End
	}
	err = w.each(ctx, schema.PriceEvents, ends, func(records []pipeline.Record) error {
		var found []projections.RevisedPrice
		for i := range records {
			r := &records[i]
			payload, is := r.Event.Payload.(schema.PriceAdded)
			if !is || payload.RenormalizationID != reading.ID || !added[r.Event.ID] {
				continue
			}
			id, err := r.RowID(0)
			if err != nil {
				return err
			}
			delete(added, r.Event.ID)
			found = append(found, projections.RevisedPrice{EventID: r.Event.ID, RecordID: id, Payload: payload})
		}
		return reading.Revise(ctx, found)
	})
	if err == nil && len(added) > 0 {
		err = fmt.Errorf("%w: %d prices that were added are not in the log", errRenormalize, len(added))
	}
	return err
}

// begin returns what reads the answers again.
func (w renormalization) begin(ctx context.Context) (*normalize.Again, error) {
	answers, err := w.ranges(ctx, schema.StoredQuotes)
	if err != nil {
		return nil, err
	}
	partial := func(part int32) bool { return int(part) < len(answers) && answers[part].Oldest > 0 }
	whole := !slices.ContainsFunc(answers, func(r log.OffsetRange) bool { return r.Oldest > 0 })
	return &normalize.Again{Providers: w.m.provider, Provider: w.provider, Partial: partial, Whole: whole}, nil
}

// place is a place in the log: offsets by partition of the topics that are compared.
type place map[schema.Topic][]log.OffsetRange

// after are the ranges without what is before a place.
func (p place) after(topic schema.Topic, ranges []log.OffsetRange) []log.OffsetRange {
	for i := range ranges {
		if before := p[topic]; i < len(before) {
			ranges[i].Oldest = max(ranges[i].Oldest, before[i].End)
		}
	}
	return ranges
}

// span is a part of the log that ends at a place.
type span struct {
	normalize.Span
	end place
}

// span is the log from a place to where its answers have been read by now.
func (w renormalization) span(ctx context.Context, from place) (span, error) {
	positions, err := store.Positions(ctx, w.b.store, normalize.Name)
	if err != nil {
		return span{}, err
	}
	answers, err := w.ranges(ctx, schema.StoredQuotes)
	if err != nil {
		return span{}, err
	}
	stored, _ := w.topics.Topic(schema.StoredQuotes)
	next := map[int32]int64{}
	for _, p := range positions {
		if p.TopicID == stored.ID {
			next[p.Part] = p.Next
		}
	}
	for i := range answers {
		answers[i].End = max(answers[i].Oldest, min(answers[i].End, next[int32(i)]))
	}
	// What was made of those answers is in the log, or on its way.
	chains, err := store.Chains(ctx, w.b.store)
	if err != nil {
		return span{}, err
	}
	waiting, err := engine.AwaitSent(ctx, w.b.store, chains, sentPatience)
	if err != nil {
		return span{}, err
	}
	if waiting > 0 {
		return span{}, fmt.Errorf("%w: %d events wait in the outbox to be sent to Kafka: start a service, which sends them", errRenormalize, waiting)
	}
	s := span{end: place{schema.StoredQuotes: slices.Clone(answers)}}
	answers = from.after(schema.StoredQuotes, answers)
	said := place{}
	for _, topic := range []schema.Topic{schema.PriceEvents, schema.QuoteOutcomes} {
		ranges, err := w.ranges(ctx, topic)
		if err != nil {
			return span{}, err
		}
		s.end[topic] = slices.Clone(ranges)
		said[topic] = from.after(topic, ranges)
		for _, r := range said[topic] {
			s.Records += max(0, r.End-r.Oldest)
		}
	}
	taken, err := projections.Taken(ctx, w.b.store)
	if err != nil {
		return span{}, err
	}
	s.Prices = func(ctx context.Context, f func([]normalize.Said) error) error {
		for _, topic := range []schema.Topic{schema.PriceEvents, schema.QuoteOutcomes} {
			err := w.each(ctx, topic, said[topic], func(records []pipeline.Record) error {
				payloads, err := taken(ctx, records)
				if err != nil {
					return err
				}
				all := make([]normalize.Said, len(records))
				for i := range records {
					all[i] = normalize.Said{Record: &records[i], Is: payloads[i]}
				}
				return f(all)
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	s.Answers = func(ctx context.Context, f func([]pipeline.Record) error) error {
		return w.each(ctx, schema.StoredQuotes, answers, f)
	}
	return s, nil
}

func (w renormalization) ranges(ctx context.Context, topic schema.Topic) ([]log.OffsetRange, error) {
	ranges, err := w.b.broker.Offsets(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("asking for the ends of %s: %w", topic, err)
	}
	return ranges, nil
}

// each reads spans of the partitions of a topic, each record once, decoded.
func (w renormalization) each(ctx context.Context, topic schema.Topic, spans []log.OffsetRange, f func([]pipeline.Record) error) error {
	is, known := w.topics.Topic(topic)
	if !known {
		return nil
	}
	for part, span := range spans {
		if span.Oldest >= span.End {
			continue
		}
		tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
		sent := repeats{}
		err := w.b.broker.Read(ctx, tp, span.Oldest, span.End, func(records []pipeline.Record) error {
			records = slices.DeleteFunc(slices.Clone(records), func(r pipeline.Record) bool { return sent.repeated(&r) })
			for i := range records {
				records[i].Decode(is)
			}
			return f(records)
		})
		if err != nil {
			return fmt.Errorf("reading %s: %w", tp, err)
		}
	}
	return nil
}

// repeats tells which records of a partition a relay sent again: their number in the chain
// is not above that of an earlier one. It has the last number by timeline.
type repeats map[string]int64

func (l repeats) repeated(r *pipeline.Record) bool {
	link, _, err := chain.LinkOf(r.Headers)
	if err != nil || link == (chain.Link{}) {
		return false
	}
	if link.Seq <= l[link.Timeline] {
		return true
	}
	l[link.Timeline] = link.Seq
	return false
}
