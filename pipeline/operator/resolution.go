package operator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// ErrUnsettled is wrapped where it is too early to say what an action would do: the
// chain whose records a stage halted at is still on the timeline that they were
// written on. A relay starts a new timeline within seconds of its own start, or finds
// that none is needed.
var ErrUnsettled = errors.New("no relay has held the database against the log yet")

// Resolution resolves one halt of a stage on one partition: the new position, and what
// it gives up.
type Resolution struct {
	Stage     string       `json:"stage"`
	Topic     schema.Topic `json:"topic"`
	Partition int32        `json:"partition"`
	// Halted is why the stage halted.
	Halted string `json:"halted"`
	// Loses says what will never be applied.
	Loses string `json:"loses"`
	// Lost is the number of records in Loses, where it is known; else -1.
	Lost int64 `json:"lost"`

	from, to store.Position
	topic    store.Topic
	seen     int32 // partitions to agree to, or 0
}

// Topics knows the present incarnations of topics.
type Topics interface {
	// Topic is what is known of a topic; false where it is not one of this run's.
	Topic(name schema.Topic) (store.Topic, bool)
}

// ErrNotResolved is wrapped where an action does not resolve a halt.
var ErrNotResolved = errors.New("the stage would halt again")

// PlanResolutions works out, for each halted position that wanted accepts, what action
// would do, and changes nothing. The error reports the positions that the action does
// not resolve; the resolutions of the others are returned with it.
func PlanResolutions(ctx context.Context, db *store.Store, broker log.Broker, topics Topics, action halt.Action, wanted func(store.Position) bool) ([]Resolution, error) {
	positions, err := store.Positions(ctx, db, "")
	if err != nil {
		return nil, err
	}
	return PlanAt(ctx, db, broker, topics, action, slices.DeleteFunc(positions, func(p store.Position) bool { return !wanted(p) }))
}

// PlanAt is PlanResolutions for these positions, which may be of a fill.
func PlanAt(ctx context.Context, db *store.Store, broker log.Broker, topics Topics, action halt.Action, positions []store.Position) ([]Resolution, error) {
	d := diagnosis{db: db, broker: broker, topics: topics, action: action}
	var resolutions []Resolution
	var errs []error
	for _, p := range positions {
		if p.Halted == "" {
			continue
		}
		resolution, err := d.resolve(ctx, p)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s on %s: %w", p.Stage, log.PartitionOf(p), err))
			continue
		}
		resolutions = append(resolutions, resolution)
	}
	return resolutions, errors.Join(errs...)
}

// ApplyResolutions applies resolutions, all or none. It fails where anything changed
// since they were planned. Running processes notice within a second or two.
func ApplyResolutions(ctx context.Context, db *store.Store, resolutions []Resolution) error {
	return db.Write(ctx, func(tx *store.Tx) error {
		for _, l := range resolutions {
			if err := l.apply(ctx, tx); err != nil {
				return fmt.Errorf("resolving the halt of %s at %s/%d: %w", l.Stage, l.Topic, l.Partition, err)
			}
		}
		return nil
	})
}

func (l Resolution) apply(ctx context.Context, tx *store.Tx) error {
	if l.to.TopicID != l.from.TopicID || l.from.LogEnded != nil {
		// What waits of it goes to another chain, but for what was applied.
		if err := tx.NoteApplied(ctx, l.from.Topic, l.from.Part, l.from.Reached.Timeline, l.from.Reached.Seq); err != nil {
			return err
		}
	}
	if l.seen > 0 {
		if err := tx.AgreeToPartitions(ctx, l.topic, l.seen); err != nil {
			return err
		}
	}
	to := l.to
	to.Halted, to.LogEnded, to.MovedAt = "", nil, schema.NewTime(time.Now())
	return tx.SetPosition(ctx, l.from, to)
}

// diagnosis works out resolutions.
type diagnosis struct {
	db     *store.Store
	broker log.Broker
	topics Topics
	known  []store.KnownChain
	action halt.Action
}

