package requests_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

// spy counts the queries under way, and can stand in for their answer.
type spy struct {
	store.Querier
	running, most, total atomic.Int32
	instead              func(ctx context.Context, n int32) (handled bool, err error)
	after                func(n int32)
}

func (s *spy) Select(ctx context.Context, dest any, query string, args ...any) error {
	now := s.running.Add(1)
	defer s.running.Add(-1)
	s.most.Store(max(s.most.Load(), now))
	n := s.total.Add(1)
	if s.instead != nil {
		if handled, err := s.instead(ctx, n); handled {
			return err
		}
	}
	err := s.Querier.Select(ctx, dest, query, args...)
	if s.after != nil {
		s.after(n)
	}
	return err
}

// never is a process that commits nothing itself.
func never() <-chan struct{} { return nil }

// serve runs a waiter until the test's bubble ends it.
func serve(t *testing.T, db store.Querier, changed func() <-chan struct{}) (*requests.Waiter, func()) {
	t.Helper()
	w := requests.NewWaiter(db, changed, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { w.Run(ctx) })
	return w, func() { cancel(); run.Wait() }
}

type result struct {
	request requests.Request
	err     error
}

func wait(ctx context.Context, w *requests.Waiter, id string) <-chan result {
	answer := make(chan result, 1)
	go func() {
		r, err := w.Wait(ctx, id)
		answer <- result{r, err}
	}()
	return answer
}

func TestManyWaitForManyThroughOneQueryAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		db := &spy{Querier: f.DB}
		w, stop := serve(t, db, never)
		defer stop()
		const ids, each = 1200, 3 // more than fit one IN list
		var answers []<-chan result
		var outcomes []schema.Payload
		for i := range ids {
			id := fmt.Sprintf("r%d", i)
			outcomes = append(outcomes, observed(id, fmt.Sprint(i+1)))
			for range each {
				answers = append(answers, wait(t.Context(), w, id))
			}
		}
		synctest.Wait()
		f.apply(t, outcomes...)
		for i, answer := range answers {
			got := <-answer
			require.NoError(t, got.err)
			require.Equal(t, fmt.Sprintf("r%d", i/each), got.request.RequestID)
			require.Equal(t, fmt.Sprint(i/each+1), got.request.Price.String())
		}
		assert.EqualValues(t, 1, db.most.Load(), "queries at once")
		assert.Less(t, db.total.Load(), int32(ids), "queries in all")
	})
}

func TestAWaiterWhoseTimeIsUpIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		db := &spy{Querier: f.DB}
		w, stop := serve(t, db, never)
		defer stop()
		ctx, cancel := context.WithCancel(t.Context())
		impatient, patient := wait(ctx, w, "r"), wait(t.Context(), w, "r")
		synctest.Wait()
		cancel()
		gone := <-impatient
		require.ErrorIs(t, gone.err, context.Canceled)
		require.ErrorContains(t, gone.err, "request r")
		f.apply(t, failed("r", schema.CodeTimeout))
		got := <-patient
		require.NoError(t, got.err, "the other one waits on")
		assert.Equal(t, requests.Failed, got.request.State)

		ctx, cancel = context.WithCancel(t.Context())
		alone := wait(ctx, w, "never")
		synctest.Wait()
		cancel()
		<-alone
		time.Sleep(time.Second) // of the bubble's clock: Run has looked once more
		before := db.total.Load()
		time.Sleep(time.Minute)
		assert.Equal(t, before, db.total.Load(), "no one waits: no one asks")
	})
}

// The id is not known, then the request is pending, then its outcome is
// committed by a process whose commits we are not told of.
func TestAnOutcomeOfAnotherProcessIsSeen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		w, stop := serve(t, f.DB, never)
		defer stop()
		answer := wait(t.Context(), w, "r")
		synctest.Wait()
		f.apply(t, requested("r"))
		synctest.Wait()
		require.Empty(t, answer, "pending is no outcome")
		f.apply(t, unchanged("r", "A", "7"))
		got := <-answer
		require.NoError(t, got.err)
		assert.Equal(t, requests.Unchanged, got.request.State)
	})
}

// A commit right after a query that did not see it: the signal was fetched
// before, so the waiter asks again at once instead of at its next look.
func TestACommitBetweenQueryAndWaitIsNotMissed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		signal := make(chan struct{})
		var mu sync.Mutex
		db := &spy{Querier: f.DB}
		db.after = func(n int32) {
			if n == 1 {
				f.apply(t, observed("r", "1"))
				mu.Lock()
				close(signal)
				signal = make(chan struct{})
				mu.Unlock()
			}
		}
		w, stop := serve(t, db, func() <-chan struct{} { mu.Lock(); defer mu.Unlock(); return signal })
		defer stop()
		synctest.Wait()
		answer := wait(t.Context(), w, "r")
		synctest.Wait() // the clock stands still: no timer can have helped
		require.Len(t, answer, 1)
		require.NoError(t, (<-answer).err)
		assert.EqualValues(t, 2, db.total.Load())
	})
}

func TestTheyWaitOnWhileTheDatabaseDoesNotAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.apply(t, observed("r", "1"))
		db := &spy{Querier: f.DB, instead: func(_ context.Context, n int32) (bool, error) {
			return n <= 5, errors.New("connection refused")
		}}
		w, stop := serve(t, db, never)
		defer stop()
		got := <-wait(t.Context(), w, "r")
		require.NoError(t, got.err)
		assert.EqualValues(t, 6, db.total.Load())
	})
}

// TestALookThatHangsIsGivenUp: it holds no one up for longer than a second.
func TestALookThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		db := &spy{Querier: f.DB, instead: func(ctx context.Context, n int32) (bool, error) {
			if n > 1 {
				return false, nil
			}
			<-ctx.Done()
			return true, ctx.Err()
		}}
		f.apply(t, observed("r", "1"))
		w, stop := serve(t, db, never)
		defer stop()
		began := time.Now()
		got := <-wait(t.Context(), w, "r")
		require.NoError(t, got.err)
		assert.Equal(t, time.Second, time.Since(began).Truncate(100*time.Millisecond))
	})
}

// Run ends in the middle of a query; those who wait end with their own ctx.
func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		db := &spy{instead: func(ctx context.Context, _ int32) (bool, error) { <-ctx.Done(); return true, ctx.Err() }}
		w, stop := serve(t, db, never)
		ctx, cancel := context.WithCancel(t.Context())
		answer := wait(ctx, w, "r")
		synctest.Wait()
		stop() // returns: the bubble would report a deadlock
		require.Empty(t, answer)
		cancel()
		require.ErrorIs(t, (<-answer).err, context.Canceled)
	})
}
