package projections

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/audit"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// Rebuilder does the work of rebuilds: it fills, proves, and promotes those that
// are to be promoted by themselves. Any number of processes may have one; a
// rebuild is worked on by one of them, and taken over from one that was killed.
// What it has come to is in the database, so the next process begins where the last
// one committed.
type Rebuilder struct {
	CompareConfig
	// Projections are those of this binary; rebuilds of other folds are left alone.
	Projections []pipeline.Projection
	// Alone says that no one runs stages.
	Alone bool
}

const (
	// rebuildPoll is how soon a process sees that a rebuild was ordered or ended.
	rebuildPoll = 500 * time.Millisecond
	// rebuildTime is how long the work of a process that was killed waits.
	rebuildTime = 4 * time.Second
	// rebuildRounds is how often the end of the log is filled up to before the
	// generation follows it, unless it is nearer than rebuildNear records.
	rebuildRounds = 5
	rebuildNear   = 2000
	// consumerPatience is how long a rebuild waits for consumers before it serves.
	consumerPatience = 10 * time.Second
	consumerPoll     = 50 * time.Millisecond
)

// Run works on what rebuilds there are, one at a time, until ctx is done.
func (r *Rebuilder) Run(ctx context.Context) {
	ticker := time.NewTicker(rebuildPoll)
	defer ticker.Stop()
	for {
		if err := r.look(ctx); err != nil && ctx.Err() == nil {
			r.Log.Warn("rebuilding failed, trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look works on each rebuild that no one else works on.
func (r *Rebuilder) look(ctx context.Context) error {
	var rows []rebuildRow
	err := r.Store.Select(ctx, &rows, `SELECT `+rebuildColumns+` FROM rebuilds WHERE state IN ('running', 'proving', 'ready') ORDER BY created_at, id`)
	if err != nil {
		return fmt.Errorf("looking for rebuilds: %w", err)
	}
	var errs []error
	var left []string // whose tables someone held when they ended
	err = r.Store.Select(ctx, &left, `SELECT id FROM rebuilds WHERE state IN ('cancelled', 'failed') AND EXISTS (
		SELECT 1 FROM generations WHERE generations.projection = rebuilds.projection AND generations.number = rebuilds.number)`)
	if err != nil {
		return fmt.Errorf("looking for rebuilds that have ended: %w", err)
	}
	for _, id := range left {
		if err := sweep(ctx, r.Store, r.Projections, id); err != nil && !errors.Is(err, ErrNotFound) {
			errs = append(errs, err)
		}
	}
	// The list of prices first: others read it where a price was corrected.
	slices.SortStableFunc(rows, func(a, b rebuildRow) int {
		return asInt(b.Projection == PriceListName) - asInt(a.Projection == PriceListName)
	})
	for _, row := range rows {
		p, err := named(r.Projections, row.Projection)
		if err != nil || fingerprint(p) != row.Fold || row.State == RebuildReady && !row.due() {
			continue
		}
		if _, err := r.Work(ctx, row.ID); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// errRebuildTaken says that another process works on a rebuild.
var errRebuildTaken = errors.New("another process took the rebuild over")

// Work works on a rebuild until there is nothing left to do without a command, and
// reports whether it did: another process may have it, or it is another fold's, or
// has ended.
func (r *Rebuilder) Work(ctx context.Context, id string) (worked bool, err error) {
	return r.work(ctx, id, (*build).run)
}

// Fill is the first part of Work: it fills the generation up to where the log ends.
func (r *Rebuilder) Fill(ctx context.Context, id string) error {
	_, err := r.work(ctx, id, func(b *build, ctx context.Context) error {
		if err := b.begin(ctx); err != nil {
			return err
		}
		return b.reachEnd(ctx)
	})
	return err
}

func (r *Rebuilder) work(ctx context.Context, id string, run func(*build, context.Context) error) (worked bool, err error) {
	hold, err := acquireLease(ctx, r.Store, leaseOf(id), rebuildTime, errRebuildTaken)
	if err != nil || hold == nil {
		return false, err
	}
	defer func() {
		releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), rebuildTime)
		defer cancel()
		err = errors.Join(err, hold.release(releasing))
	}()
	row, err := getRow(ctx, r.Store, id)
	if err != nil {
		return true, err
	}
	p, err := named(r.Projections, row.Projection)
	if err != nil {
		return false, err
	}
	if !row.State.Open() || fingerprint(p) != row.Fold {
		return false, nil
	}
	held, release := hold.until(ctx)
	defer release()
	b := &build{Rebuilder: r, row: row, projection: p, hold: hold}
	working, stop := context.WithCancel(held)
	watched := make(chan struct{})
	filled := scratchStage(row.generation())
	go func() { defer close(watched); b.watch(working, filled, stop) }()
	err = run(b, working)
	stop()
	<-watched
	return true, b.settle(ctx, held, err)
}

// build is the work on one rebuild.
type build struct {
	*Rebuilder
	row        rebuildRow
	projection pipeline.Projection
	hold       *heldLease
	read       atomic.Int64
}

// errEnded says that someone has ended the rebuild.
var errEnded = errors.New("the rebuild was ended")

// settle decides what an error means. What may pass is tried again, by this process
// or another one.
func (b *build) settle(ctx, held context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return nil // the next process continues
	case held.Err() != nil:
		return context.Cause(held)
	}
	row, rowErr := getRow(ctx, b.Store, b.row.ID)
	switch {
	case rowErr != nil:
		return errors.Join(err, rowErr)
	case !row.State.Open():
		return nil // it was ended, which is why
	case errors.Is(err, engine.ErrPoison), errors.Is(err, engine.ErrHalted), b.Store.IsFull(err):
		b.Log.Error("a rebuild failed", "rebuild", row.ID, "error", err)
		return retrying(ctx, func() error {
			return b.Store.Write(ctx, func(tx *store.Tx) error {
				if err := errors.Join(tx.BoundLocks(ctx, lockWait), b.check(ctx, tx)); err != nil {
					return err
				}
				return row.end(ctx, tx, b.projection, RebuildFailed, err.Error())
			})
		})
	}
	_ = b.Store.Write(ctx, func(tx *store.Tx) error { return row.set(ctx, tx, row.State, err.Error()) }) // what is returned says it as well
	return fmt.Errorf("rebuild %s: %w", row.ID, err)
}

// check is for transactions that change what the rebuild has come to.
func (b *build) check(ctx context.Context, tx *store.Tx) error {
	if err := tx.LockSchema(ctx); err != nil {
		return err
	}
	return b.hold.check(ctx, tx)
}

// advance changes the row while it is in a state that is open.
func (b *build) advance(ctx context.Context, set string, args ...any) error {
	return b.Store.Write(ctx, func(tx *store.Tx) error {
		if err := b.check(ctx, tx); err != nil {
			return err
		}
		return b.update(ctx, tx, set, args...)
	})
}

func (b *build) update(ctx context.Context, tx *store.Tx, set string, args ...any) error {
	n := len(args)
	changed, err := tx.Exec(ctx, fmt.Sprintf(`UPDATE rebuilds SET %s, changed_at = $%d WHERE id = $%d AND state IN ('running', 'proving', 'ready')`, set, n+1, n+2),
		append(slices.Clone(args), schema.NewTime(time.Now()), b.row.ID)...)
	if err == nil && changed != 1 {
		err = errEnded
	}
	return err
}

// watch notes how fast it goes, and ends the work when someone ends the rebuild. It
// runs next to the work, whose row it does not look at but for the id.
func (b *build) watch(ctx context.Context, filled string, stop context.CancelFunc) {
	ticker := time.NewTicker(rebuildPoll)
	defer ticker.Stop()
	var pace rateMeter
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		positions, err := store.Positions(ctx, b.Store, filled)
		if err != nil {
			continue // it is only shown
		}
		speeds, err := json.Marshal(pace.observe(positions, time.Now()))
		if err == nil {
			err = b.Store.Write(ctx, func(tx *store.Tx) error { return b.update(ctx, tx, `speeds = $1`, string(speeds)) })
		}
		if errors.Is(err, errEnded) {
			stop()
			return
		}
	}
}

// run continues from wherever the rebuild is.
func (b *build) run(ctx context.Context) error {
	if b.row.State != RebuildReady {
		if err := b.begin(ctx); err != nil {
			return err
		}
		if b.row.Proof == "" {
			if err := b.prove(ctx); err != nil {
				return err
			}
		}
		if err := b.reachEnd(ctx); err != nil {
			return err
		}
		if err := b.follow(ctx); err != nil {
			return err
		}
	}
	if !b.row.due() {
		return nil
	}
	if err := b.awaitConsumers(ctx); err != nil {
		return err
	}
	err := PromoteRebuild(ctx, b.Store, b.Projections, b.row.ID, false)
	if err == nil {
		b.Log.Info("a rebuild serves", "rebuild", b.row.ID, "projection", b.row.Projection, "generation", b.row.Number)
	}
	return err
}

// begin notes where the log ends now: that is what progress is measured by.
func (b *build) begin(ctx context.Context) error {
	if b.row.Goals != "" {
		return nil
	}
	var goals []goal
	for _, topic := range topicsOf(b.projection) {
		ranges, err := b.Broker.Offsets(ctx, topic)
		if err != nil {
			return fmt.Errorf("asking for the ends of %s: %w", topic, err)
		}
		for part, held := range ranges {
			goals = append(goals, goal{topic, int32(part), held.Oldest, held.End})
		}
	}
	text, err := json.Marshal(goals)
	if err != nil {
		return fmt.Errorf("writing the goals of a rebuild: %w", err)
	}
	b.row.Goals = string(text)
	b.Log.Info("a rebuild begins", "rebuild", b.row.ID, "projection", b.row.Projection, "generation", b.row.Number)
	return b.advance(ctx, `goals = $1, error = ''`, b.row.Goals)
}

// newFill is the fill of its generation: the engine's fastest path.
func (b *build) newFill() *engine.Fill {
	cfg := engine.FillConfig{Store: b.Store, Broker: b.Broker, Topics: b.Topics, Stage: filling(b.projection, b.row.generation()),
		Log: b.Log, Strict: b.row.SkipPoison == 0, Beside: b.Beside, Progress: func(n int) {
			b.read.Add(int64(n))
			if b.Progress != nil {
				b.Progress(n)
			}
		}}
	if b.row.RateLimit > 0 {
		cfg.Limit = rate.NewLimiter(rate.Limit(b.row.RateLimit), max(1, b.row.RateLimit/10))
	}
	return engine.NewFill(cfg)
}

// prove fills up to where the generation that serves stands, and compares the two
// there. One that no one feeds may stand far after the end of the log.
func (b *build) prove(ctx context.Context) error {
	c, err := newComparison(ctx, b.CompareConfig, b.projection)
	if err != nil {
		return err
	}
	c.filled, c.fill, c.tolerant = b.row.generation(), b.newFill(), true
	if c.revised, err = b.row.revised(ctx, b.Store); err != nil {
		return err
	}
	// A second round, so that little is left to do while the snapshot is open.
	for range 2 {
		if err := c.Fill(ctx); err != nil {
			return err
		}
	}
	if err := b.advance(ctx, `state = $1, speeds = ''`, RebuildProving); err != nil {
		return err
	}
	finding, err := b.compare(ctx, c)
	if err != nil {
		return err
	}
	proof := RebuildProof{Against: c.serving.Number, Equal: finding.State == audit.Holds, Tables: []Proof{}, Found: finding.Found,
		Differences: append([]string{}, finding.Differences...), Unproven: finding.Unproven, Limits: finding.Limits}
	if tables, ok := finding.Tables.([]Proof); ok {
		proof.Tables = append(proof.Tables, tables...)
	}
	text, err := json.Marshal(proof)
	if err != nil {
		return fmt.Errorf("writing the proof of a rebuild: %w", err)
	}
	b.row.Proof, b.row.Equal, b.row.Whole = string(text), asInt(proof.Equal), asInt(len(proof.Limits) == 0)
	b.Log.Info("a rebuild was compared", "rebuild", b.row.ID, "equal", proof.Equal, "differences", proof.Found)
	return b.advance(ctx, `proof = $1, equal = $2, whole = $3`, b.row.Proof, b.row.Equal, b.row.Whole)
}

func (b *build) compare(ctx context.Context, c *Comparison) (*audit.Finding, error) {
	live, err := b.Store.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer live.Close()
	return c.Prove(ctx, live)
}

// reachEnd fills up to the end of the log, again and again while it moves away.
func (b *build) reachEnd(ctx context.Context) error {
	fill := b.newFill()
	for range rebuildRounds {
		before := b.read.Load()
		if err := fillToEnd(ctx, b.Broker, b.projection, fill); err != nil {
			return err
		}
		if b.read.Load()-before < rebuildNear {
			return nil
		}
	}
	return nil
}

// fillToEnd fills up to where the log ends now.
func fillToEnd(ctx context.Context, broker log.Broker, p pipeline.Projection, fill *engine.Fill) error {
	targets := map[pipeline.TopicPartition]int64{}
	for _, topic := range topicsOf(p) {
		ranges, err := broker.Offsets(ctx, topic)
		if err != nil {
			return fmt.Errorf("asking for the ends of %s: %w", topic, err)
		}
		for part, held := range ranges {
			targets[pipeline.TopicPartition{Topic: topic, Partition: int32(part)}] = held.End
		}
	}
	return fill.To(ctx, targets)
}

// awaitConsumers waits until processes feed the generation: readers would else wait
// for what is new. Where no process runs a stage, none feeds what serves either.
func (b *build) awaitConsumers(ctx context.Context) error {
	if b.Alone {
		return nil
	}
	running, err := engine.RunningStages(ctx, b.Store)
	if err != nil || len(running) == 0 {
		return err
	}
	for until := time.Now().Add(consumerPatience); time.Now().Before(until); {
		n, err := store.Unclaimed(ctx, b.Store, stageName(b.row.generation()))
		if err != nil || n == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(consumerPoll):
		}
	}
	return nil
}

// follow makes the generation a part of the service: its stage continues where the
// fill stands, in every process of this fold.
func (b *build) follow(ctx context.Context) error {
	g := b.row.generation()
	err := b.Store.Write(ctx, func(tx *store.Tx) error {
		if err := b.check(ctx, tx); err != nil {
			return err
		}
		for _, statement := range []string{`UPDATE positions SET stage = $1, claimed_at = NULL WHERE stage = $2`, `UPDATE dead_letters SET stage = $1 WHERE stage = $2`} {
			if _, err := tx.Exec(ctx, statement, stageName(g), scratchStage(g)); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `UPDATE generations SET following = 1 WHERE projection = $1 AND number = $2`, g.Projection, g.Number); err != nil {
			return err
		}
		return b.update(ctx, tx, `state = $1, speeds = '', error = ''`, RebuildReady)
	})
	if err == nil {
		b.row.State = RebuildReady
		b.Log.Info("a rebuild is ready", "rebuild", b.row.ID, "projection", g.Projection, "generation", g.Number)
	}
	return err
}