func (d diagnosis) resolve(ctx context.Context, p store.Position) (Resolution, error) {
	tp := log.PartitionOf(p)
	topic, known := d.topics.Topic(tp.Topic)
	if !known {
		return Resolution{}, fmt.Errorf("no event of this binary is on topic %s", tp.Topic)
	}
	infos, err := d.broker.Topics(ctx, []schema.Topic{tp.Topic})
	if err != nil {
		return Resolution{}, err
	}
	ranges, err := d.broker.Offsets(ctx, tp.Topic)
	if err != nil {
		return Resolution{}, err
	}
	if int(p.Part) >= len(ranges) {
		return Resolution{}, fmt.Errorf("the topic has %d partitions now", len(ranges))
	}
	claim := log.Claim{TopicPartition: tp, TopicInfo: infos[tp.Topic], OffsetRange: ranges[p.Part]}
	// Only now: the numbers in the log up to its end were given before.
	if d.known, err = store.KnownChains(ctx, d.db); err != nil {
		return Resolution{}, err
	}
	resolution := Resolution{Stage: p.Stage, Topic: tp.Topic, Partition: p.Part, Halted: p.Halted, Loses: "nothing",
		from: p, to: p, topic: topic}
	b := halt.At(p, topic, claim)
	if b.Kind != halt.Unbroken {
		return d.atPosition(resolution, b, claim)
	}
	next, found, err := d.nextLink(ctx, p, claim.OffsetRange)
	if err != nil || !found {
		return resolution, err // the reason has gone
	}
	return d.beforeRecord(ctx, resolution, next, claim.End)
}

// refuse says that the action does not resolve a break.
func (d diagnosis) refuse(b halt.Break) error {
	return fmt.Errorf("%w after %q: %s", ErrNotResolved, d.action, b)
}

// atPosition is for what At finds.
func (d diagnosis) atPosition(l Resolution, b halt.Break, claim log.Claim) (Resolution, error) {
	if b.Kind.Action() != d.action {
		return Resolution{}, d.refuse(b)
	}
	p := l.from
	switch b.Kind {
	case halt.PartitionsAdded:
		l.seen = claim.Partitions
		l.Loses = fmt.Sprintf("nothing: keys stay on the %d partitions they were on; records that others write by the new number "+
			"of partitions have no order with earlier ones of their keys", l.topic.Partitions)
	case halt.RecordsDeleted:
		l.Lost = claim.Oldest - p.Next
		l.Loses = fmt.Sprintf("%d records: offsets %d to %d, which the log no longer has", l.Lost, p.Next, claim.Oldest-1)
		l.to.Next = claim.Oldest
		l.resumeAt(p.Reached.In(chain.AnyNext))
	case halt.TopicRecreated:
		l.Lost = d.unapplied(p)
		l.Loses = fmt.Sprintf("%d records that pricemill had sent to the topic that is gone and that this stage had not applied, "+
			"and whatever others had written there from offset %d on", l.Lost, p.Next)
		l.to.TopicID, l.to.Next = claim.ID, claim.Oldest
		l.resumeAt(chain.Link{})
		if claim.Oldest > 0 {
			l.resumeAt(chain.Link{}.In(chain.AnyNext))
		}
	case halt.EndLost:
		l.Lost = d.unapplied(p)
		l.Loses = fmt.Sprintf("%d records that pricemill had sent and that this stage had not applied, and whatever others had written "+
			"after offset %d; what was applied of the lost end stays in the tables", l.Lost, p.Next-1)
		l.to.Next = claim.End
		if p.LogEnded != nil {
			l.to.Next = *p.LogEnded
		}
		l.resumeAt(p.Reached.In(chain.AnyNext))
	}
	return l, nil
}

// resumeAt has the chain continue from a link.
func (l *Resolution) resumeAt(from chain.Link) { l.to.Reached = from }

// unapplied is how many numbers were sent on the timelines before the one in use,
// and not applied at a position.
func (d diagnosis) unapplied(p store.Position) int64 {
	return chain.SentBetween(p.Reached, "", halt.TimelinesOf(d.known, true)[log.PartitionOf(p)])
}

// errNext ends reading at the next link.
var errNext = errors.New("found")

