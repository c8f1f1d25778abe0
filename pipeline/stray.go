package pipeline

import (
	"context"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// chainBreak is what the chain of a partition shows before a record.
type chainBreak struct {
	TopicPartition
	what       chain.Verdict // gap or foreign
	last, next chain.Link
	offset     int64
	end        int64 // of the log
	names      chain.Timelines
	// sent is up to where the name in use is known to be in the log; unlimited where
	// last has another name.
	sent int64
}

// skip is chain.Link.Skip, and looks ahead at a gap: what is missing may not have been
// sent yet, or come later.
func (b chainBreak) skip(ctx context.Context, broker Broker) (to chain.Link, stray bool, err error) {
	to, stray = b.last.Skip(b.next, b.what, b.names)
	if b.what != chain.Gap || b.last.Timeline != b.next.Timeline {
		return to, stray, nil
	}
	last, _ := b.last.Reached()
	missing := chain.Link{Timeline: b.last.Timeline, Seq: last + 1}
	stray = missing.Seq > b.sent
	if !stray {
		stray, err = b.comesLater(ctx, broker, missing)
	}
	if stray {
		to = b.last
	}
	return to, stray, err
}

// errFound ends reading a partition.
var errFound = errors.New("found")

func (b chainBreak) comesLater(ctx context.Context, broker Broker, wanted chain.Link) (bool, error) {
	err := broker.Read(ctx, b.TopicPartition, b.offset+1, b.end, func(records []Record) error {
		for _, r := range records {
			if link, _, err := chain.LinkOf(r.Headers); err == nil && link == wanted {
				return errFound
			}
		}
		return nil
	})
	switch {
	case errors.Is(err, errFound):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("looking for number %d after offset %d of %s: %w", wanted.Seq, b.offset, b.TopicPartition, err)
	}
	return false, nil
}

// strayRun is how many records from the stray one on are stray like it, and the
// offset after them.
func (b chainBreak) strayRun(ctx context.Context, broker Broker) (n, next int64, err error) {
	err = broker.Read(ctx, b.TopicPartition, b.offset, b.end, func(records []Record) error {
		for _, r := range records {
			link, derived, err := chain.LinkOf(r.Headers)
			if err != nil || link == (chain.Link{}) {
				return errFound
			}
			what := b.last.Follow(link, derived, b.names)
			_, stray := b.last.Skip(link, what, b.names)
			if !stray && (what != chain.Gap || link.Timeline != b.last.Timeline) {
				return errFound
			}
			n, next = n+1, r.Offset+1
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return n, next, err
}

// haltedRecord is a record that a stage halted before.
type haltedRecord struct {
	TopicPartition
	offset int64
}

// haltedLinks are the links of the records that stages halted before, but for those
// in looked, to which it adds them, and the ids of their events.
func (t *Topology) haltedLinks(ctx context.Context, looked map[haltedRecord]bool) (map[TopicPartition]map[chain.Link]string, error) {
	positions, err := store.Positions(ctx, t.db, "")
	if err != nil {
		return nil, err
	}
	links := map[TopicPartition]map[chain.Link]string{}
	for _, p := range positions {
		at := haltedRecord{positionAt(p), p.Next}
		topic, ours := t.topic(at.Topic)
		if p.Halted == "" || !ours || topic.ID != p.TopicID || looked[at] {
			continue
		}
		r, err := t.recordAt(ctx, at)
		if err != nil {
			return nil, fmt.Errorf("reading where %s halted on %s: %w", p.Stage, at.TopicPartition, err)
		}
		if link, _, err := chain.LinkOf(r.Headers); err == nil && link != (chain.Link{}) { // else its stage says so
			if links[at.TopicPartition] == nil {
				links[at.TopicPartition] = map[chain.Link]string{}
			}
			links[at.TopicPartition][link] = schema.EventID(r.Headers)
		}
		looked[at] = true
	}
	return links, nil
}

// recordAt is a record; the zero Record where there is none.
func (t *Topology) recordAt(ctx context.Context, at haltedRecord) (found Record, err error) {
	ranges, err := t.broker.Offsets(ctx, at.Topic)
	if err != nil || int(at.Partition) >= len(ranges) || at.offset < ranges[at.Partition].Oldest || at.offset >= ranges[at.Partition].End {
		return Record{}, err
	}
	err = t.broker.Read(ctx, at.TopicPartition, at.offset, at.offset+1, func(records []Record) error {
		for _, r := range records {
			found = r
		}
		return nil
	})
	return found, err
}
