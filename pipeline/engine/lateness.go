package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/operator"
)

const (
	// stageLate is from when on it is a warning that a record waits for a stage.
	stageLate = time.Minute
	// manyRecords is how many records must wait on a partition that moves before it is
	// looked at how long the first of them has.
	manyRecords = 1000
)

// checkLateness warns of stages that readers depend on and that a record has waited for
// too long, in whatever process they run. A halted partition has a check of its own.
func (r *Runtime) checkLateness(ctx context.Context, own ownStages) []Check {
	stages, err := operator.Status(ctx, r.cfg.Store, r.cfg.Broker)
	if err != nil {
		return []Check{{"lag", CheckWarning, err.Error()}}
	}
	now := time.Now()
	var checks []Check
	worst := map[string]time.Duration{}
	for _, s := range stages {
		if s.Halted != "" || s.Lag <= 0 || own.known && !slices.Contains(own.serving, s.Stage) {
			continue
		}
		if s.Lag < manyRecords && now.Sub(s.MovedAt.Time) < stageLate {
			continue
		}
		waited, err := r.waited(ctx, s, now)
		if err != nil {
			return append(checks, Check{"lag", CheckWarning, err.Error()})
		}
		if waited < stageLate || waited <= worst[s.Stage] {
			continue
		}
		worst[s.Stage] = waited
		check := Check{"lag of stage " + s.Stage, CheckWarning, fmt.Sprintf("%d records of %s/%d wait, the first of them for %v",
			s.Lag, s.Topic, s.Partition, waited.Round(time.Second))}
		if i := slices.IndexFunc(checks, func(c Check) bool { return c.Name == check.Name }); i >= 0 {
			checks[i] = check
		} else {
			checks = append(checks, check)
		}
	}
	return checks
}

// waited is how long the first record that a stage has not applied on a partition has
// waited; zero where it is gone.
func (r *Runtime) waited(ctx context.Context, s operator.StageStatus, now time.Time) (time.Duration, error) {
	var at time.Time
	tp := pipeline.TopicPartition{Topic: s.Topic, Partition: s.Partition}
	err := r.cfg.Broker.Read(ctx, tp, s.Position, s.Position+1, func(records []pipeline.Record) error {
		if len(records) > 0 {
			at = records[0].Timestamp
		}
		return nil
	})
	if errors.Is(err, log.ErrDamaged) {
		return 0, nil // its stage says so
	}
	if err != nil || at.IsZero() {
		return 0, err
	}
	return now.Sub(at), nil
}
