package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/halt"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/operator"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/topics"
	"github.com/pricemill/pricemill/schema"
)

// FillConfig describes a Fill. Store, Broker, Topics, Stage and Log are required.
type FillConfig struct {
	Store  *store.Store
	Broker log.Broker
	Topics *topics.Set
	// Stage is the stage to fill, which nothing else runs.
	Stage StageSpec
	Log   *slog.Logger
	// Progress is told how many records more were read. It is called from several
	// goroutines.
	Progress func(records int)
	// Strict has the fill stop with ErrPoison before a record that a stage would
	// put into the dead letters.
	Strict bool
	// Published, if not nil, reports whether the log has the event of this id, which is then
	// not published again. It is called from several goroutines.
	Published func(id string) bool
	// Limit, if not nil, is how many records a second are read at the most.
	Limit *rate.Limiter
	// Beside says that other processes write to the database as well. Where
	// writers wait for each other, the fill then always rests, and otherwise only
	// where someone else in this process wrote.
	Beside bool
}

// Fill brings a stage to given places of the log, without a consumer group:
// partitions side by side, and otherwise by what runs a stage, from the rule of
// the chain to the dead letters. Where writers wait for each other, its
// transactions are one at a time, and short, with a rest after each for as long as
// it took; unless no one else writes: then they are longer, and without a rest.
// Elsewhere it rests while this process has other work: anyone who answers requests
// next to a fill needs the processor too.
type Fill struct {
	cfg   FillConfig
	stage *Stage
	turn  sync.Mutex
	// own are the transactions it began.
	own    atomic.Int64
	others others
	// seen is what others had written when it last looked, with turn taken.
	seen int64
	// alone says that no one else wrote between the last two looks.
	alone atomic.Bool
	// work is what the transactions took since turn was taken.
	work time.Duration
	// breaks are those it continued behind.
	breaks []operator.Resolution
}

// NewFill prepares a fill; nothing moves before To.
func NewFill(cfg FillConfig) *Fill {
	f := &Fill{cfg: cfg}
	f.stage = newStage(cfg.Stage, cfg.Store, cfg.Topics, cfg.Log, newMetrics(prometheus.NewRegistry()), func() {})
	f.stage.patience, f.stage.strict, f.stage.published = fillPatience, cfg.Strict, cfg.Published
	if cfg.Store.MaxWriteHold() > 0 {
		f.stage.worked = func(d time.Duration) { f.work += d }
	}
	if f.cfg.Progress == nil {
		f.cfg.Progress = func(int) {}
	}
	return f
}

const (
	// fillPatience is how long a database that does not answer is asked again.
	fillPatience = 30 * time.Second
	// fillBatch is the most records of a transaction. Where its time is bounded,
	// fillFirst are those of the first one, and fillLeast the fewest: on a machine
	// that is busy with other things, it takes long whatever it holds.
	fillBatch = 2000
	fillFirst = 100
	fillLeast = 20
)

// Targets that cannot be reached.
var (
	// ErrPast says that the stage stands after its target, since that went back.
	ErrPast = errors.New("it is past its target")
	// ErrBeyond says that the log does not reach so far.
	ErrBeyond = errors.New("the log does not reach so far")
)

// Breaks are the breaks of the log that the fill continued after, in the way in
// which an operator has a stage skip them.
func (f *Fill) Breaks() []operator.Resolution { return f.breaks }

// To fills the stage up to these offsets, whose partitions must be of its topics,
// and creates positions at the start of the log where it has none. Where the log
// broke before a target, stages continued after the break because an operator
// said so; the fill does the same, as with Skip, and Breaks reports it. ErrHalted is
// wrapped where that is no way.
func (f *Fill) To(ctx context.Context, targets map[pipeline.TopicPartition]int64) error {
	for {
		claims, err := f.claims(ctx, targets)
		if err != nil {
			return err
		}
		halted, err := f.session(ctx, claims, targets)
		if err != nil || len(halted) == 0 {
			return err
		}
		if err := f.resumeAt(ctx, halted); err != nil {
			return err
		}
	}
}

