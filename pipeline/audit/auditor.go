package audit

import (
	"context"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Audited is a Handler whose effects can be told from the records that it was
// given, beyond the events that it derived from them.
type Audited interface {
	pipeline.Handler
	// Audit begins to hold the effects against the log.
	Audit(ctx context.Context, view *View) (Auditor, error)
}

// Auditor looks at what a stage made of the records that it applied, and tells
// the finding of its view what should not be. It is used for several partitions
// at once, each in the order of the log.
type Auditor interface {
	// Partition begins a partition.
	Partition(tp pipeline.TopicPartition) PartitionAuditor
	// End comes after all partitions.
	End(ctx context.Context) error
}

// PartitionAuditor is an Auditor's work on one partition.
type PartitionAuditor interface {
	// Applied looks at a record that the stage applied, and from which so many
	// events were derived: there are those, and no other.
	Applied(ctx context.Context, r *pipeline.Record, events int) error
	// End comes after the last record that the stage applied.
	End(ctx context.Context) error
}

// View is the moment that an Auditor looks at.
type View struct {
	store.Querier
	// Finding is told of what was looked at, and of differences.
	Finding  *Finding
	audit    *audit
	produces []schema.EventType
}

// Topic is a topic as the database knows it.
func (v *View) Topic(name schema.Topic) store.Topic {
	topic, _ := v.audit.Topics.Topic(name)
	return topic
}

// Epochs is how many incarnations of the topic the database has seen: of those
// before, the log holds nothing.
func (v *View) Epochs(name schema.Topic) int { return v.audit.epochs[name] }

// Whole reports whether the log holds all that there ever was of a topic.
func (v *View) Whole(name schema.Topic) bool {
	return v.audit.epochs[name] == 1 && !v.audit.foreign &&
		!slices.ContainsFunc(v.audit.ends[name], func(r log.OffsetRange) bool { return r.Oldest > 0 })
}

// Missing notes that nothing follows from a record that the stage applied, unless it
// may be in what the log no longer has.
func (v *View) Missing(format string, args ...any) {
	for _, t := range v.produces {
		if topic, _ := schema.TopicOf(t); !v.Whole(topic) {
			v.Finding.NotChecked("%s does not hold all that there was: what follows from a record may be in what is gone", topic)
			return
		}
	}
	v.Finding.Missing(format, args...)
}

// Oldest is the first offset that a partition still has.
func (v *View) Oldest(tp pipeline.TopicPartition) int64 {
	return v.audit.ends[tp.Topic][tp.Partition].Oldest
}

// Emitted reports whether an event of this id came through the outbox that
// follows from no record, as those of a Runner.
func (v *View) Emitted(id string) bool { return v.audit.index.claim(id, "") }

// EachApplied is an Auditor that needs to know nothing but the record.
func EachApplied(f func(ctx context.Context, r *pipeline.Record, events int) error) Auditor {
	return each(f)
}

type each func(ctx context.Context, r *pipeline.Record, events int) error

func (e each) Partition(pipeline.TopicPartition) PartitionAuditor { return e }
func (e each) Applied(ctx context.Context, r *pipeline.Record, events int) error {
	return e(ctx, r, events)
}
func (each) End(context.Context) error { return nil }
