package chain

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/pricemill/pricemill/schema"
)

// Headers of a record that came through an outbox, as CloudEvents extension
// attributes.
const (
	HeaderTimeline = "ce_outboxid"
	HeaderNumber   = "ce_outboxseq"
	// HeaderDerived marks an event that a stage gave for a record it took: the
	// stage gives it again, with the same id, if it takes the record again.
	HeaderDerived = "ce_outboxderived"
	// HeaderDirect marks an event that was appended to a log that numbers its records
	// by itself, and not by a stage: a stream's or a file's. It may come again, with
	// the same id.
	HeaderDirect = "ce_outboxdirect"
)

// LinkHeaders are those of a record with a number in the chain on this timeline, by
// which stages follow it. A log that numbers its records itself adds them when it is
// read. They share the memory of timeline.
func LinkHeaders(timeline []byte, number int64) [2]schema.Header {
	return [2]schema.Header{
		{Key: HeaderTimeline, Value: timeline},
		{Key: HeaderNumber, Value: strconv.AppendInt(nil, number, 10)},
	}
}

// DirectHeaders are headers as such a log stores them for an event that no stage's
// transaction gave: without a place in another log, and marked.
func DirectHeaders(headers []schema.Header) []schema.Header {
	direct := make([]schema.Header, 0, len(headers)+1)
	for _, h := range headers {
		if h.Key != HeaderTimeline && h.Key != HeaderNumber && h.Key != HeaderDirect {
			direct = append(direct, h)
		}
	}
	return append(direct, schema.Header{Key: HeaderDirect, Value: []byte("true")})
}

// IsDirect reports whether DirectHeaders marked them.
func IsDirect(headers []schema.Header) bool {
	return slices.ContainsFunc(headers, func(h schema.Header) bool { return h.Key == HeaderDirect })
}

// Link is the place of a record in the chain of its partition: the timeline of the
// chain, and its number there, from 1. A record from elsewhere (a stream, a
// file, another producer) has none.
type Link struct {
	Timeline string
	Seq      int64
	// Mode says what may follow the record. It is InOrder for the link of a record; where
	// a stage stands, an operator may have decided otherwise.
	Mode Mode
}

// Mode says what may follow a link.
type Mode int

// The modes of a link. An operator decides for another one than InOrder, to continue at
// a break of the chain.
const (
	// InOrder is followed by the next number.
	InOrder Mode = iota
	// AnyNext is followed by whatever comes next, but for the link's number and those
	// before it.
	AnyNext
	// Superseded says that the records of this timeline after the link were written by
	// another database, or by a later state of this one that is no more: its derived
	// events come again, on a timeline of ours; its others are applied.
	Superseded
)

// In is the link at the same place with another mode.
func (l Link) In(m Mode) Link {
	l.Mode = m
	return l
}

// LinkBytes bounds what the headers of a link add to a record.
const LinkBytes = len(HeaderTimeline) + len(HeaderNumber) + 2*40 + 4

// Headers are those of the record at this link.
func (l Link) Headers() []schema.Header {
	headers := LinkHeaders([]byte(l.Timeline), l.Seq)
	return headers[:]
}

// LinkOf reads the link of a record; the zero Link where it has none.
func LinkOf(headers []schema.Header) (link Link, derived bool, err error) {
	var seq []byte
	for _, h := range headers {
		switch h.Key {
		case HeaderTimeline:
			link.Timeline = string(h.Value)
		case HeaderNumber:
			seq = h.Value
		case HeaderDerived:
			derived = true
		}
	}
	if link.Timeline == "" && seq == nil {
		return Link{}, false, nil
	}
	n, err := strconv.ParseInt(string(seq), 10, 64)
	if err != nil || n < 1 || link.Timeline == "" {
		return Link{}, false, fmt.Errorf("%w: headers %s and %s name no place in a chain", schema.ErrEnvelope, HeaderTimeline, HeaderNumber)
	}
	link.Seq = n
	return link, derived, nil
}

// Timeline is one on which this database wrote, or writes, to a partition.
type Timeline struct {
	// Order counts the timelines of the partition.
	Order int
	// Sent is the last number in the log, Given the last there is: as in
	// store.KnownChain. Both are unlimited for the timeline in use.
	Sent, Given int64
}

// Timelines are those of a partition, by name.
type Timelines map[string]Timeline

// Unlimited is more than any number.
const Unlimited = int64(1<<63 - 1)

// Verdict is what the chain says of a record.
type Verdict int

// The verdicts of a chain.
const (
	Apply    Verdict = iota // the next one
	Repeat                  // already applied: the relay sent it again
	StepOver                // superseded: it comes again
	Gap                     // records are missing before it
	Foreign                 // this database did not write it, or a state of it did that is no more
)

// Follow decides what to do with the record at next, where l is the last one
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
func (l Link) Follow(next Link, derived bool, names Timelines) Verdict {
	if next == (Link{}) {
		return Apply
	}
	name, known := names[next.Timeline]
	before, knew := names[l.Timeline]
	own := next.Timeline == l.Timeline
	switch {
	case own && next.Seq <= l.Seq:
		return Repeat
	case !own && knew && known && name.Order < before.Order && next.Seq <= name.Given:
		return Repeat
	case known && next.Seq > name.Given && !l.follows(next, name):
		return Foreign
	case l.Mode == AnyNext:
		return Apply
	case own && next.Seq != l.Seq+1:
		return Gap
	case own && l.Mode == Superseded && derived:
		return StepOver
	case own:
		return Apply
	case !known, knew && name.Order < before.Order:
		return Foreign
	case next.Seq != 1, knew && l.Seq < before.Sent && before.Sent != Unlimited:
		return Gap
	}
	return Apply
}

// follows reports whether an operator had the stage follow a timeline beyond the last
// number that this database gave, and next is the next one there.
func (l Link) follows(next Link, name Timeline) bool {
	return l.Timeline == next.Timeline && next.Seq == l.Seq+1 && (l.Seq > name.Given || l.Seq == name.Given && l.Mode != InOrder)
}

// Advance is the link after the record at next was applied, dead-lettered or
// skipped.
func (l Link) Advance(next Link) Link {
	if next == (Link{}) {
		return l
	}
	if l.Mode == Superseded && next.Timeline == l.Timeline {
		return next.In(Superseded)
	}
	return next
}