// claims are the partitions with a target.
func (f *Fill) claims(ctx context.Context, targets map[pipeline.TopicPartition]int64) ([]log.Claim, error) {
	topics := f.cfg.Stage.Topics()
	infos, err := f.cfg.Broker.Topics(ctx, topics)
	if err != nil {
		return nil, fmt.Errorf("looking at the topics: %w", err)
	}
	var claims []log.Claim
	var fresh []store.Position
	for _, topic := range topics {
		ranges, err := f.cfg.Broker.Offsets(ctx, topic)
		if err != nil {
			return nil, fmt.Errorf("asking for the ends of %s: %w", topic, err)
		}
		for part, held := range ranges {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
			target, wanted := targets[tp]
			if !wanted {
				continue
			}
			if target > held.End {
				return nil, fmt.Errorf("filling %s up to offset %d: %w: %s ends at %d", f.cfg.Stage.Name, target, ErrBeyond, tp, held.End)
			}
			claims = append(claims, log.Claim{TopicPartition: tp, TopicInfo: infos[topic], OffsetRange: held})
			fresh = append(fresh, f.start(tp, infos[topic].ID, held))
		}
	}
	return claims, f.cfg.Store.Write(ctx, func(tx *store.Tx) error { return f.cfg.Stage.create(ctx, tx, fresh) })
}

// start is a position at the start of what a partition holds.
func (f *Fill) start(tp pipeline.TopicPartition, topicID string, held log.OffsetRange) store.Position {
	p := store.Position{Stage: f.cfg.Stage.Name, Topic: string(tp.Topic), Part: tp.Partition, TopicID: topicID,
		Next: held.Oldest, MovedAt: schema.NewTime(time.Now())}
	if held.Oldest > 0 {
		p.Reached = chain.Link{}.In(chain.AnyNext)
	}
	return p
}

