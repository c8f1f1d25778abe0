// Package logrecords gives the records of the log again that the tables of the installation tell
// of, each at its place, for topics that were lost.
//
// The rows of answers, prices, corrections, outcomes and jobs have ids that are made of the places
// of their records. The place of a stored answer is found by the ids of the prices that were
// derived from it, which are hashes of that place. What has no place of its own is put where
// nothing else is, in its order.
package logrecords

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/refill"
	"github.com/pricemill/pricemill/pipeline/rowid"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Normalizer reads stored answers again; the Replay of the stage normalize is one.
type Normalizer interface {
	// Events are those that the stage derived from each record. It is shown the records of a
	// partition in their order.
	Events(ctx context.Context, q store.Querier, in []pipeline.Record) ([][]schema.Event, error)
	// Prices are the events of the prices that each answer holds.
	Prices(ctx context.Context, q store.Querier, in []pipeline.Record) ([][]schema.Payload, error)
}

// Stages whose events are given again.
const (
	rawStore  = "raw-store"
	normalize = "normalize"
	fetch     = "fetch"
	schedule  = "schedule"
)

// Config says what to read. All of it is required.
type Config struct {
	// View is the database.
	View store.Querier
	// Topics are the incarnations whose records are to be given.
	Topics map[schema.Topic]store.Topic
	// NewNormalizer makes one that has seen nothing.
	NewNormalizer func() Normalizer
	// Partition is where a key is among so many partitions, and RecordKey the key of the record
	// of an event.
	Partition func(key []byte, partitions int32) int32
	RecordKey func(schema.Payload) []byte
	// PriceStage is the stage of the list of prices that serves. What other stages have read and it
	// has not is in no table.
	PriceStage string
	// Commands is the source of events that clients command.
	Commands string
	// Progress is told how many answers more were read.
	Progress func(answers int)
}

// Layout is where the records of all topics are.
type Layout struct {
	Config
	partitions map[pipeline.TopicPartition]*refill.Partition
	// normalizer reads answers again for Make.
	normalizer Normalizer

	answers map[int32][]answer
	// answerOf is the place of an answer in answers, by its event.
	answerOf map[eventKey]answerIndex
	// prices are those that tables have, by their events; a price that was placed is gone.
	prices map[eventKey]price
	// waiting are the events in the outbox that the log never had, and letters those that are
	// dead letters.
	waiting, letters map[eventKey]bool
	floats           []float
	// failures are those of jobs that are given again.
	failures map[string]int
	missing  []missingFailures
	// unread is how many events of a partition were sent and not applied by any stage.
	unread map[pipeline.TopicPartition]int64
	// ahead are the offsets of prices that other stages have read and the list of prices has not,
	// by partition.
	ahead map[int32][]int64
	// Unplaced counts events for which there was no room.
	Unplaced int64
}

type eventKey [16]byte

// keyOf is the id itself where it is a UUID, or else what a hash makes of it.
func keyOf(id string) eventKey {
	if len(id) == 36 {
		if parsed, err := uuid.Parse(id); err == nil {
			return eventKey(parsed)
		}
	}
	sum := sha256.Sum256([]byte(id))
	return eventKey(sum[:16])
}

// answer is a row of raw_market_data.
type answer struct {
	id    int64
	event eventKey
	// stored is the offset of its event on stored-quotes; -1 until it is known.
	stored int64
}

type answerIndex struct {
	part  int32
	index int
}

// price is a price in the tables.
type price struct {
	id     int64 // of the row
	answer eventKey
}

// float is an event whose offset is not known: it is after another one.
type float struct {
	tp    pipeline.TopicPartition
	after int64
	slot  refill.Slot
	// last says that no stage has read it: it comes after all others.
	last bool
}

// New reads where the records are. The database must not change meanwhile.
func New(ctx context.Context, cfg Config) (*Layout, error) {
	l := &Layout{Config: cfg, normalizer: cfg.NewNormalizer(), partitions: map[pipeline.TopicPartition]*refill.Partition{}, answers: map[int32][]answer{},
		answerOf: map[eventKey]answerIndex{}, prices: map[eventKey]price{}, waiting: map[eventKey]bool{}, letters: map[eventKey]bool{},
		unread: map[pipeline.TopicPartition]int64{}, failures: map[string]int{}, ahead: map[int32][]int64{}}
	for _, step := range []func(context.Context) error{l.begin, l.readOutbox, l.placeLetters, l.readAnswers, l.readPrices, l.locateStored, l.replay,
		l.placeOtherPrices, l.placeCorrections, l.placeOutcomes, l.placeForgotten, l.placeRequests, l.placeDeleted, l.placeQueue, l.placeJobs, l.placeAdjustments, l.placeStreams, l.placeBackfills} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	l.placeFloats()
	return l, l.placeMissing()
}

