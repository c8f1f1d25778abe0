package stream_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/handlers/stream"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// remembering is a scripted provider with a history.
type remembering struct{ *scripted }

func (remembering) History(context.Context, pipeline.HistoryRequest) (pipeline.HistoryPage, error) {
	panic("a stream does not ask for history itself")
}

// asked are the backfills that were asked for since the last call.
func asked(t testing.TB, rig *pipelinetest.Rig) []schema.BackfillStarted {
	t.Helper()
	var all []schema.BackfillStarted
	for _, event := range rig.Events(t, schema.PollingJobs) {
		if event, ok := event.Payload.(schema.BackfillStarted); ok {
			all = append(all, event)
		}
	}
	return all
}

// later is a script that continues after a pause.
func later(pause time.Duration, next streamFunc) streamFunc {
	return func(ctx context.Context, f func(pipeline.StreamMessage) error) error {
		for range int(pause / time.Second) {
			if err := f(alive()); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Second):
			}
		}
		return next(ctx, f)
	}
}

// What a stream missed is asked for once: one backfill of all gaps that follow each other
// within ten seconds, with a minute on either side.
func TestMissedTradesAreAskedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		began := schema.NewTime(time.Now())
		provider := remembering{scripts(sends(later(20*time.Second, sends(later(3*time.Second, sends(later(time.Minute, sends(idle, 30)), 14)), 9)), 1, 2, 3))}
		runner := newHandler(t, provider, nil)
		command(t, rig, runner, started("s", "p"))
		defer process(t, rig.Emitter(), runner)()
		settle(28 * time.Second)
		assert.Empty(t, asked(t, rig), "a gap may be followed by others")
		settle(10 * time.Second)
		first := asked(t, rig)
		require.Len(t, first, 1)
		require.NoError(t, first[0].Validate())
		assert.Equal(t, schema.Provider("p"), first[0].Provider)
		assert.Equal(t, schema.Symbol("A"), first[0].Symbol)
		assert.WithinDuration(t, began.Add(-time.Minute).Time, first[0].From.Time, time.Second)
		assert.WithinDuration(t, began.Add(83*time.Second).Time, first[0].To.Time, 2*time.Second)
		settle(2 * time.Minute)
		second := asked(t, rig)
		require.Len(t, second, 1, "and the gap of a minute later by another")
		assert.NotEqual(t, first[0].BackfillID, second[0].BackfillID)
		assert.EqualValues(t, 3, get(t, rig, "s").Gaps)
	})
}

// Nothing is asked for without gaps, of a provider without a history, or where the setting
// says so.
func TestNothingIsAskedFor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		provider pipeline.Provider
		settings map[string]any
	}{
		"no gap":       {remembering{scripts(sends(idle, 1, 2, 3))}, nil},
		"no history":   {scripts(sends(idle, 1, 5)), nil},
		"switched off": {remembering{scripts(sends(idle, 1, 5))}, map[string]any{"fill_gaps": false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rig := pipelinetest.New(t)
				runner := newHandler(t, test.provider, test.settings)
				command(t, rig, runner, started("s", "p"))
				defer process(t, rig.Emitter(), runner)()
				settle(time.Minute)
				assert.Empty(t, asked(t, rig))
				assert.Positive(t, get(t, rig, "s").Messages)
			})
		})
	}
}

// A gap outlives its owner: one that stops asks at once, and one that dies leaves it in the
// table to the next, which knows when the last trade came before it.
func TestAGapOutlivesItsOwner(t *testing.T) {
	t.Parallel()
	for name, stops := range map[string]bool{"that stops": true, "that dies": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				rig := pipelinetest.New(t)
				runner := newHandler(t, remembering{scripts(sends(later(6*time.Second, sends(idle, 10)), 1, 2, 9), sends(idle, 20))}, nil)
				command(t, rig, runner, started("s", "p"))
				w := &world{Emitter: rig.Emitter()}
				stop := process(t, w, runner)
				settle(8 * time.Second)
				require.Empty(t, asked(t, rig))
				w.dbFails.Store(!stops)
				stop()
				if stops {
					require.Len(t, asked(t, rig), 1)
				} else {
					require.Empty(t, asked(t, rig))
				}
				seen := schema.NewTime(time.Now())
				settle(30 * time.Second)
				defer process(t, rig.Emitter(), runner)()
				settle(time.Minute)
				assert.EqualValues(t, 2, get(t, rig, "s").Gaps)
				all := asked(t, rig)
				first := seen.Add(-time.Minute)
				if stops {
					require.Len(t, all, 1, "the gap between the two owners")
				} else { // its gap, and that of its death, which may belong to it
					require.NotEmpty(t, all)
					require.LessOrEqual(t, len(all), 2)
					first = first.Add(-8 * time.Second)
				}
				slices.SortFunc(all, func(a, b schema.BackfillStarted) int { return a.To.Compare(b.To) })
				assert.WithinDuration(t, first.Time, all[0].From.Time, 3*time.Second)
				assert.WithinDuration(t, seen.Add(90*time.Second).Time, all[len(all)-1].To.Time, 5*time.Second)
			})
		})
	}
}

