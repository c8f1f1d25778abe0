package audit

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

// An audit holds all that is kept in SQL, as of one moment, against the log: the
// chains, the positions, the outbox, the dead letters, and what each stage made
// of each record. No one is kept from working meanwhile.
//
// It goes by one snapshot S of the database, and by the ends of the log as they
// are read after S. What S knows to be in the log is there by then, since it was
// before S. What the log holds beyond S is recognized and left alone:
//
//   - a record at or after a stage's position in S was not applied in S, so
//     nothing in S follows from it;
//   - an event whose number is above the last one given in S was written by a
//     transaction that S does not see, and so was its position;
//   - an event whose number is not is in the log, or in the outbox of S, or in
//     both: the relay deletes a row only in the transaction that notes it as sent,
//     and only once it is in the log. So each is counted once, by its number.
type audit struct {
	Config
	// current are the chains in use, names all that there ever were, limited the
	// same with the last number of each, ends what the log holds.
	current        map[pipeline.TopicPartition]store.Chain
	names, limited map[pipeline.TopicPartition]chain.Timelines
	ends           map[schema.Topic][]log.OffsetRange
	// epochs is how many incarnations of a topic the database has seen.
	epochs    map[schema.Topic]int
	positions map[stagePartition]store.Position
	index     *eventIndex

	chains, places, letters *Finding
	deletions               *deletionAudit
	stages                  []*stageAudit

	mu sync.Mutex
	// foreign says that stages continued after what another state of the database
	// wrote.
	foreign bool
	// repeats are repeats whose event was not met before, late those of events
	// that are there under two numbers.
	repeats []place
	again   []place
}

// stagePartition is a partition as a stage sees it.
type stagePartition struct {
	stage string
	pipeline.TopicPartition
}

// place is where an event was met in the log, or in the outbox.
type place struct {
	pipeline.TopicPartition
	what string // offset 5, or number 7
	id   string
}

func (p place) String() string {
	return fmt.Sprintf("event %s at %s of %s", p.id, p.what, p.TopicPartition)
}

// Config describes an audit. All fields but Repeatable and Progress are
// required.
type Config struct {
	// View is the moment to look at.
	View   *store.Snapshot
	Broker log.Broker
	Topics *topics.Set
	// Stages are those of the service, the folds of projections among them.
	Stages []engine.StageSpec
	// Repeatable reports whether events of a source may come more than once, each
	// time through an outbox, as commands do that a client sends again.
	Repeatable func(source string) bool
	// Remaining counts rows, by table, that hold data of a subject, of tables whose rows
	// nothing else holds against the log. It may be nil.
	Remaining func(ctx context.Context, q store.Querier, of schema.Subject) (map[string]int64, error)
	// Progress is told how many records more were read, from several goroutines.
	Progress func(records int)
	// Most is how many differences of each kind are described.
	Most int
}

// CountBehind is what the finding of the positions counts the records as that
// stages have not come to.
const CountBehind = "records behind"

// errMoved says that the topics changed while they were looked at.
var errMoved = errors.New("the topics changed meanwhile: try again")

// Run returns a finding for the chains, the positions, and each stage. Its
// memory grows by the events that came through the outbox, some 40 bytes each.
func Run(ctx context.Context, cfg Config) ([]*Finding, error) {
	if cfg.Repeatable == nil {
		cfg.Repeatable = func(string) bool { return false }
	}
	if cfg.Progress == nil {
		cfg.Progress = func(int) {}
	}
	a := &audit{Config: cfg, index: newEventIndex(), chains: NewFinding("log", cfg.Most),
		places: NewFinding("positions", cfg.Most), letters: NewFinding("dead letters", cfg.Most)}
	if err := a.load(ctx); errors.Is(err, store.ErrUnreadable) {
		a.places.Differ("%v", err)
		a.places.Inconclusive("nothing can be held against the log without it")
		return []*Finding{a.places}, nil
	} else if err != nil {
		return nil, err
	}
	if err := a.loadDeletions(ctx); err != nil {
		return nil, err
	}
	for _, spec := range cfg.Stages {
		s, err := newStageAudit(ctx, a, spec)
		if err != nil {
			return nil, err
		}
		a.stages = append(a.stages, s)
	}
	// All events first: what follows from a record lies anywhere.
	if err := a.eachPartition(ctx, a.walkChain); err != nil {
		return nil, err
	}
	if err := a.oldOutbox(ctx); err != nil {
		return nil, err
	}
	a.judgeRepeats()
	a.checkPositions()
	if err := a.eachPartition(ctx, a.walkStages); err != nil {
		return nil, err
	}
	findings := []*Finding{a.chains, a.places, a.letters}
	for _, s := range a.stages {
		if err := s.end(ctx); err != nil {
			return nil, err
		}
		findings = append(findings, s.finding)
	}
	a.checkUnclaimed()
	deletions, err := a.endDeletions(ctx)
	if err != nil {
		return nil, err
	}
	if deletions != nil {
		findings = append(findings, deletions)
	}
	return findings, a.checkLetters(ctx)
}

