package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/schema"
)

// A handler holds a transaction, and on an engine with one writer all other writers
// wait for it. So a watchdog ends the transaction of a handler that does nothing in it
// for too long, whether the handler heeds its context or not, and the stage rests:
// others lose at most a tenth of their time to it.
const (
	// watchdogLimit is for engines with one writer; on the others the time limit of the
	// transaction is that of the handler too.
	watchdogLimit = 3 * time.Second
	// watchdogGrace is how long a handler may take to come back once its context is
	// done.
	watchdogGrace = 500 * time.Millisecond
	// watchdogRest is by how much a stage rests longer than it held everybody up.
	watchdogRest = 10
)

// watchdogError says that a handler lost its transaction.
type watchdogError struct {
	err error
	// back is closed when the handler came back after all.
	back <-chan struct{}
	// rest is how long the stage leaves the others alone.
	rest time.Duration
}

func (e *watchdogError) Error() string { return e.err.Error() }
func (e *watchdogError) Unwrap() error { return e.err }

// outcome is what a handler returned.
type outcome struct {
	events []schema.Event
	err    error
}

// handle runs the handler over records under the watchdog, which aborts the
// transaction after watchdogLimit without a statement.
func (s *Stage) handle(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	limit, rests := s.limit, s.db.MaxWriteHold() > 0
	if rests {
		limit = min(limit, s.watchdogLimit)
	}
	handling, stop := context.WithCancel(ctx)
	defer stop()
	came := make(chan outcome, 1)
	back := make(chan struct{})
	go func() {
		defer close(back)
		var o outcome
		o.err = guard(func() (err error) {
			o.events, err = s.spec.Handler.Handle(handling, tx, in)
			return err
		})
		came <- o
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	idle := time.Duration(0)
	for idle < limit && ctx.Err() == nil {
		select {
		case o := <-came:
			return o.events, o.err
		case <-ctx.Done():
		case <-timer.C:
		}
		idle = tx.Idle()
		timer.Reset(max(limit-idle, time.Millisecond))
	}
	stop()
	timer.Reset(watchdogGrace)
	lost := &watchdogError{back: back}
	if rests {
		lost.rest = watchdogRest * limit
	}
	select {
	case o := <-came:
		if o.err == nil || idle < limit/2 {
			// It came in time after all, or it was the database that took so long.
			return o.events, o.err
		}
		lost.err = fmt.Errorf("the handler did nothing in its transaction for %v: %w", idle.Round(time.Millisecond), o.err)
	case <-timer.C:
		abandon(tx)
		lost.err = fmt.Errorf("the handler did nothing in its transaction for %v, and has not come back since", idle.Round(time.Millisecond))
	}
	return nil, lost
}

// restAfter has the stage rest after an error that says so.
func (s *Stage) restAfter(err error) {
	var lost *watchdogError
	if errors.As(err, &lost) && lost.rest > 0 {
		s.mu.Lock()
		s.resting, s.restsFor = time.Now().Add(lost.rest), lost.err
		s.mu.Unlock()
	}
}

// rests returns an error while the stage rests. Lanes that wait for their turn to
// write when another one loses it ask after the wait as well.
func (s *Stage) rests() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := time.Until(s.resting); left > 0 {
		return pipeline.RetryAfter(left, fmt.Errorf("the stage rests: %w", s.restsFor))
	}
	return nil
}

// awaitReturn waits until the handler is back that lost its transaction: the lane
// has no second one for it.
func (s *Stage) awaitReturn(ctx context.Context, err error) {
	var lost *watchdogError
	if errors.As(err, &lost) {
		select {
		case <-ctx.Done():
		case <-lost.back:
		}
	}
}
