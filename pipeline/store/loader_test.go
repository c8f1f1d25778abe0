package store_test

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
)

// table answers the even keys with their texts, each statement when it is let go.
type table struct {
	release chan error

	mu    sync.Mutex
	asked [][]int // by the statements that have begun
}

func (t *table) read(ctx context.Context, keys []int) (map[int]string, error) {
	t.mu.Lock()
	t.asked = append(t.asked, keys)
	t.mu.Unlock()
	select {
	case err := <-t.release:
		if err != nil {
			return nil, err
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	answers := map[int]string{}
	for _, key := range keys {
		if key%2 == 0 {
			answers[key] = strconv.Itoa(key)
		}
	}
	return answers, nil
}

// loading is a loader, and the questions that were asked of it.
type loading struct {
	*table
	loader *store.Loader[int, string]
	mu     sync.Mutex
	given  map[int]string
	errs   map[int]error
}

func newLoading(bound int) *loading {
	t := &table{release: make(chan error)}
	return &loading{table: t, loader: store.NewLoader(bound, t.read), given: map[int]string{}, errs: map[int]error{}}
}

// ask asks one question after the other, and waits for none.
func (l *loading) ask(ctx context.Context, keys ...int) {
	for _, key := range keys {
		go func() {
			answer, err := l.loader.Load(ctx, key)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.given[key], l.errs[key] = answer, err
		}()
		synctest.Wait()
	}
}

// proceed gives one of the statements that have begun its answer.
func (l *loading) proceed(err error) {
	l.release <- err
	synctest.Wait()
}

func TestQuestionsShareAStatement(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoading(1)
		l.ask(t.Context(), 2)
		assert.Equal(t, [][]int{{2}}, l.asked, "the first does not wait")
		l.ask(t.Context(), 4, 5, 6)
		assert.Len(t, l.asked, 1)
		assert.Empty(t, l.given)

		l.proceed(nil)
		assert.Equal(t, map[int]string{2: "2"}, l.given, "no other is answered by what was asked before it came")
		assert.Equal(t, [][]int{{2}, {4, 5, 6, 6}}, l.asked, "those that came meanwhile are asked together")
		l.proceed(nil)
		assert.Equal(t, map[int]string{2: "2", 4: "4", 5: "", 6: "6"}, l.given)
		require.ErrorIs(t, l.errs[5], sql.ErrNoRows)
		delete(l.errs, 5)
		assert.Equal(t, map[int]error{2: nil, 4: nil, 6: nil}, l.errs)
	})
}

func TestAStatementHasABound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoading(2)
		for key := range 20 {
			l.ask(t.Context(), key)
		}
		assert.Equal(t, [][]int{{0}, {1}}, l.asked)
		for range 5 {
			l.proceed(nil)
		}
		assert.Equal(t, [][]int{{0}, {1}, {2, 3, 4, 5, 6, 7, 8, 9}, {10, 11, 12, 13, 14, 15, 16, 17}, {18, 19}}, l.asked)
		assert.Len(t, l.given, 20)
		l.ask(t.Context(), 20)
		l.proceed(nil)
		assert.Equal(t, "20", l.given[20], "it continues after it had nothing to do")
	})
}

func TestALoaderWithoutABound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoading(0)
		l.ask(t.Context(), 1, 2, 2)
		assert.Equal(t, [][]int{{1}, {2}, {2}}, l.asked, "each at once")
		for range 3 {
			l.proceed(nil)
		}
		assert.Equal(t, map[int]string{1: "", 2: "2"}, l.given)
		require.ErrorIs(t, l.errs[1], sql.ErrNoRows)
		require.NoError(t, l.errs[2])
	})
}

func TestAFailedStatementFailsItsQuestions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoading(1)
		l.ask(t.Context(), 2, 4)
		away := errors.New("the database is down")
		l.proceed(away)
		require.ErrorIs(t, l.errs[2], away)
		assert.Len(t, l.errs, 1)
		l.proceed(nil)
		require.NoError(t, l.errs[4])
	})
}

// TestSomeStopWaiting: the others get their answers, and what no one waits for
// ends or does not begin.
func TestSomeStopWaiting(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLoading(1)
		leaves, leave := context.WithCancel(t.Context())
		l.ask(leaves, 2)
		l.ask(leaves, 4)
		l.ask(t.Context(), 6)
		leave()
		synctest.Wait()
		require.ErrorIs(t, l.errs[2], context.Canceled)
		require.ErrorIs(t, l.errs[4], context.Canceled)
		assert.Equal(t, [][]int{{2}, {4, 6}}, l.asked, "the first statement has ended, and the next has begun")
		l.ask(leaves, 8)
		require.ErrorIs(t, l.errs[8], context.Canceled)
		l.proceed(nil)
		assert.Equal(t, "6", l.given[6], "although who came first has left")
		assert.Len(t, l.asked, 2, "nothing is asked that nothing waits for")
	})
}

func TestForEach(t *testing.T) {
	t.Parallel()
	const query = "SELECT a FROM t WHERE b = ? AND c = ? LIMIT 1"
	assert.Equal(t, "SELECT * FROM (SELECT a FROM t WHERE b = $1 AND c = $2 LIMIT 1) AS asked", store.ForEach(query, 1))
	assert.Equal(t, "SELECT * FROM (SELECT a FROM t WHERE b = $1 AND c = $2 LIMIT 1) AS asked UNION ALL "+
		"SELECT * FROM (SELECT a FROM t WHERE b = $3 AND c = $4 LIMIT 1) AS asked", store.ForEach(query, 2))
}