// book has the lines of a log.
type book struct {
	mu    sync.Mutex
	lines []string
}

func (b *book) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lines = append(b.lines, string(line))
	return len(line), nil
}

// with are the lines that hold a text.
func (b *book) with(text string) (found []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, line := range b.lines {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

func newLogged(t testing.TB, p pipeline.Provider, settings map[string]any) (pipeline.Runner, *book) {
	t.Helper()
	b := &book{}
	h, err := stream.New(pipeline.Env{Now: time.Now, Log: slog.New(slog.NewTextHandler(b, nil)), Settings: settings,
		Provider: func(name schema.Provider) (pipeline.Provider, bool) { return p, name == "p" }})
	require.NoError(t, err)
	return h.(pipeline.Runner), b
}

// Of a gap that is longer than is filled the end is asked for, and the log says what is not.
func TestALongGap(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		runner, lines := newLogged(t, remembering{scripts(sends(idle, 1, 2), sends(idle, 9))}, map[string]any{"fill_at_most": "6h"})
		command(t, rig, runner, started("s", "p"))
		stop := process(t, rig.Emitter(), runner)
		settle(3 * time.Second)
		stop()
		last := schema.NewTime(time.Now())
		settle(48 * time.Hour)
		defer process(t, rig.Emitter(), runner)()
		settle(time.Minute)
		all := asked(t, rig)
		require.Len(t, all, 1)
		assert.Equal(t, 6*time.Hour, all[0].To.Sub(all[0].From.Time))
		assert.WithinDuration(t, last.Add(48*time.Hour+time.Minute).Time, all[0].To.Time, 5*time.Second)
		unfilled := lines.with("trades that a stream missed are not asked for")
		require.Len(t, unfilled, 1)
		assert.Contains(t, unfilled[0], "symbol=A")
		assert.Contains(t, unfilled[0], "to="+all[0].From.Format("2006-01-02T15:04:05"))
	})
}

// While a hundred backfills are under way a gap stays in the table, and what follows belongs to
// it. A stream that is stopped meanwhile says what is not filled.
func TestGapsWaitForOtherBackfills(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rig := pipelinetest.New(t)
		script := sends(later(30*time.Second, sends(later(2*time.Minute, sends(idle, 20)), 9)), 1, 2, 5)
		runner, lines := newLogged(t, remembering{scripts(script)}, nil)
		command(t, rig, runner, started("s", "p"))
		underWay := func(status string) {
			_, err := rig.Emitter().Emit(t.Context(), func(tx *pipeline.Tx) ([]schema.Event, error) {
				if status == "completed" {
					_, err := tx.Exec(t.Context(), `UPDATE backfills SET status = $1 WHERE backfill_id = 'b1'`, status)
					return nil, err
				}
				rows := store.Rows{Table: "backfills", Columns: []string{"backfill_id", "provider", "symbol", "from_time", "to_time", "status", "started_at"}}
				now := schema.NewTime(time.Now())
				for i := range 100 {
					rows.Add(fmt.Sprint("b", i), "p", "B", now, now, status, now)
				}
				return nil, tx.Insert(t.Context(), rows)
			})
			require.NoError(t, err)
		}
		underWay("active")
		began := schema.NewTime(time.Now())
		defer process(t, rig.Emitter(), runner)()
		settle(time.Minute)
		assert.EqualValues(t, 2, get(t, rig, "s").Gaps)
		assert.Empty(t, asked(t, rig))
		underWay("completed")
		settle(time.Second)
		all := asked(t, rig)
		require.Len(t, all, 1, "both gaps at once")
		assert.WithinDuration(t, began.Add(-time.Minute).Time, all[0].From.Time, time.Second)
		assert.WithinDuration(t, began.Add(90*time.Second).Time, all[0].To.Time, 2*time.Second)
		_, err := rig.Emitter().Emit(t.Context(), func(tx *pipeline.Tx) ([]schema.Event, error) {
			_, err := tx.Exec(t.Context(), `UPDATE backfills SET status = 'active' WHERE backfill_id = 'b1'`)
			return nil, err
		})
		require.NoError(t, err)
		settle(3 * time.Minute)
		assert.EqualValues(t, 3, get(t, rig, "s").Gaps)
		assert.Empty(t, asked(t, rig))
		require.Empty(t, lines.with("are not asked for"))
		command(t, rig, runner, stopped("s"))
		settle(time.Second)
		assert.Empty(t, asked(t, rig))
		assert.Len(t, lines.with("too many backfills are under way"), 1)
	})
}
