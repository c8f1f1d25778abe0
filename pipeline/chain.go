package pipeline

import (
	"fmt"
	"strconv"

	"github.com/pricemill/pricemill/schema"
)

// Headers of a record that came through an outbox, as CloudEvents extension
// attributes.
const (
	headerOutbox = "ce_outboxid"
	headerSeq    = "ce_outboxseq"
)

// Link is the place of a record in the chain of its partition: the outbox it
// came from, and its number there, from 1. A record from elsewhere (a stream,
// a file, another producer) has none.
type Link struct {
	Outbox string
	Seq    int64
}

func (l Link) headers() []schema.Header {
	return []schema.Header{
		{Key: headerOutbox, Value: []byte(l.Outbox)},
		{Key: headerSeq, Value: strconv.AppendInt(nil, l.Seq, 10)},
	}
}

// linkOf reads the link of a record; the zero Link where it has none.
func linkOf(headers []schema.Header) (Link, error) {
	var link Link
	var seq []byte
	for _, h := range headers {
		switch h.Key {
		case headerOutbox:
			link.Outbox = string(h.Value)
		case headerSeq:
			seq = h.Value
		}
	}
	if link.Outbox == "" && seq == nil {
		return Link{}, nil
	}
	n, err := strconv.ParseInt(string(seq), 10, 64)
	if err != nil || n < 1 || link.Outbox == "" {
		return Link{}, fmt.Errorf("%w: headers %s and %s name no place in a chain", schema.ErrEnvelope, headerOutbox, headerSeq)
	}
	link.Seq = n
	return link, nil
}

// step is what the chain says of a record.
type step int

const (
	apply  step = iota // the next one
	repeat             // already applied: the relay sent it again
	gap                // records are missing before it
)

// follow decides what to do with the record at next, where l is the last one
// applied on its partition. It is a pure function of the log, so it decides the
// same live, after a crash and in a rebuild.
//
// The numbers of an outbox are dense and are sent in order, one batch in flight
// per partition, each again until it is acknowledged. So the log of a partition
// reads 1 2 3 …, in which a run may be repeated from an earlier number, but
// nothing can be missing unless the log or the database lost it.
func (l Link) follow(next Link) step {
	switch {
	case next == Link{}:
		return apply
	case next.Outbox != l.Outbox:
		// Another outbox begins: complete only from its first event. Anything
		// else is a database that was restored or replaced.
		if next.Seq == 1 {
			return apply
		}
		return gap
	case next.Seq <= l.Seq:
		return repeat
	case next.Seq == l.Seq+1:
		return apply
	default:
		return gap
	}
}

// advance is the link after the record at next was applied or dead-lettered.
func (l Link) advance(next Link) Link {
	if next == (Link{}) {
		return l
	}
	return next
}
