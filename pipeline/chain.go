package pipeline

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Headers of a record that came through an outbox, as CloudEvents extension
// attributes.
const (
	headerOutbox = "ce_outboxid"
	headerSeq    = "ce_outboxseq"
	// headerDerived marks an event that a stage gave for a record it took: the
	// stage gives it again, with the same id, if it takes the record again.
	headerDerived = "ce_outboxderived"
	// headerDirect marks an event that was appended to a log that numbers its records
	// by itself, and not by a stage: a stream's or a file's. It may come again, with
	// the same id.
	headerDirect = "ce_outboxdirect"
)

// LinkHeaders are those of a record with a number in the chain on this timeline, by
// which stages follow it. A log that numbers its records itself adds them when it is
// read. They share the memory of timeline.
func LinkHeaders(timeline []byte, number int64) [2]schema.Header {
	return [2]schema.Header{
		{Key: headerOutbox, Value: timeline},
		{Key: headerSeq, Value: strconv.AppendInt(nil, number, 10)},
	}
}

// DirectHeaders are headers as such a log stores them for an event that no stage's
// transaction gave: without a place in another log, and marked.
func DirectHeaders(headers []schema.Header) []schema.Header {
	direct := make([]schema.Header, 0, len(headers)+1)
	for _, h := range headers {
		if h.Key != headerOutbox && h.Key != headerSeq && h.Key != headerDirect {
			direct = append(direct, h)
		}
	}
	return append(direct, schema.Header{Key: headerDirect, Value: []byte("true")})
}

// isDirect reports whether DirectHeaders marked them.
func isDirect(headers []schema.Header) bool {
	return slices.ContainsFunc(headers, func(h schema.Header) bool { return h.Key == headerDirect })
}

// Link is the place of a record in the chain of its partition: the timeline of the
// chain, and its number there, from 1. A record from elsewhere (a stream, a
// file, another producer) has none.
type Link struct {
	Timeline string
	Seq      int64
}

// After an operator decided how to go on at a break of the chain, a link holds in
// place of its number n a negative one that says what may follow.
//
//	-2n-1  whatever comes next goes on, but for n and the numbers before it
//	-2n-2  the records of this timeline after n were written by another database, or
//	       by a later state of this one that is no more: its derived events come
//	       again, on a timeline of ours; its others are applied
type mode int

const (
	inOrder mode = iota
	anyNext
	superseded
)

// reached is the number of the last record, and what may follow it.
func (l Link) reached() (int64, mode) {
	if l.Seq >= 0 {
		return l.Seq, inOrder
	}
	if -l.Seq%2 == 1 {
		return (-l.Seq - 1) / 2, anyNext
	}
	return (-l.Seq - 2) / 2, superseded
}

// in is the link at the same place with another mode.
func (l Link) in(m mode) Link {
	n, _ := l.reached()
	switch m {
	case anyNext:
		n = -2*n - 1
	case superseded:
		n = -2*n - 2
	}
	return Link{l.Timeline, n}
}

// linkBytes bounds what the headers of a link add to a record.
const linkBytes = len(headerOutbox) + len(headerSeq) + 2*40 + 4

func (l Link) headers() []schema.Header {
	headers := LinkHeaders([]byte(l.Timeline), l.Seq)
	return headers[:]
}

// linkOf reads the link of a record; the zero Link where it has none.
func linkOf(headers []schema.Header) (link Link, derived bool, err error) {
	var seq []byte
	for _, h := range headers {
		switch h.Key {
		case headerOutbox:
			link.Timeline = string(h.Value)
		case headerSeq:
			seq = h.Value
		case headerDerived:
			derived = true
		}
	}
	if link.Timeline == "" && seq == nil {
		return Link{}, false, nil
	}
	n, err := strconv.ParseInt(string(seq), 10, 64)
	if err != nil || n < 1 || link.Timeline == "" {
		return Link{}, false, fmt.Errorf("%w: headers %s and %s name no place in a chain", schema.ErrEnvelope, headerOutbox, headerSeq)
	}
	link.Seq = n
	return link, derived, nil
}

// timeline is one on which this database wrote, or writes, to a partition.
type timeline struct {
	// order counts the timelines of the partition.
	order int
	// sent is the last number in the log, given the last there is: as in
	// store.KnownChain. Both are unlimited for the timeline in use.
	sent, given int64
}

type timelines map[string]timeline

const unlimited = int64(1<<63 - 1)

// timelinesOf sorts timelines by the partitions they were used on. Numbers of those
// in use are not limited, or by the last one given.
func timelinesOf(known []store.KnownChain, limited bool) map[TopicPartition]timelines {
	names := map[TopicPartition]timelines{}
	for _, chain := range known {
		tp := partitionOf(chain)
		if names[tp] == nil {
			names[tp] = timelines{}
		}
		name := timeline{len(names[tp]), chain.Sent, chain.Given}
		if chain.Current {
			name.sent = unlimited
			if !limited {
				name.given = unlimited
			}
		}
		names[tp][chain.Timeline] = name
	}
	return names
}

// step is what the chain says of a record.
type step int

const (
	apply    step = iota // the next one
	repeat               // already applied: the relay sent it again
	stepOver             // superseded: it comes again
	gap                  // records are missing before it
	foreign              // this database did not write it, or a state of it did that is no more
)

// follow decides what to do with the record at next, where l is the last one
// applied on its partition. It is a pure function of the log and of the
// timelines known to the database, so it decides the same live, after a crash and in a
// rebuild.
//
// The numbers of a chain are dense and are sent in order, one batch in flight
// per partition, each again until it is acknowledged. So the log of a partition
// reads 1 2 3 …, in which a run may be repeated from an earlier number, but
// nothing can be missing unless the log or the database lost it. A number above the
// last one given is no gap: this database did not write the record. When a chain
// gets a new timeline, the numbers begin with 1 again, after the last one that was
// sent on the former timeline; a relay that is late may still bring numbers of the
// former one, whose events are there on the new one.
func (l Link) follow(next Link, derived bool, names timelines) step {
	if next == (Link{}) {
		return apply
	}
	last, mode := l.reached()
	name, known := names[next.Timeline]
	before, knew := names[l.Timeline]
	own := next.Timeline == l.Timeline
	switch {
	case own && next.Seq <= last:
		return repeat
	case !own && knew && known && name.order < before.order && next.Seq <= name.given:
		return repeat
	case known && next.Seq > name.given && !l.follows(next, name):
		return foreign
	case mode == anyNext:
		return apply
	case own && next.Seq != last+1:
		return gap
	case own && mode == superseded && derived:
		return stepOver
	case own:
		return apply
	case !known, knew && name.order < before.order:
		return foreign
	case next.Seq != 1, knew && last < before.sent && before.sent != unlimited:
		return gap
	}
	return apply
}

// follows reports whether an operator had the stage follow a timeline beyond the last
// number that this database gave, and next is the next one there.
func (l Link) follows(next Link, name timeline) bool {
	last, mode := l.reached()
	return l.Timeline == next.Timeline && next.Seq == last+1 && (last > name.given || last == name.given && mode != inOrder)
}

// advance is the link after the record at next was applied, dead-lettered or
// stepped over.
func (l Link) advance(next Link) Link {
	if next == (Link{}) {
		return l
	}
	if _, mode := l.reached(); mode == superseded && next.Timeline == l.Timeline {
		return next.in(superseded)
	}
	return next
}
