package log

import (
	"context"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
)

// Follower is a log that can be followed without a consumer group, by any number of
// processes and without a trace in the database.
type Follower interface {
	// Follow calls f with the records of a partition from offset from on, in order, in
	// slices of any size, and then with those that are appended, soon after they are
	// committed. Events are not decoded. It returns the error of f, if any; an error
	// that wraps the cause of ctx once that is done; and otherwise what Read returns
	// where the partition does not hold the offset, or the log does not answer. The
	// caller then follows again from the offset it has reached.
	Follow(ctx context.Context, tp pipeline.TopicPartition, from int64, f func([]pipeline.Record) error) error
}

// Repeats tells which records of a partition a relay sent again. The records are to be
// shown to it in the order of the log. The zero value has seen none.
type Repeats struct{ reached map[string]int64 }

// IsRepeat reports whether a record that was shown earlier has the number of r, or a
// later one, in the same timeline.
func (p *Repeats) IsRepeat(r *pipeline.Record) bool {
	link, _, err := chain.LinkOf(r.Headers)
	if err != nil || link == (chain.Link{}) {
		return false // no stage's, or a dead letter for all
	}
	if link.Seq <= p.reached[link.Timeline] {
		return true
	}
	if p.reached == nil {
		p.reached = map[string]int64{}
	}
	p.reached[link.Timeline] = link.Seq
	return false
}

// NumberOf is the number of a record in the chain of its partition; 0 where it has none.
func NumberOf(r *pipeline.Record) int64 {
	link, _, err := chain.LinkOf(r.Headers)
	if err != nil {
		return 0
	}
	return link.Seq
}
