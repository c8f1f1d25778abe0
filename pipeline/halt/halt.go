package halt

import (
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
)

// Action is what an operator does about a halt.
type Action string

const (
	// Resume continues with the record the stage halted at, as if nothing were
	// wrong.
	Resume Action = "resume"
	// Skip continues after what is missing or superseded.
	Skip Action = "skip"
)

// Kind is why a stage cannot continue by itself.
type Kind int

// The kinds of breaks.
const (
	Unbroken        Kind = iota
	TopicRecreated       // the topic has another id
	PartitionsAdded      // the topic has more partitions than anybody agreed to
	RecordsDeleted       // the log begins after the position
	EndLost              // the log ends before the position
	RecordsMissing       // the chain has a gap
	ForeignRecords       // another database wrote what comes next, or a state of this one that is no more
)

// Action is the subcommand of "pricemill stages" that resolves the halt.
func (k Kind) Action() Action {
	if k == PartitionsAdded {
		return Resume
	}
	return Skip
}

// Break is where and why a stage halts.
type Break struct {
	Kind  Kind
	Stage string
	Place pipeline.TopicPartition
	// Reason is for people.
	Reason string
}

// String is what the position keeps, and what /readyz says.
func (b Break) String() string {
	return fmt.Sprintf("%s; to continue: pricemill stages %s %s %s %d",
		b.Reason, b.Kind.Action(), b.Stage, b.Place.Topic, b.Place.Partition)
}

// At holds a position against the topic and the log as they are; Unbroken
// where nothing is wrong. topic is the present incarnation.
func At(p store.Position, topic store.Topic, c log.Claim) Break {
	b := Break{Stage: p.Stage, Place: c.TopicPartition}
	switch {
	case p.TopicID != c.ID:
		b.Kind = TopicRecreated
		b.Reason = fmt.Sprintf("the topic was created again: its id is %s, and was %s", c.ID, p.TopicID)
	case topic.Seen != c.Partitions:
		b.Kind = PartitionsAdded
		b.Reason = fmt.Sprintf("the topic has %d partitions, and had %d", c.Partitions, topic.Seen)
	case p.Next < c.Oldest:
		b.Kind = RecordsDeleted
		b.Reason = fmt.Sprintf("the log begins at offset %d, and the stage needs %d: %d records are gone",
			c.Oldest, p.Next, c.Oldest-p.Next)
	case p.LogEnded != nil, p.Next > c.End:
		end := c.End
		if p.LogEnded != nil {
			end = *p.LogEnded // it has grown again since
		}
		b.Kind = EndLost
		b.Reason = fmt.Sprintf("the log ended at offset %d, and the stage has applied up to %d: the log lost its end", end, p.Next)
	}
	return b
}

// Before is the break that the chain shows before the record at next.
func Before(p store.Position, last, next chain.Link, offset int64, what chain.Verdict, names chain.Timelines) Break {
	b := Break{Stage: p.Stage, Place: log.PartitionOf(p)}
	switch {
	case what == chain.Foreign && names[next.Timeline].Given > 0:
		b.Kind = ForeignRecords
		b.Reason = fmt.Sprintf("the record at offset %d has number %d of chain %s, and this database never gave a number above %d: "+
			"it was written by another database or program, or by a later state of this one: was it restored from a copy?",
			offset, next.Seq, next.Timeline, names[next.Timeline].Given)
	case what == chain.Foreign:
		b.Kind = ForeignRecords
		b.Reason = fmt.Sprintf("the record at offset %d, number %d of chain %s, was written by another database, "+
			"or by a later state of this one: was it restored from a copy?", offset, next.Seq, next.Timeline)
	case what == chain.Gap:
		b.Kind = RecordsMissing
		b.Reason = fmt.Sprintf("the log lost %d records before offset %d: the chain goes from number %d of %s to %d of %s",
			chain.Missing(last, next, names), offset, last.Seq, chain.NameOrNone(last.Timeline), next.Seq, next.Timeline)
	}
	return b
}
