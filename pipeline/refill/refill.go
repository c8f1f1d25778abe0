package refill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/operator"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

// Config says what to fill from what. All but Step and Progress is required.
type Config struct {
	// Store is a database without positions, or one that an interrupted refill left.
	Store *store.Store
	// Restored says that Store was restored from a backup instead: it has what the log had then,
	// and gets what the log has beyond it. Continued says that an earlier run was interrupted.
	Restored, Continued bool
	Broker              log.Broker
	Topics              *topics.Set
	// Handlers and Projections are the stages of the service. A projection that reads the
	// tables of another one comes after it.
	Handlers, Projections []engine.StageSpec
	// Delivered are, of handlers that hand records to another system, the offsets of the
	// records that they come to next: what is before is not handed out again, and what
	// comes from there on is left to the service. A partition that is not there begins at
	// the start of the log.
	Delivered map[string]map[pipeline.TopicPartition]int64
	// Empty are topics that the installation never had, and that may be empty.
	Empty []schema.Topic
	Log   *slog.Logger
	// Step is told what is being done, and Progress how many records more were read, from
	// several goroutines.
	Step     func(what string)
	Progress func(records int)
}

// Result is what was done.
type Result struct {
	Topics []TopicCount `json:"topics"`
	// Published are the events that the log lacked: the lost database had not sent them. They
	// wait in the outbox.
	Published int64 `json:"published"`
	// DerivedTwice is how many events that stages derived are in the log more than once, under
	// numbers of different databases: a service derived them again after the first one was lost,
	// or set back. The relay of one that stopped late may have left a few.
	DerivedTwice int64 `json:"derived_twice,omitempty"`
	// Breaks are the breaks of the log after which stages continued.
	Breaks []operator.Resolution `json:"breaks,omitempty"`
}

// TopicCount is how many records of a topic were read.
type TopicCount struct {
	Topic      schema.Topic `json:"topic"`
	Partitions int          `json:"partitions"`
	Records    int64        `json:"records"`
}

// Why a refill is refused.
var (
	// ErrHeadGone is wrapped where the log lacks its first records.
	ErrHeadGone = errors.New("the log does not have all records any more")
	// ErrEmptied is wrapped where a topic is empty that had records.
	ErrEmptied = errors.New("the log is not complete")
	// ErrHalted is wrapped where a stage of a restored database has halted: what an operator
	// decided since is not known.
	ErrHalted = errors.New("a stage had halted when the backup was made, or a service was started on the restored database: " +
		"start the service, and run \"pricemill stages skip\"")
	// ErrBegun is wrapped where a service was started on a restored database, and gave events.
	ErrBegun = errors.New("a service was started on the restored database, and may have derived events again: restore the backup again if it was not, " +
		"and else start the service and run \"pricemill stages skip\"")
	// ErrShorter is wrapped where the log ends before what a restored database has read.
	ErrShorter = errors.New("the log has lost its end since the backup was made: start the service, and run \"pricemill stages skip\"")
	// ErrMoved says that the ids of the events in the log follow from other topics.
	ErrMoved = errors.New("the events of stages in the log do not follow from its records: it was moved here from a table of a database, or copied, " +
		"and only that database knew from where: restore a backup of it, then run \"pricemill stages skip\"")
)

// Run fills the database. It can be run again after an error or a kill, and continues.
func Run(ctx context.Context, cfg Config) (Result, error) {
	if cfg.Step == nil {
		cfg.Step = func(string) {}
	}
	if cfg.Progress == nil {
		cfg.Progress = func(int) {}
	}
	r := &refiller{Config: cfg, ends: map[pipeline.TopicPartition]int64{}}
	err := r.run(ctx)
	return r.result, err
}

type refiller struct {
	Config
	result Result
	// ends are the ends of the log as it was found: nothing else writes to it.
	ends map[pipeline.TopicPartition]int64
	// published are the events of stages in the log.
	published *eventSet
	// stages are those that gave events which came through an outbox.
	stages map[string]bool
	// again says that an interrupted refill continues.
	again bool
	// held are, of a database that was restored, the lowest position of a stage on each partition.
	held map[pipeline.TopicPartition]int64
}

