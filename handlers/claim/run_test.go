package claim_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/claim"
)

var quiet = slog.New(slog.DiscardHandler)

// settle lets time pass, by the clock of the bubble.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// runs is a Run whose steps answer err.
type runs struct {
	wake  chan struct{}
	ended chan error

	mu    sync.Mutex
	err   error
	steps []time.Duration // what each had left
}

func (r *runs) answer(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *runs) all() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.steps)
}

func start(ctx context.Context, t *testing.T) *runs {
	t.Helper()
	claims, err := table.Claims()
	require.NoError(t, err)
	r := &runs{wake: make(chan struct{}, 1), ended: make(chan error, 1)}
	go func() {
		r.ended <- claims.Run(ctx, quiet, r.wake, func(ctx context.Context) error {
			deadline, _ := ctx.Deadline()
			r.mu.Lock()
			r.steps = append(r.steps, time.Until(deadline))
			err := r.err
			r.mu.Unlock()
			if errors.Is(err, context.DeadlineExceeded) {
				<-ctx.Done()
			}
			return err
		})
	}()
	synctest.Wait()
	return r
}

func TestRunStepsAtOnceAndThen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := start(ctx, t)
		assert.Len(t, r.all(), 1, "at once")
		settle(1700 * time.Millisecond)
		assert.Len(t, r.all(), 4, "twice a second")
		r.wake <- struct{}{}
		synctest.Wait()
		assert.Len(t, r.all(), 5, "and when it is woken")
		for _, left := range r.all()[1:] {
			assert.GreaterOrEqual(t, left, table.Lasts-claim.Poll)
		}
		cancel()
		require.NoError(t, <-r.ended)
	})
}

// Errors are borne for as long as the claims last, and no longer.
func TestRunEndsWhenClaimsDo(t *testing.T) {
	t.Parallel()
	down := errors.New("the database is down")
	for name, test := range map[string]struct{ err, want error }{
		"an error":               {down, down},
		"a step that never ends": {context.DeadlineExceeded, context.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r := start(ctx, t)
				r.answer(test.err)
				settle(2900 * time.Millisecond)
				require.Empty(t, r.ended)
				settle(200 * time.Millisecond)
				require.Len(t, r.ended, 1)
				require.ErrorIs(t, <-r.ended, test.want)
				assert.Less(t, slices.Min(r.all()), table.Lasts, "a step has what is left")
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		r := start(ctx, t)
		r.answer(down)
		settle(2400 * time.Millisecond)
		r.answer(nil)
		settle(time.Minute)
		require.Empty(t, r.ended, "and forgotten after one that was renewed")
		r.answer(down)
		settle(time.Second)
		cancel()
		require.NoError(t, <-r.ended, "no error of one that is to end")
	})
}

func TestTasks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ends := 0
		work := func(ctx context.Context) { <-ctx.Done(); time.Sleep(time.Second) }
		tasks := map[string]*claim.Task{
			"a": claim.Begin(t.Context(), work, func() { ends++ }),
			"b": claim.Begin(t.Context(), func(context.Context) {}, func() { ends++ }),
		}
		synctest.Wait()
		assert.True(t, tasks["b"].HasEnded())
		assert.False(t, tasks["a"].HasEnded())
		tasks["a"].Cancel()
		synctest.Wait()
		assert.False(t, tasks["a"].HasEnded(), "it may take its time")
		claim.EndAll(tasks)
		assert.True(t, tasks["a"].HasEnded())
		synctest.Wait()
		assert.Equal(t, 2, ends)
	})
}

func TestGrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		graceful, done := claim.Graceful(ctx)
		defer done()
		require.NoError(t, graceful.Err())
		settle(claim.Grace)
		require.ErrorIs(t, graceful.Err(), context.DeadlineExceeded)
	})
}