// Partitions are those of a topic.
func (l *Layout) Partitions(topic store.Topic) []*refill.Partition {
	all := make([]*refill.Partition, topic.Partitions)
	for part := range topic.Partitions {
		all[part] = l.at(schema.Topic(topic.Name), part)
	}
	return all
}

// Unread is how many events of a topic were sent and not applied by any stage.
func (l *Layout) Unread(topic store.Topic) (n int64) {
	for part := range topic.Partitions {
		n += l.unread[pipeline.TopicPartition{Topic: schema.Topic(topic.Name), Partition: part}]
	}
	return n
}

func (l *Layout) at(topic schema.Topic, part int32) *refill.Partition {
	return l.partitions[pipeline.TopicPartition{Topic: topic, Partition: part}]
}

// begin finds up to where stages have applied each partition.
func (l *Layout) begin(ctx context.Context) error {
	positions, err := store.Positions(ctx, l.View, "")
	if err != nil {
		return err
	}
	chains, err := store.Chains(ctx, l.View)
	if err != nil {
		return err
	}
	for name, topic := range l.Topics {
		for part := range topic.Partitions {
			tp := pipeline.TopicPartition{Topic: name, Partition: part}
			l.partitions[tp] = refill.NewPartition(tp, knownOf(positions, topic, part))
		}
	}
	if err := l.lookAhead(ctx, positions); err != nil {
		return err
	}
	for _, c := range chains {
		for name, topic := range l.Topics {
			if topic.Epoch != c.Epoch {
				continue
			}
			reached := int64(0)
			consumed := false
			for _, p := range positions {
				if p.TopicID == topic.ID && p.Part == c.Part {
					consumed = true
					if p.Reached.Timeline == c.Timeline {
						reached = max(reached, p.Reached.Seq)
					}
				}
			}
			if consumed && c.Sent > reached {
				l.unread[pipeline.TopicPartition{Topic: name, Partition: c.Part}] = c.Sent - reached
			}
		}
	}
	return nil
}

// lookAhead finds the offsets of the prices that other stages have read and the list of prices has
// not: averages have rows of them. Those that no average tells of are the last ones.
func (l *Layout) lookAhead(ctx context.Context, positions []store.Position) error {
	topic := l.Topics[schema.PriceEvents]
	for _, list := range positions {
		if list.Stage != l.PriceStage || list.TopicID != topic.ID {
			continue
		}
		known := l.at(schema.PriceEvents, list.Part).Known
		n := int64(0)
		for _, p := range positions {
			switch {
			case p.TopicID != topic.ID || p.Part != list.Part || p.Next <= list.Next:
			case list.Reached.Timeline == "" || p.Reached.Timeline == list.Reached.Timeline:
				n = max(n, p.Reached.Seq-list.Reached.Seq) // the others there are repeats
			default:
				n = max(n, p.Next-list.Next)
			}
		}
		if n == 0 {
			continue
		}
		_, last := rowid.Range(topic.Epoch, list.Part)
		first, err := rowid.Of(topic.Epoch, list.Part, list.Next, 0)
		if err != nil {
			return err
		}
		var ids []int64
		if err := l.View.Select(ctx, &ids, `SELECT id FROM moving_averages WHERE id BETWEEN $1 AND $2
			UNION SELECT price_id FROM latest_prices WHERE price_id BETWEEN $1 AND $2 ORDER BY 1`, first, last); err != nil {
			return fmt.Errorf("looking for averages of prices that are not listed: %w", err)
		}
		var offsets []int64
		for _, id := range ids {
			if offset := rowid.Offset(id); len(offsets) == 0 || offsets[len(offsets)-1] < offset {
				offsets = append(offsets, offset)
			}
		}
		// The relay sends a run of records, so the others are before the last one that is known.
		end := known
		if len(offsets) > 0 {
			end = offsets[len(offsets)-1]
		}
		there := map[int64]bool{}
		for _, offset := range offsets {
			there[offset] = true
		}
		for offset := end - 1; offset >= list.Next && int64(len(offsets)) < n; offset-- {
			if !there[offset] {
				offsets = append(offsets, offset)
			}
		}
		for offset := end + 1; offset < known && int64(len(offsets)) < n; offset++ {
			offsets = append(offsets, offset)
		}
		slices.Sort(offsets)
		l.ahead[list.Part] = offsets
	}
	return nil
}

