package stream_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
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
				runner := newHandler(t, remembering{scripts(sends(idle, 1, 2, 9), sends(idle, 20))}, nil)
				command(t, rig, runner, started("s", "p"))
				w := &world{Emitter: rig.Emitter()}
				stop := process(t, w, runner)
				settle(3 * time.Second)
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
				if stops {
					require.Len(t, all, 1)
				} else {
					require.Len(t, all, 2, "its gap, and that of its death")
				}
				last := all[0]
				if len(all) > 1 && all[1].To.After(last.To) {
					last = all[1]
				}
				assert.WithinDuration(t, seen.Add(-time.Minute).Time, last.From.Time, 5*time.Second)
				assert.WithinDuration(t, seen.Add(90*time.Second).Time, last.To.Time, 5*time.Second)
			})
		})
	}
}
