package engine

import (
	"fmt"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
)

// breakKind is what keeps a stage from going on by itself.
type breakKind int

const (
	unbroken        breakKind = iota
	topicRecreated            // the topic has another id
	partitionsAdded           // the topic has more partitions than anybody agreed to
	recordsDeleted            // the log begins behind the position
	endLost                   // the log ends before the position
	recordsMissing            // the chain has a gap
	foreignRecords            // another database wrote what comes next, or a state of this one that is no more
)

// command is the subcommand of "pricemill stages" that goes on.
func (k breakKind) action() Action {
	if k == partitionsAdded {
		return Resume
	}
	return Skip
}

// logBreak is where and why a stage halts.
type logBreak struct {
	kind   breakKind
	stage  string
	at     pipeline.TopicPartition
	reason string
}

// String is what the position keeps, and what /readyz says.
func (b logBreak) String() string {
	return fmt.Sprintf("%s; to go on: pricemill stages %s %s %s %d",
		b.reason, b.kind.action(), b.stage, b.at.Topic, b.at.Partition)
}

// breakAt holds a position against the topic and the log as they are; unbroken
// where nothing is wrong. topic is the present incarnation.
func breakAt(p store.Position, topic store.Topic, c log.Claim) logBreak {
	b := logBreak{stage: p.Stage, at: c.TopicPartition}
	switch {
	case p.TopicID != c.ID:
		b.kind = topicRecreated
		b.reason = fmt.Sprintf("the topic was created again: its id is %s, and was %s", c.ID, p.TopicID)
	case topic.Seen != c.Partitions:
		b.kind = partitionsAdded
		b.reason = fmt.Sprintf("the topic has %d partitions, and had %d", c.Partitions, topic.Seen)
	case p.Next < c.Oldest:
		b.kind = recordsDeleted
		b.reason = fmt.Sprintf("the log begins at offset %d, and the stage needs %d: %d records are gone",
			c.Oldest, p.Next, c.Oldest-p.Next)
	case p.LogEnded != nil, p.Next > c.End:
		end := c.End
		if p.LogEnded != nil {
			end = *p.LogEnded // it has grown again since
		}
		b.kind = endLost
		b.reason = fmt.Sprintf("the log ended at offset %d, and the stage has applied up to %d: the log lost its end", end, p.Next)
	}
	return b
}

// breakBefore is the break that the chain shows before the record at next.
func breakBefore(p store.Position, last, next chain.Link, offset int64, what chain.Verdict, names chain.Timelines) logBreak {
	b := logBreak{stage: p.Stage, at: positionAt(p)}
	seq, _ := last.Reached()
	switch {
	case what == chain.Foreign && names[next.Timeline].Given > 0:
		b.kind = foreignRecords
		b.reason = fmt.Sprintf("the record at offset %d has number %d of chain %s, and this database never gave a number above %d: "+
			"it was written by another database or program, or by a later state of this one: was it restored from a copy?",
			offset, next.Seq, next.Timeline, names[next.Timeline].Given)
	case what == chain.Foreign:
		b.kind = foreignRecords
		b.reason = fmt.Sprintf("the record at offset %d, number %d of chain %s, was written by another database, "+
			"or by a later state of this one: was it restored from a copy?", offset, next.Seq, next.Timeline)
	case what == chain.Gap:
		b.kind = recordsMissing
		b.reason = fmt.Sprintf("the log lost %d records before offset %d: the chain goes from number %d of %s to %d of %s",
			chain.Missing(last, next, names), offset, seq, chain.NameOrNone(last.Timeline), next.Seq, next.Timeline)
	}
	return b
}