func (r *refiller) run(ctx context.Context) error {
	if err := CheckHeads(ctx, r.Broker, r.Topics.Names()); err != nil {
		return err
	}
	if err := r.look(ctx); err != nil {
		return err
	}
	if r.Restored {
		if err := r.hold(ctx); err != nil {
			return err
		}
	}
	if err := r.scan(ctx); err != nil {
		return err
	}
	if !r.Restored { // else the topics are those that the database knows
		if err := r.checkInputs(); err != nil {
			return err
		}
	}
	for _, stage := range r.handlersInOrder() {
		r.Step("filling " + stage.Name)
		if err := r.fill(ctx, stage, r.published.has); err != nil {
			return err
		}
		if r.Restored {
			continue
		}
		if err := r.checkOutputs(ctx); err != nil {
			return err
		}
		if !r.again && r.published.strange() { // else what is left to do may be new events
			return ErrMoved
		}
	}
	for _, stage := range r.Projections {
		r.Step("filling " + stage.Name)
		if err := r.fill(ctx, stage, nil); err != nil {
			return err
		}
	}
	if err := r.Store.Get(ctx, &r.result.Published, `SELECT COUNT(*) FROM outbox`); err != nil {
		return fmt.Errorf("counting the events that were published: %w", err)
	}
	return nil
}

// CheckHeads refuses a log whose topics do not have all their records any more, with an error that
// wraps ErrHeadGone. It writes nothing, so it can be asked before there is a database.
func CheckHeads(ctx context.Context, broker log.Broker, topics []schema.Topic) error {
	for _, topic := range slices.Sorted(slices.Values(topics)) {
		ranges, err := broker.Offsets(ctx, topic)
		if err != nil {
			return fmt.Errorf("asking for the ends of %s: %w", topic, err)
		}
		for part, held := range ranges {
			if held.Oldest > 0 {
				return fmt.Errorf("%w: %s begins at offset %d", ErrHeadGone, pipeline.TopicPartition{Topic: topic, Partition: int32(part)}, held.Oldest)
			}
		}
	}
	return nil
}

// look asks for the ends of the log.
func (r *refiller) look(ctx context.Context) error {
	for _, topic := range r.Topics.Names() {
		ranges, err := r.Broker.Offsets(ctx, topic)
		if err != nil {
			return fmt.Errorf("asking for the ends of %s: %w", topic, err)
		}
		count := TopicCount{Topic: topic, Partitions: len(ranges)}
		for part, held := range ranges {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
			r.ends[tp] = held.End
			count.Records += held.End
		}
		r.result.Topics = append(r.result.Topics, count)
	}
	return nil
}

// isEmpty reports whether a topic has no record, although it should, since it had some.
func (r *refiller) isEmpty(topic schema.Topic) bool {
	for _, count := range r.result.Topics {
		if count.Topic == topic {
			return count.Records == 0 && !slices.Contains(r.Empty, topic)
		}
	}
	return false
}

// checkInputs refuses a log with events of a stage whose topics are all empty: they were deleted,
// and created again.
func (r *refiller) checkInputs() error {
	for _, stage := range r.Handlers {
		if r.stages[stage.Name] && !slices.ContainsFunc(stage.Topics(), func(t schema.Topic) bool { return !r.isEmpty(t) }) {
			return fmt.Errorf("%w: it has events of stage %s, and nothing is on %s, which they follow from: it was deleted, and created again empty; its records are lost",
				ErrEmptied, stage.Name, stage.Topics()[0])
		}
	}
	return nil
}

