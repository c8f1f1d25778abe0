package pipeline

import (
	"context"
	"errors"
	"fmt"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// A stray record has the name of one of this database's chains, and a number out of
// order: the numbers before it are still to come. The database did not write it, or
// wrote it again later. A stage that moved to its number would drop all numbers in
// between as repeats, so it passes over the record and stays where it is.

// skip is where a stage continues that stands at l and is told to skip what the
// chain shows before the record at next.
func (l Link) skip(next Link, what step, names timelines) (to Link, stray bool) {
	before := Link{next.Timeline, next.Seq - 1}
	switch {
	case what != foreign:
		return before.in(anyNext), false
	case l.strays(next, names):
		return l, true
	}
	return before.in(superseded), false
}

// strays reports whether a foreign record has a name of this database, but is not
// where a later state of the database continued that name: right after the last
// number of a name that is retired.
func (l Link) strays(next Link, names timelines) bool {
	name, known := names[next.Timeline]
	before, knew := names[l.Timeline]
	switch {
	case !known:
		return false
	case name.sent == unlimited, knew && name.order < before.order:
		return true
	case next.Timeline != l.Timeline:
		return next.Seq != 1
	}
	last, _ := l.reached()
	return next.Seq != last+1
}

// chainBreak is what the chain of a partition shows before a record.
type chainBreak struct {
	TopicPartition
	what       step // gap or foreign
	last, next Link
	offset     int64
	end        int64 // of the log
	names      timelines
	// sent is up to where the name in use is known to be in the log; unlimited where
	// last has another name.
	sent int64
}

// skip is Link.skip, and looks ahead at a gap: what is missing may not have been
// sent yet, or come later.
func (b chainBreak) skip(ctx context.Context, broker Broker) (to Link, stray bool, err error) {
	to, stray = b.last.skip(b.next, b.what, b.names)
	if b.what != gap || b.last.Timeline != b.next.Timeline {
		return to, stray, nil
	}
	last, _ := b.last.reached()
	missing := Link{b.last.Timeline, last + 1}
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

func (b chainBreak) comesLater(ctx context.Context, broker Broker, wanted Link) (bool, error) {
	err := broker.Read(ctx, b.TopicPartition, b.offset+1, b.end, func(records []Record) error {
		for _, r := range records {
			if link, _, err := linkOf(r.Headers); err == nil && link == wanted {
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
			link, derived, err := linkOf(r.Headers)
			if err != nil || link == (Link{}) {
				return errFound
			}
			what := b.last.follow(link, derived, b.names)
			_, stray := b.last.skip(link, what, b.names)
			if !stray && (what != gap || link.Timeline != b.last.Timeline) {
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
func (t *Topology) haltedLinks(ctx context.Context, looked map[haltedRecord]bool) (map[TopicPartition]map[Link]string, error) {
	positions, err := store.Positions(ctx, t.db, "")
	if err != nil {
		return nil, err
	}
	links := map[TopicPartition]map[Link]string{}
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
		if link, _, err := linkOf(r.Headers); err == nil && link != (Link{}) { // else its stage says so
			if links[at.TopicPartition] == nil {
				links[at.TopicPartition] = map[Link]string{}
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
