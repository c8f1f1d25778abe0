package pipeline

import (
	"fmt"
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
)

// Link is the place of a record in the chain of its partition: the name of the
// chain, and its number there, from 1. A record from elsewhere (a stream, a
// file, another producer) has none.
type Link struct {
	Outbox string
	Seq    int64
}

// What a link holds in place of a number after an operator decided how to go on
// at a break of the chain.
const (
	// seqAny: whatever comes next goes on.
	seqAny = -1
	// seqSuperseded, less n: the records of this name behind number n were
	// written by another database, or by a later state of this one that is no
	// more. Its derived events come again, under a name of ours; its others are
	// applied.
	seqSuperseded = -2
)

// supersededAt is the link that steps over derived events of a chain from number
// first on.
func supersededAt(outbox string, first int64) Link {
	return Link{outbox, seqSuperseded - (first - 1)}
}

// superseded returns the last number seen of a chain that is superseded.
func (l Link) superseded() (last int64, ok bool) {
	return seqSuperseded - l.Seq, l.Seq <= seqSuperseded
}

// linkBytes bounds what the headers of a link add to a record.
const linkBytes = len(headerOutbox) + len(headerSeq) + 2*40 + 4

func (l Link) headers() []schema.Header {
	return []schema.Header{
		{Key: headerOutbox, Value: []byte(l.Outbox)},
		{Key: headerSeq, Value: strconv.AppendInt(nil, l.Seq, 10)},
	}
}

// linkOf reads the link of a record; the zero Link where it has none.
func linkOf(headers []schema.Header) (link Link, derived bool, err error) {
	var seq []byte
	for _, h := range headers {
		switch h.Key {
		case headerOutbox:
			link.Outbox = string(h.Value)
		case headerSeq:
			seq = h.Value
		case headerDerived:
			derived = true
		}
	}
	if link.Outbox == "" && seq == nil {
		return Link{}, false, nil
	}
	n, err := strconv.ParseInt(string(seq), 10, 64)
	if err != nil || n < 1 || link.Outbox == "" {
		return Link{}, false, fmt.Errorf("%w: headers %s and %s name no place in a chain", schema.ErrEnvelope, headerOutbox, headerSeq)
	}
	link.Seq = n
	return link, derived, nil
}

// chainNames are the names under which this database wrote to a partition, each
// with the last number that was sent; unlimited for the name in use.
type chainNames map[string]int64

const unlimited = int64(1<<63 - 1)

// chainNamesOf sorts names by the partitions they were used on.
func chainNamesOf(known []store.KnownChain) map[TopicPartition]chainNames {
	names := map[TopicPartition]chainNames{}
	for _, chain := range known {
		tp := TopicPartition{schema.Topic(chain.Topic), chain.Part}
		if names[tp] == nil {
			names[tp] = chainNames{}
		}
		names[tp][chain.Outbox] = chain.Sent
		if chain.Current {
			names[tp][chain.Outbox] = unlimited
		}
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
	foreign              // another database wrote it, or a state of this one that is no more
)

// follow decides what to do with the record at next, where l is the last one
// applied on its partition. It is a pure function of the log and of the names
// known to the database, so it decides the same live, after a crash and in a
// rebuild.
//
// The numbers of a chain are dense and are sent in order, one batch in flight
// per partition, each again until it is acknowledged. So the log of a partition
// reads 1 2 3 …, in which a run may be repeated from an earlier number, but
// nothing can be missing unless the log or the database lost it. When a chain
// gets another name, the numbers begin with 1 again, behind the last one that
// was sent under the former name.
func (l Link) follow(next Link, derived bool, names chainNames) step {
	if next == (Link{}) || l.Seq == seqAny {
		return apply
	}
	last, superseded := l.superseded()
	if !superseded {
		last = l.Seq
	}
	limit, known := names[next.Outbox]
	if next.Outbox != l.Outbox {
		before, ended := names[l.Outbox]
		switch {
		case !known, next.Seq > limit:
			return foreign
		case next.Seq != 1, ended && last < before:
			return gap
		}
		return apply
	}
	switch {
	case next.Seq <= last:
		return repeat
	case next.Seq != last+1:
		return gap
	case superseded && derived:
		return stepOver
	case !superseded && known && last <= limit && next.Seq > limit:
		return foreign
	}
	return apply
}

// advance is the link after the record at next was applied, dead-lettered or
// stepped over.
func (l Link) advance(next Link) Link {
	if next == (Link{}) {
		return l
	}
	if _, superseded := l.superseded(); superseded && next.Outbox == l.Outbox {
		return supersededAt(next.Outbox, next.Seq+1)
	}
	return next
}