// session fills until all targets are reached or a partition halted, and returns
// those that did.
func (f *Fill) session(ctx context.Context, claims []log.Claim, targets map[pipeline.TopicPartition]int64) (map[pipeline.TopicPartition]bool, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	starts, err := f.stage.Assign(ctx, claims, func() {
		cancel(fmt.Errorf("filling %s: someone else moves its positions", f.cfg.Stage.Name))
	})
	if err != nil {
		return nil, err
	}
	s := fillSession{fill: f, targets: targets, halted: map[pipeline.TopicPartition]bool{}}
	lanes := map[int32][]pipeline.TopicPartition{}
	for _, claim := range claims {
		tp := claim.TopicPartition
		switch from, goes := starts[tp]; {
		case !goes:
			s.halted[tp] = true
		case from > targets[tp]:
			return nil, fmt.Errorf("filling %s up to offset %d of %s: %w: %d", f.cfg.Stage.Name, targets[tp], tp, ErrPast, from)
		case from < targets[tp]:
			lanes[tp.Partition] = append(lanes[tp.Partition], tp)
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, number := range slices.Sorted(maps.Keys(lanes)) {
		group.Go(func() error {
			for _, tp := range lanes[number] {
				if err := s.read(ctx, int(number), tp, starts[tp]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) {
			return nil, cause
		}
		return nil, err
	}
	return s.halted, nil
}

// resumeAt lets the stage continue after what it halted at.
func (f *Fill) resumeAt(ctx context.Context, halted map[pipeline.TopicPartition]bool) error {
	positions, err := store.Positions(ctx, f.cfg.Store, f.cfg.Stage.Name)
	if err != nil {
		return err
	}
	positions = slices.DeleteFunc(positions, func(p store.Position) bool { return !halted[log.PartitionOf(p)] })
	resolutions, err := operator.PlanAt(ctx, f.cfg.Store, f.cfg.Broker, f.cfg.Topics, halt.Skip, positions)
	if err != nil {
		return fmt.Errorf("filling %s: %w: %w", f.cfg.Stage.Name, ErrHalted, err)
	}
	f.breaks = append(f.breaks, resolutions...)
	return operator.ApplyResolutions(ctx, f.cfg.Store, resolutions)
}

// fillSession is one run over the partitions.
type fillSession struct {
	fill    *Fill
	targets map[pipeline.TopicPartition]int64

	mu     sync.Mutex
	halted map[pipeline.TopicPartition]bool
}

// errPaused ends reading a partition that halted.
var errPaused = errors.New("the partition halted")

// read brings one partition to its target.
func (s *fillSession) read(ctx context.Context, lane int, tp pipeline.TopicPartition, from int64) error {
	f := s.fill
	pace := pace{turn: f.cfg.Store.MaxWriteHold(), size: fillBatch}
	if pace.turn > 0 {
		pace.size = fillFirst
	}
	err := f.cfg.Broker.Read(ctx, tp, from, s.targets[tp], func(records []pipeline.Record) error {
		for len(records) > 0 {
			n := min(pace.next(f.alone.Load()), len(records))
			if err := s.apply(ctx, lane, records[:n:n], &pace); err != nil {
				return err
			}
			f.cfg.Progress(n)
			records = records[n:]
			if s.paused(tp) {
				return errPaused
			}
		}
		return nil
	})
	if errors.Is(err, errPaused) {
		return nil
	}
	return err
}

func (s *fillSession) paused(tp pipeline.TopicPartition) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.halted[tp]
}

// apply is what a stage does with a batch.
func (s *fillSession) apply(ctx context.Context, lane int, records []pipeline.Record, pace *pace) error {
	f := s.fill
	batch := &log.Batch{Lane: lane, Records: records, Pause: func(tp pipeline.TopicPartition) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.halted[tp] = true
	}}
	if err := f.wait(ctx, len(records)); err != nil {
		return err
	}
	f.stage.decode(records)
	if err := f.stage.prepare(ctx, batch); err != nil {
		return err
	}
	if pace.turn == 0 && !f.others.busy(f.written()) {
		f.own.Add(1)
		return f.stage.run(ctx, batch, records)
	}
	// One at a time, the rest included: two would take turns with each other.
	f.turn.Lock()
	defer f.turn.Unlock()
	f.work = 0
	f.own.Add(1)
	began := time.Now()
	if err := f.stage.run(ctx, batch, records); err != nil {
		return err
	}
	took := time.Since(began)
	if pace.turn > 0 {
		took = f.work // to wait for others is none
		pace.note(len(records), took)
		if f.alone.Store(!f.disturbs()); f.alone.Load() {
			return nil
		}
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(min(took, maxRest)):
		return nil
	}
}

// wait keeps to the limit.
func (f *Fill) wait(ctx context.Context, records int) error {
	for f.cfg.Limit != nil && records > 0 {
		n := min(records, max(1, f.cfg.Limit.Burst()))
		if err := f.cfg.Limit.WaitN(ctx, n); err != nil {
			return err
		}
		records -= n
	}
	return nil
}

// written is how many transactions others in this process began: one of the fill is
// one, and one that was tried again more.
func (f *Fill) written() int64 { return f.cfg.Store.Writes() - f.own.Load() }

// disturbs reports whether someone else wrote since it was last asked.
func (f *Fill) disturbs() bool {
	before := f.seen
	f.seen = f.written()
	return f.cfg.Beside || f.seen > before
}

// others are those who write next to a fill whose partitions go side by side.
type others struct {
	mu     sync.Mutex
	seen   int64
	at     time.Time
	active bool
}

const (
	// othersWindow is how long they are watched before it is said whether they work,
	// and restingWrites how often a second a service writes that has nothing to do.
	othersWindow  = 100 * time.Millisecond
	restingWrites = 20
)

// busy takes how often they have written, and reports whether they work.
func (o *others) busy(written int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	if passed := now.Sub(o.at); passed >= othersWindow {
		o.active = float64(written-o.seen) > restingWrites*passed.Seconds()
		o.seen, o.at = written, now
	}
	return o.active
}

// maxRest bounds a rest, as after a batch that was halved again and again.
const maxRest = 50 * time.Millisecond

// pace finds how many records fit into a transaction of some length.
type pace struct {
	turn time.Duration
	size int // what fits into a turn
}

// aloneTurns is how many turns a transaction may take while no one else writes:
// fewer commits, and less that one writes and the next one overwrites. Who comes then
// waits that long, once.
const aloneTurns = 5

// next is how many records the next transaction may have.
func (p *pace) next(alone bool) int {
	if p.turn > 0 && alone {
		return min(aloneTurns*p.size, fillBatch)
	}
	return p.size
}

// note has the next size follow from what the last one took, at most doubled.
func (p *pace) note(records int, took time.Duration) {
	fitting := int(float64(records) * float64(p.turn) / float64(max(took, time.Microsecond)))
	p.size = max(fillLeast, min(fitting, 2*p.size, fillBatch))
}