// knownOf is the highest position of a stage.
func knownOf(positions []store.Position, topic store.Topic, part int32) (known int64) {
	for _, p := range positions {
		if p.TopicID == topic.ID && p.Part == part {
			known = max(known, p.Next)
		}
	}
	return known
}

// readOutbox reads which events were never sent: they are sent yet.
func (l *Layout) readOutbox(ctx context.Context) error {
	chains, err := store.Chains(ctx, l.View)
	if err != nil {
		return err
	}
	ended := map[[2]int64]int64{}
	for _, c := range chains {
		for name, topic := range l.Topics {
			if topic.Epoch == c.Epoch {
				if ended[[2]int64{c.Epoch, int64(c.Part)}], err = store.Ended(ctx, l.View, string(name), c); err != nil {
					return err
				}
			}
		}
	}
	for after := (store.OutboxRow{Part: -1}); ; {
		var rows []store.OutboxRow
		err := l.View.Select(ctx, &rows, `SELECT epoch, part, seq, headers FROM outbox WHERE (epoch, part, seq) > ($1, $2, $3) ORDER BY epoch, part, seq LIMIT 1000`,
			after.Epoch, after.Part, after.Seq)
		if err != nil {
			return fmt.Errorf("reading the outbox: %w", err)
		}
		for _, row := range rows {
			after = row
			if row.Seq <= ended[[2]int64{row.Epoch, int64(row.Part)}] {
				continue
			}
			headers, err := store.DecodeHeaders(row.Headers)
			if err != nil {
				return fmt.Errorf("reading number %d of the outbox of chain %d/%d: %w", row.Seq, row.Epoch, row.Part, err)
			}
			l.waiting[keyOf(schema.EventID(headers))] = true
		}
		if len(rows) < 1000 {
			return nil
		}
	}
}

// place is the place of a row's record, if it is on the incarnation of a topic.
func (l *Layout) place(topic schema.Topic, id int64) (part int32, offset int64, ok bool) {
	part, offset = rowid.PartitionOf(id), rowid.Offset(id)
	t, known := l.Topics[topic]
	if !known || part >= t.Partitions {
		return 0, 0, false
	}
	first, last := rowid.Range(t.Epoch, part)
	return part, offset, id >= first && id <= last
}

// record is an event as a record of the log, but for its link.
func (l *Layout) record(e schema.Event, at schema.Time) (log.OutgoingRecord, error) {
	headers, value, err := e.Encode()
	if err != nil {
		return log.OutgoingRecord{}, fmt.Errorf("giving event %s again: %w", e.ID, err)
	}
	return log.OutgoingRecord{Key: l.RecordKey(e.Payload), Headers: headers, Value: value, Timestamp: at.Time}, nil
}

// literal is a slot with the record of an event.
func (l *Layout) literal(e schema.Event, at schema.Time, link refill.LinkKind) (refill.Slot, error) {
	r, err := l.record(e, at)
	return refill.Slot{Record: &r, Link: link}, err
}

// partitionOf is the partition of the key of an event.
func (l *Layout) partitionOf(p schema.Payload) int32 {
	return l.Partition([]byte(p.Key()), l.Topics[p.Topic()].Partitions)
}

// placeFloats puts the events whose offsets are not known where nothing else is, in their order.
// Where nothing is free, they come after all others if events were sent that no stage has applied.
func (l *Layout) placeFloats() {
	reached := map[pipeline.TopicPartition]int64{}
	slices.SortStableFunc(l.floats, func(a, b float) int { return cmp.Compare(a.after, b.after) })
	for _, f := range l.floats {
		p := l.partitions[f.tp]
		if f.last {
			p.Append(f.slot)
			continue
		}
		offset, placed := p.Float(max(f.after, reached[f.tp]-1)+1, f.slot)
		if !placed {
			offset, placed = p.Float(0, f.slot)
		}
		switch {
		case placed:
			reached[f.tp] = offset + 1
		case l.unread[f.tp] > 0:
			p.Append(f.slot)
		default:
			l.Unplaced++
		}
	}
}
