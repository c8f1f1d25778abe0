package claim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

const (
	// Poll is how soon rows are seen that another process entered, ended or left; it is also
	// how often claims are renewed.
	Poll = 500 * time.Millisecond
	// Grace is how long what must be stored may take once work ends.
	Grace = 2 * time.Second
)

// errUnrenewed says that claims were not renewed for as long as they last.
var errUnrenewed = errors.New("the claims have ended, and others may own the rows")

// Run calls step until ctx is done: at once, every Poll, and when wake says so. step renews
// the claims of the owner, and has as long as they last. Until then its errors are logged;
// after that others may own the rows, and Run returns the error.
func (c Claims) Run(ctx context.Context, log *slog.Logger, wake <-chan struct{}, step func(context.Context) error) error {
	ticker := time.NewTicker(Poll)
	defer ticker.Stop()
	renewed := time.Now()
	last := errUnrenewed
	for {
		began := time.Now()
		left := c.Lasts - began.Sub(renewed)
		if left <= 0 { // this process was suspended, or the step before this one took all the time
			return fmt.Errorf("renewing the claims of %s: %w", c.Name, last)
		}
		err := within(ctx, left, step)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			renewed, last = began, errUnrenewed
		default:
			log.Warn("renewing the claims of "+c.Name, "error", err)
			last = err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-wake:
		case <-ticker.C:
		}
	}
}

func within(ctx context.Context, limit time.Duration, step func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return step(ctx)
}

// Graceful is a context for what must be stored once ctx is done: it lasts for Grace.
func Graceful(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), Grace)
}

// Task is the work on one row, in a goroutine of its own.
type Task struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

// Begin starts to work, until work returns, ctx is done, or Cancel is called. It calls ended
// after that.
func Begin(ctx context.Context, work func(context.Context), ended func()) *Task {
	ctx, cancel := context.WithCancel(ctx)
	t := &Task{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer ended()
		defer close(t.ended)
		defer cancel()
		work(ctx)
	}()
	return t
}

// Cancel asks the work to end.
func (t *Task) Cancel() { t.cancel() }

// Wait returns once the work has ended.
func (t *Task) Wait() { <-t.ended }

// HasEnded reports whether the work has ended.
func (t *Task) HasEnded() bool {
	select {
	case <-t.ended:
		return true
	default:
		return false
	}
}

// EndAll cancels tasks, and returns once all of them have ended.
func EndAll[T interface {
	Cancel()
	Wait()
}](tasks map[string]T) {
	for _, t := range tasks {
		t.Cancel()
	}
	for _, t := range tasks {
		t.Wait()
	}
}