// checkOutputs refuses a log without a single record of a topic that events were derived for. That
// they all still waited in the outbox is possible, but hardly so.
func (r *refiller) checkOutputs(ctx context.Context) error {
	var epochs []int64
	if err := r.Store.Select(ctx, &epochs, `SELECT DISTINCT epoch FROM outbox ORDER BY epoch`); err != nil {
		return fmt.Errorf("looking for the topics of what was not sent: %w", err)
	}
	for _, epoch := range epochs {
		if topic, known := r.Topics.AtEpoch(epoch); known && r.isEmpty(topic) {
			return fmt.Errorf("%w: nothing is on %s, and events follow that belong there: it was deleted, and created again empty, or the service had never sent one; "+
				"in that case, repeat the command with --allow-missing-topic and its name", ErrEmptied, topic)
		}
	}
	return nil
}

// handlersInOrder has those first whose own work published events: what follows from a
// failed request comes before what follows from a later answer, as it says which jobs fail.
func (r *refiller) handlersInOrder() []engine.StageSpec {
	rank := func(s engine.StageSpec) int {
		if _, ok := s.Handler.(pipeline.Refiller); ok {
			return 0
		}
		return 1
	}
	return slices.SortedStableFunc(slices.Values(r.Handlers), func(a, b engine.StageSpec) int { return cmp.Compare(rank(a), rank(b)) })
}

// fill brings a stage to the ends of its topics.
func (r *refiller) fill(ctx context.Context, stage engine.StageSpec, published func(id string) bool) error {
	delivered, delivers := r.Delivered[stage.Name]
	if delivers {
		stage.Handler = nothing{}
	}
	fill := engine.NewFill(engine.FillConfig{Store: r.Store, Broker: r.Broker, Topics: r.Topics, Stage: stage, Log: r.Log,
		Progress: r.Progress, Published: published})
	targets := maps.Clone(r.ends)
	maps.DeleteFunc(targets, func(tp pipeline.TopicPartition, _ int64) bool { return !slices.Contains(stage.Topics(), tp.Topic) })
	if delivers {
		at, err := r.positions(ctx, stage.Name)
		if err != nil {
			return err
		}
		for tp, end := range targets {
			// What is committed on Kafka may be a little before the position of a backup.
			targets[tp] = max(min(delivered[tp], end), at[tp])
		}
	}
	if err := fill.To(ctx, targets); err != nil {
		return err
	}
	r.result.Breaks = append(r.result.Breaks, fill.Breaks()...)
	from := r.held
	if r.Continued {
		from = nil // the earlier run may have moved positions, and not come to this
	}
	return fill.Refill(ctx, from, r.ends)
}

// hold reads what the database held when it was restored.
func (r *refiller) hold(ctx context.Context) error {
	positions, err := store.Positions(ctx, r.Store, "")
	if err != nil {
		return err
	}
	r.held = map[pipeline.TopicPartition]int64{}
	for _, p := range positions {
		tp := log.PartitionOf(p)
		if p.Halted != "" {
			return fmt.Errorf("%w: %s on %s: %s", ErrHalted, p.Stage, tp, p.Halted)
		}
		if topic, known := r.Topics.Topic(tp.Topic); !known || topic.ID != p.TopicID {
			continue // of a topic that is gone
		}
		if end, known := r.ends[tp]; known && p.Next > end {
			return fmt.Errorf("%w: %s has read %s up to offset %d, and it ends at %d", ErrShorter, p.Stage, tp, p.Next, end)
		}
		if at, known := r.held[tp]; !known || p.Next < at {
			r.held[tp] = p.Next
		}
	}
	return nil
}

// positions are those of a stage.
func (r *refiller) positions(ctx context.Context, stage string) (map[pipeline.TopicPartition]int64, error) {
	positions, err := store.Positions(ctx, r.Store, stage)
	at := map[pipeline.TopicPartition]int64{}
	for _, p := range positions {
		at[log.PartitionOf(p)] = p.Next
	}
	return at, err
}

// nothing stands for a handler whose effects are elsewhere.
type nothing struct{}

// Handle implements pipeline.Handler.
func (nothing) Handle(context.Context, *pipeline.Tx, []pipeline.Record) ([]schema.Event, error) {
	return nil, nil
}
