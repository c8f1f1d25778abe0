package move

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
	"github.com/pricemill/pricemill/schema/migrations"
)

// mover is one run.
type mover struct {
	Config
	owner  string
	result Result
	// source is a snapshot of the source, and id and state what was found in it.
	source    *store.Snapshot
	id, state string
	// ids are, where the log goes to Kafka, the ids of its topics by those in the source.
	ids map[string]string
	// topics are those of the source, and ends the numbers of records of their partitions,
	// by epoch.
	topics []store.Topic
	ends   map[int64][]int64
}

// Run moves. After an error it can be called again: it continues, or starts over. The
// target belongs to no log until all of it was found equal to the source.
func Run(ctx context.Context, cfg Config) (Result, error) {
	m, err := newMover(ctx, cfg)
	if err != nil {
		return Result{}, err
	}
	defer m.close()
	if done, err := m.finishedBefore(ctx); done || err != nil {
		return m.result, err
	}
	release, err := m.lease(ctx)
	if err != nil {
		return Result{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	renewing := make(chan struct{})
	go func() { defer close(renewing); m.renew(ctx, cancel) }()
	if err = m.run(ctx); errors.Is(err, errAgain) && ctx.Err() == nil {
		err = m.run(ctx)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	cancel(nil)
	<-renewing
	return m.result, errors.Join(err, release())
}

func newMover(ctx context.Context, cfg Config) (*mover, error) {
	if cfg.Step == nil {
		cfg.Step = func(string) {}
	}
	if cfg.Progress == nil {
		cfg.Progress = func(int) {}
	}
	m := &mover{Config: cfg, owner: uuid.NewString(), ids: map[string]string{}}
	if err := m.look(ctx); err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

// look takes the first snapshot of the source, and what the move needs of it.
func (m *mover) look(ctx context.Context) (err error) {
	if m.source, err = m.Source.Snapshot(ctx); err != nil {
		return err
	}
	if err := checkVersion(ctx, m.source); err != nil {
		return err
	}
	if m.id, err = m.source.ID(ctx); err != nil {
		return err
	}
	if m.state, err = stateOf(ctx, m.source); err != nil {
		return err
	}
	if m.topics, err = store.Topics(ctx, m.source); err != nil {
		return err
	}
	if m.ends, err = endsOf(ctx, m.source, m.topics); err != nil {
		return err
	}
	return m.checkSource(ctx)
}

// lookAgain takes another snapshot, since one ends that nothing is asked of for minutes,
// and returns ErrChanged where it differs.
func (m *mover) lookAgain(ctx context.Context) error {
	m.close()
	var err error
	if m.source, err = m.Source.Snapshot(ctx); err != nil {
		return err
	}
	state, err := stateOf(ctx, m.source)
	if err == nil && state != m.state {
		err = ErrChanged
	}
	return err
}

// close ends the snapshot.
func (m *mover) close() {
	if m.source != nil {
		m.source.Close()
		m.source = nil
	}
}

// checkVersion refuses tables of another version than this program's.
func checkVersion(ctx context.Context, source *store.Snapshot) error {
	version, err := source.Version(ctx)
	if err != nil {
		return err
	}
	if newest := migrations.Newest(); version != newest {
		return fmt.Errorf("%w: its tables are of version %d, and those of this program of version %d: "+
			"bring the source up to date first, by pricemill migrate of this version", ErrSource, version, newest)
	}
	return nil
}

// checkSource refuses what would not be the same at the target.
func (m *mover) checkSource(ctx context.Context) error {
	names := map[string]store.Topic{}
	for _, topic := range m.topics {
		if other, twice := names[topic.Name]; twice {
			return fmt.Errorf("%w: topic %s has the epochs %d and %d, which no log in a table has", ErrSource, topic.Name, other.Epoch, topic.Epoch)
		}
		names[topic.Name] = topic
	}
	for _, t := range Treatments {
		if t.Kind != Empty {
			continue
		}
		rows, err := count(ctx, m.source, t.Table)
		if err != nil {
			return err
		}
		if rows > 0 {
			return fmt.Errorf("%w: table %s has %d rows, and should have none", ErrSource, t.Table, rows)
		}
	}
	return nil
}

// finishedBefore reports whether there is nothing to do.
func (m *mover) finishedBefore(ctx context.Context) (bool, error) {
	move, there, err := store.RecordedMove(ctx, m.Target)
	if err != nil || !there || move.FinishedAt == nil {
		return false, err
	}
	switch {
	case move.Source != m.id:
		return false, fmt.Errorf("%w: it was filled by the move of another installation: choose an empty database", ErrTarget)
	case move.Log != m.TargetLog:
		return false, fmt.Errorf("%w: a finished move put its log into %s, not into %s: choose an empty database", ErrTarget, move.Log, m.TargetLog)
	case move.State != m.state:
		return false, fmt.Errorf("%w: a move into it was finished at %v, and the source was used since: choose an empty database, or work with this one",
			ErrTarget, move.FinishedAt)
	}
	m.result.Start = Finished
	return true, m.countAll(ctx)
}

func (m *mover) run(ctx context.Context) error {
	if err := m.begin(ctx); err != nil {
		return err
	}
	if err := m.Choice.Make(ctx, m.Target); err != nil {
		return err
	}
	clusters, err := m.createTopics(ctx)
	if err != nil {
		return err
	}
	tables, err := m.tables(ctx)
	if err != nil {
		return err
	}
	for _, table := range tables {
		if err := m.copyTable(ctx, table); err != nil {
			return fmt.Errorf("copying %s: %w", table, err)
		}
	}
	if err := m.copyLog(ctx, clusters); err != nil {
		return err
	}
	if err := m.proveLog(ctx, clusters); err != nil {
		return err
	}
	if err := m.lookAgain(ctx); err != nil {
		return err
	}
	if err := m.proveTables(ctx, tables); err != nil {
		return err
	}
	if err := m.finish(ctx); err != nil {
		return err
	}
	return m.countAll(ctx)
}

// begin records the move, and empties a target that an earlier state of the source was
// moved to.
func (m *mover) begin(ctx context.Context) (err error) {
	if m.result.Start, err = m.start(ctx); err != nil || m.result.Start == Resumed {
		return err
	}
	if m.result.Start == Restarted {
		if err := m.empty(ctx); err != nil {
			return err
		}
	}
	now := store.MoveRecord{Source: m.id, State: m.state, Log: m.TargetLog, BeganAt: schema.NewTime(time.Now())}
	return m.write(ctx, func(tx *store.Tx) error { return tx.BeginMove(ctx, now) })
}

// start says how the move has to begin, by what the target holds.
func (m *mover) start(ctx context.Context) (Start, error) {
	former, there, err := store.RecordedMove(ctx, m.Target)
	switch {
	case err != nil:
		return "", err
	case !there:
		return Began, m.refuseContent(ctx)
	case former.Source != m.id:
		return "", fmt.Errorf("%w: the move of another installation into it was interrupted: finish that one, or choose an empty database", ErrTarget)
	case former.Log != m.TargetLog:
		return "", fmt.Errorf("%w: a move into it was interrupted that puts the log into %s, not into %s: finish that one, or choose an empty database",
			ErrTarget, former.Log, m.TargetLog)
	case former.State == m.state:
		return Resumed, nil
	}
	return Restarted, nil
}

// refuseContent refuses a target that holds anything.
func (m *mover) refuseContent(ctx context.Context) error {
	for _, t := range Treatments {
		if t.Kind == Fresh {
			continue
		}
		rows, err := count(ctx, m.Target, t.Table)
		if err != nil {
			return err
		}
		if rows > 0 {
			return fmt.Errorf("%w: it is not empty: table %s has %d rows; choose an empty database, or another schema of it (?search_path=)", ErrTarget, t.Table, rows)
		}
	}
	return nil
}

// empty deletes all that an interrupted move has brought.
func (m *mover) empty(ctx context.Context) error {
	m.Step("deleting what an earlier attempt moved")
	if err := m.deleteTopics(ctx); err != nil {
		return err
	}
	if err := m.Choice.Drop(ctx, m.Target); err != nil {
		return err
	}
	tables, err := m.tables(ctx)
	if err != nil {
		return err
	}
	for _, table := range tables {
		if err := m.write(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(ctx, "DELETE FROM "+table)
			return err
		}); err != nil {
			return fmt.Errorf("emptying %s: %w", table, err)
		}
	}
	return nil
}

// finish declares the target usable, if the source is as it was.
func (m *mover) finish(ctx context.Context) error {
	if err := m.lookAgain(ctx); err != nil {
		return err
	}
	return m.write(ctx, func(tx *store.Tx) error {
		for _, table := range numbered {
			last, err := m.source.LastID(ctx, table)
			if err != nil {
				return err
			}
			if err := tx.SetLastID(ctx, table, last); err != nil {
				return err
			}
		}
		return tx.FinishMove(ctx, schema.NewTime(time.Now()))
	})
}

// numbered are the tables that number their rows themselves.
var numbered = []string{"dead_letters"}