// load reads what is small.
func (a *audit) load(ctx context.Context) error {
	positions, err := store.Positions(ctx, a.View, "")
	if err != nil {
		return err
	}
	a.positions = map[stagePartition]store.Position{}
	for _, p := range positions {
		a.positions[stagePartition{p.Stage, pipeline.TopicPartition{Topic: schema.Topic(p.Topic), Partition: p.Part}}] = p
	}
	known, err := store.KnownChains(ctx, a.View)
	if err != nil {
		return err
	}
	a.names, a.limited = halt.TimelinesOf(known, false), halt.TimelinesOf(known, true)
	if err := a.loadTopics(ctx); err != nil {
		return err
	}
	chains, err := store.Chains(ctx, a.View)
	if err != nil {
		return err
	}
	a.current = map[pipeline.TopicPartition]store.Chain{}
	for _, chain := range chains {
		if name, current := a.Topics.AtEpoch(chain.Epoch); current {
			a.current[pipeline.TopicPartition{Topic: name, Partition: chain.Part}] = chain
		}
	}
	// After the snapshot: see audit.
	a.ends = map[schema.Topic][]log.OffsetRange{}
	for _, name := range a.Topics.Names() {
		if a.ends[name], err = a.Broker.Offsets(ctx, name); err != nil {
			return fmt.Errorf("asking for the ends of %s: %w", name, err)
		}
		for part, held := range a.ends[name] {
			if held.Oldest > 0 {
				a.chains.NotChecked("%s/%d begins at offset %d: what was before is not looked at", name, part, held.Oldest)
			}
		}
	}
	return nil
}

// loadTopics looks whether the topics are those of the snapshot.
func (a *audit) loadTopics(ctx context.Context) error {
	topics, err := store.Topics(ctx, a.View)
	if err != nil {
		return err
	}
	a.epochs = map[schema.Topic]int{}
	newest := map[schema.Topic]store.Topic{}
	for _, topic := range topics { // by epoch
		a.epochs[schema.Topic(topic.Name)]++
		newest[schema.Topic(topic.Name)] = topic
	}
	infos, err := a.Broker.Topics(ctx, a.Topics.Names())
	if err != nil {
		return fmt.Errorf("looking at the topics: %w", err)
	}
	for _, name := range a.Topics.Names() {
		ours, _ := a.Topics.Topic(name)
		if ours != newest[name] || infos[name].ID != ours.ID {
			return fmt.Errorf("topic %s: %w", name, errMoved)
		}
	}
	return nil
}

// eachPartition calls f for all partitions, side by side.
func (a *audit) eachPartition(ctx context.Context, f func(context.Context, pipeline.TopicPartition, log.OffsetRange) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, name := range a.Topics.Names() {
		for part, held := range a.ends[name] {
			group.Go(func() error {
				tp := pipeline.TopicPartition{Topic: name, Partition: int32(part)}
				if err := f(ctx, tp, held); err != nil {
					return fmt.Errorf("looking through %s: %w", tp, err)
				}
				return nil
			})
		}
	}
	return group.Wait()
}

// startLink is where the chain begins in what a partition holds.
func startLink(held log.OffsetRange) chain.Link {
	if held.Oldest > 0 {
		return chain.Link{}.In(chain.AnyNext)
	}
	return chain.Link{}
}

// passed is up to where the stage that is furthest has gone.
func (a *audit) passed(tp pipeline.TopicPartition) int64 {
	next := int64(0)
	for at, p := range a.positions {
		if at.TopicPartition == tp && p.TopicID == a.topicID(tp) {
			next = max(next, p.Next)
		}
	}
	return next
}

func (a *audit) topicID(tp pipeline.TopicPartition) string {
	topic, _ := a.Topics.Topic(tp.Topic)
	return topic.ID
}

// judgeRepeats is for what can only be said once all events are known.
func (a *audit) judgeRepeats() {
	for _, r := range a.repeats {
		if !a.index.has(keyOf(r.id)) {
			a.chains.Missing("the %s has a number that another event has: no one applies it", r)
		}
	}
	for _, r := range a.again {
		if a.foreign {
			a.chains.NotChecked("stages continued after what another state of the database wrote: events that no stage derives may be there twice")
			return
		}
		a.chains.Duplicate("the %s is there under another number as well", r)
	}
}

// checkPositions holds all positions against the log.
func (a *audit) checkPositions() {
	names := make([]string, len(a.Stages))
	for i, spec := range a.Stages {
		names[i] = spec.Name
	}
	for at, p := range a.positions {
		a.places.Count("positions", 1)
		if !slices.Contains(names, p.Stage) {
			a.places.NotChecked("this binary does not have stage %s: what it did is not looked at", p.Stage)
		}
		if p.Halted != "" {
			a.places.Differ("%s has halted at offset %d of %s: %s", p.Stage, p.Next, at.TopicPartition, p.Halted)
		}
		ranges := a.ends[at.Topic]
		switch {
		case int(p.Part) >= len(ranges):
			a.places.Differ("%s is on %s, and there is no such partition", p.Stage, at.TopicPartition)
		case p.TopicID != a.topicID(at.TopicPartition):
			a.places.NotChecked("%s was created again, and %s is in the one that is gone", at.Topic, p.Stage)
		case p.Next > ranges[p.Part].End:
			a.places.Differ("%s is at offset %d of %s, and the log ends at %d", p.Stage, p.Next, at.TopicPartition, ranges[p.Part].End)
		case p.Next < ranges[p.Part].Oldest:
			a.places.Differ("%s is at offset %d of %s, and the log begins at %d", p.Stage, p.Next, at.TopicPartition, ranges[p.Part].Oldest)
		}
	}
	for _, spec := range a.Stages {
		for _, topic := range spec.Topics() {
			for part, held := range a.ends[topic] {
				p := a.positions[stagePartition{spec.Name, pipeline.TopicPartition{Topic: topic, Partition: int32(part)}}]
				a.places.Count(CountBehind, max(0, held.End-max(p.Next, held.Oldest)))
			}
		}
	}
}
