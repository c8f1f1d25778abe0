package deletion

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/google/uuid"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// The states of a deletion.
const (
	stateTables   = "tables"
	stateLog      = "log"
	stateFiles    = "files"
	stateFinished = "finished"
)

// Run deletes. After an error, it can be called again with the same Subject, and continues.
func Run(ctx context.Context, c Config) (Result, error) {
	d := &deleting{Config: c.withDefaults()}
	if err := d.begin(ctx); err != nil {
		return Result{}, err
	}
	if d.State == stateTables {
		if err := d.tables(ctx); err != nil {
			return Result{}, err
		}
	}
	if d.State == stateLog {
		if err := d.replace(ctx); err != nil {
			return Result{}, err
		}
	}
	if d.State == stateFiles {
		if err := d.files(ctx); err != nil {
			return Result{}, err
		}
	}
	n := d.counted
	return Result{DeletionID: d.ID, Resumed: d.resumed,
		Plan: Plan{Records: n.Records, Rows: n.Rows, Cleared: n.Cleared, Emptied: n.Emptied, Refilled: n.Refilled, Left: n.Left, Rewritten: n.Rewritten}}, nil
}

// deleting is one run.
type deleting struct {
	Config
	store.DeletionRecord
	counted deleted
	ends    map[schema.Topic][]int64
	resumed bool
}

// begin records the deletion, or takes up the one that was interrupted.
func (d *deleting) begin(ctx context.Context) error {
	former, there, err := Interrupted(ctx, d.Store)
	if err != nil {
		return err
	}
	if there {
		if of := (schema.Subject{Provider: former.Provider, Symbol: former.Symbol}); of != d.Subject {
			return fmt.Errorf("%w: finish that of %s first", ErrOther, of)
		}
		d.DeletionRecord, d.resumed = former, true
		if err := json.Unmarshal([]byte(former.Deleted), &d.counted); err != nil {
			return fmt.Errorf("reading deletion %s: %w", d.ID, err)
		}
		if d.counted.At.IsZero() { // an earlier version began it
			d.counted.At = former.BeganAt
		}
		d.ends, err = Ends(former)
		if err == nil && d.counted.Cluster != d.Cluster {
			err = fmt.Errorf("%w: its log is %s, and that of the settings is %s", ErrOther, logName(d.counted.Cluster), logName(d.Cluster))
		}
		return err
	}
	if d.Kafka != nil {
		if err := d.sendOutbox(ctx); err != nil {
			return err
		}
	}
	p, f, err := d.plan(ctx)
	switch {
	case err != nil:
		return err
	case len(p.Asking) > 0:
		return fmt.Errorf("%w: stop what asks for them first: %s", ErrRefused, p.Asking)
	case sum(p.Records)+sum(p.Rows) == 0:
		return fmt.Errorf("%w: of %s", ErrNothing, d.Subject)
	}
	var topics map[schema.Topic]*rewriting
	if d.Kafka != nil {
		if topics, err = d.prepare(ctx, p); err != nil {
			return err
		}
	}
	d.ends = f.ends
	ends, err := json.Marshal(f.ends)
	if err != nil {
		return fmt.Errorf("recording the deletion: %w", err)
	}
	d.counted = deleted{Records: map[schema.Topic]int64{}, Rows: map[string]int64{}, Cleared: map[string]int64{}, Emptied: map[string]int64{}, Refilled: p.Refilled, Left: p.Left, Jobs: sorted(f.jobs),
		At: schema.NewTime(d.Now()), Cluster: d.Cluster, Topics: topics, Rewritten: p.Rewritten}
	d.DeletionRecord = store.DeletionRecord{ID: uuid.NewString(), Provider: d.Subject.Provider, Symbol: d.Subject.Symbol, Reason: d.Config.Reason,
		RequestedBy: d.Config.RequestedBy, State: stateTables, Ends: string(ends), BeganAt: schema.NewTime(d.Now())}
	if err := d.event().Validate(); err != nil {
		return fmt.Errorf("recording the deletion: %w", err)
	}
	return d.write(ctx, "beginning", func(tx *store.Tx, counted string) error {
		first := d.DeletionRecord
		first.Deleted = counted
		return tx.BeginDeletion(ctx, first, d.recordedLog())
	})
}

// recordedLog is what the database records as its log.
func (c Config) recordedLog() string {
	if c.Kafka != nil {
		return c.Cluster
	}
	return store.TableLog
}

// logName is a log in words, by the id of its cluster.
func logName(cluster string) string {
	if cluster == "" {
		return "in the database"
	}
	return "the Kafka cluster " + cluster
}

// write runs f in a transaction, after a step, with what was counted so far as JSON.
func (d *deleting) write(ctx context.Context, step string, f func(tx *store.Tx, counted string) error) error {
	if err := d.Step(ctx, step); err != nil {
		return err
	}
	return d.Store.Write(ctx, func(tx *store.Tx) error {
		counted, err := json.Marshal(d.counted)
		if err != nil {
			return fmt.Errorf("recording the deletion: %w", err)
		}
		return f(tx, string(counted))
	})
}

// change runs f, which deletes and counts, in a transaction, and records the counts. What a
// transaction counts that fails does not count.
func (d *deleting) change(ctx context.Context, step string, f func(tx *store.Tx, counted *deleted) error) error {
	if err := d.Step(ctx, step); err != nil {
		return err
	}
	var after deleted
	err := d.Store.Write(ctx, func(tx *store.Tx) error {
		after = d.counted
		after.Rows, after.Cleared, after.Emptied = maps.Clone(after.Rows), maps.Clone(after.Cleared), maps.Clone(after.Emptied)
		if err := f(tx, &after); err != nil {
			return err
		}
		text, err := json.Marshal(after)
		if err != nil {
			return fmt.Errorf("recording the deletion: %w", err)
		}
		return tx.UpdateDeletion(ctx, d.ID, d.State, string(text))
	})
	if err == nil {
		d.counted = after
	}
	return err
}

// enter records that the deletion has come to a state.
func (d *deleting) enter(ctx context.Context, state string) error {
	err := d.write(ctx, "entering "+state, func(tx *store.Tx, counted string) error { return tx.UpdateDeletion(ctx, d.ID, state, counted) })
	if err == nil {
		d.State = state
	}
	return err
}

// files removes the bytes from the files of the database, and opens it to others again.
func (d *deleting) files(ctx context.Context) error {
	if d.Kafka != nil {
		if err := d.Step(ctx, "sending the event"); err != nil {
			return err
		}
		if err := d.sendOutbox(ctx); err != nil {
			return err
		}
	}
	if err := d.Step(ctx, "writing the files again"); err != nil {
		return err
	}
	tables, err := d.rewritten(ctx)
	if err != nil {
		return err
	}
	if err := d.Store.Scrub(ctx, append(tables, "outbox")); err != nil {
		return err
	}
	return d.write(ctx, "finishing", func(tx *store.Tx, counted string) error {
		if err := tx.UpdateDeletion(ctx, d.ID, stateFinished, counted); err != nil {
			return err
		}
		return tx.FinishDeletion(ctx, d.ID, schema.NewTime(d.Now()), d.recordedLog())
	})
}
