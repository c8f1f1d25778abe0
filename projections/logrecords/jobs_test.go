package logrecords

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestJobsComeToTheirState: whatever became of a job, the events that are given for it bring it to
// the same state, with as many runs.
func TestJobsComeToTheirState(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := schema.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 678_000, time.UTC))
		created := schema.PollingJobCreated{JobID: "j", Interval: rapid.IntRange(1, 90).Draw(t, "interval"), CreatedAt: now}
		state := schema.JobState{}.After(created)
		j := job{JobID: "j", Interval: created.Interval, CreatedAt: now}
		for range rapid.IntRange(0, 20).Draw(t, "events") {
			now = now.Add(time.Duration(rapid.Int64Range(0, 200_000_000).Draw(t, "later")) * time.Microsecond)
			var event schema.Payload
			switch rapid.IntRange(0, 6).Draw(t, "what") {
			case 0:
				event = schema.PollingJobPaused{JobID: "j", PausedAt: now}
			case 1:
				event = schema.PollingJobResumed{JobID: "j", ResumedAt: now}
			case 2:
				if rapid.IntRange(0, 3).Draw(t, "stop") > 0 {
					continue
				}
				event = schema.PollingJobStopped{JobID: "j", StoppedAt: now}
				if j.StoppedAt == nil {
					at := now
					j.StoppedAt = &at
				}
			default:
				if state.Status != schema.JobActive || state.NextRun.After(now) {
					continue
				}
				event = schema.PollingJobRan{JobID: "j", RanAt: now, Slot: state.NextRun}
				at := now
				j.Runs, j.LastRun = j.Runs+1, &at
			}
			state = state.After(event)
		}
		j.Status, j.NextRun = string(state.Status), state.NextRun
		got, runs := schema.JobState{}.After(created), 0
		var last *schema.Time
		var stopped *schema.Time
		for _, e := range j.since() {
			got = got.After(e)
			switch e := e.(type) {
			case schema.PollingJobRan:
				runs, last = runs+1, &e.RanAt
			case schema.PollingJobStopped:
				stopped = &e.StoppedAt
			}
		}
		require.Equal(t, state, got)
		require.Equal(t, j.Runs, runs)
		require.Equal(t, j.LastRun, last)
		require.Equal(t, j.StoppedAt, stopped)
	})
}