// nextLink reads the first record with a link from a position on.
func (d diagnosis) nextLink(ctx context.Context, p store.Position, held log.OffsetRange) (next linked, found bool, err error) {
	err = d.broker.Read(ctx, log.PartitionOf(p), p.Next, held.End, func(records []pipeline.Record) error {
		for _, r := range records {
			link, derived, err := chain.LinkOf(r.Headers)
			if err == nil && link != (chain.Link{}) {
				next.Link, next.derived, next.offset, found = link, derived, r.Offset, true
				return errNext
			}
			next.after = true
		}
		return nil
	})
	if errors.Is(err, errNext) {
		err = nil
	}
	return next, found, err
}

// linked is a record that came through an outbox.
type linked struct {
	chain.Link
	derived bool
	offset  int64
	// after says that records without a link lie between the position and it.
	after bool
}

// beforeRecord is for what the chain shows.
func (d diagnosis) beforeRecord(ctx context.Context, l Resolution, next linked, end int64) (Resolution, error) {
	p := l.from
	names := halt.TimelinesOf(d.known, true)[log.PartitionOf(p)]
	last := p.Reached
	what := last.Follow(next.Link, next.derived, names)
	b := halt.Before(p, last, next.Link, next.offset, what, names)
	if b.Kind == halt.Unbroken {
		return l, nil
	}
	if what == chain.Foreign && names[next.Timeline].Sent == chain.Unlimited {
		// What is superseded comes again under a new timeline. Until the chain has
		// one, stages may give the same events the same numbers again; the relay
		// then finds them in the log, where they are already, and leaves the name as
		// it is. To skip them here would be to lose them, and all that follows
		// under this name.
		return Resolution{}, fmt.Errorf("%w: what comes next is number %d of chain %s, which is still in use", ErrUnsettled, next.Seq, next.Timeline)
	}
	broken := halt.ChainBreak{TopicPartition: log.PartitionOf(p), What: what, Last: last, Next: next.Link, Offset: next.offset, End: end, Names: names, Sent: d.sent(p)}
	to, stray, err := broken.Skip(ctx, d.broker)
	if err != nil {
		return Resolution{}, err
	}
	switch {
	case stray && d.action == halt.Skip:
		return passOver(ctx, d.broker, l, broken, next.after)
	case what == chain.Foreign && d.action == halt.Skip:
		l.resumeAt(to)
		l.Loses = fmt.Sprintf("nothing that can be made again: of what chain %s continues with, the events that stages derived are "+
			"skipped, since those stages derive them again from what they read; the others are applied", next.Timeline)
	case what == chain.Foreign && !stray && d.action == halt.Resume:
		l.resumeAt(chain.Link{Timeline: next.Timeline, Seq: next.Seq - 1}.In(chain.AnyNext))
		l.Loses = fmt.Sprintf("nothing: what chain %s continues with is applied as it is; what stages of this database derive again "+
			"is then there twice", next.Timeline)
	case what == chain.Gap && d.action == halt.Skip:
		l.Lost = chain.Missing(last, next.Link, names)
		l.Loses = fmt.Sprintf("%d records that are missing from the log before offset %d", l.Lost, next.offset)
		l.resumeAt(to)
	default:
		return Resolution{}, d.refuse(b)
	}
	return l, nil
}

// passOver has a stage continue after stray records. It does not skip records
// before them: those are applied, and the stage halts again.
func passOver(ctx context.Context, broker log.Broker, l Resolution, b halt.ChainBreak, after bool) (Resolution, error) {
	if after {
		return l, nil
	}
	n, next, err := b.StrayRun(ctx, broker)
	if err != nil {
		return Resolution{}, err
	}
	l.to.Next, l.Lost = next, n
	l.Loses = fmt.Sprintf("%d records from offset %d on, which are out of order: they have numbers of chain %s from %d on, right after "+
		"number %d; the stage continues after that number with what this database wrote", n, b.Offset, b.Next.Timeline, b.Next.Seq, b.Last.Seq)
	return l, nil
}

// sent is up to where the chain that a position follows is known to be in the log;
// unlimited where it is on a new timeline by now.
func (d diagnosis) sent(p store.Position) int64 {
	for _, k := range d.known {
		if k.Current && log.PartitionOfChain(k) == log.PartitionOf(p) && k.Timeline == p.Reached.Timeline {
			return k.Sent
		}
	}
	return chain.Unlimited
}
