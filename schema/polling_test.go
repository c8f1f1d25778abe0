package schema_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/pricemill/pricemill/schema"
)

// A job created at 0 with a slot every 10 s, and what follows from its events.
func TestTheLifeOfAJob(t *testing.T) {
	t.Parallel()
	at := func(second int) schema.Time { return schema.NewTime(time.Unix(int64(second), 0)) }
	created := schema.PollingJobCreated{JobID: "j", Interval: 10, CreatedAt: at(0)}
	ran := func(slot, ranAt int) schema.Payload {
		return schema.PollingJobRan{JobID: "j", Slot: at(slot), RanAt: at(ranAt)}
	}
	paused := schema.PollingJobPaused{JobID: "j", PausedAt: at(5)}
	resumed := func(second int) schema.Payload { return schema.PollingJobResumed{JobID: "j", ResumedAt: at(second)} }
	stopped := schema.PollingJobStopped{JobID: "j", StoppedAt: at(5)}
	type events = []schema.Payload
	for name, test := range map[string]struct {
		events events
		status schema.JobStatus
		next   int
	}{
		"created":                           {events{created}, "active", 0},
		"created twice is created once":     {events{created, schema.PollingJobCreated{Interval: 99, CreatedAt: at(7)}}, "active", 0},
		"ran":                               {events{created, ran(0, 1)}, "active", 10},
		"ran late: slots are skipped":       {events{created, ran(0, 35)}, "active", 40},
		"a run heard of late":               {events{created, ran(10, 11), ran(0, 1)}, "active", 20},
		"paused":                            {events{created, ran(0, 1), paused}, "paused", 10},
		"paused twice":                      {events{created, paused, paused}, "paused", 0},
		"ran while the pause was under way": {events{created, paused, ran(0, 1)}, "paused", 10},
		"resumed before its slot":           {events{created, ran(0, 1), paused, resumed(9)}, "active", 10},
		"resumed on its slot":               {events{created, ran(0, 1), paused, resumed(10)}, "active", 20},
		"resumed long after":                {events{created, ran(0, 1), paused, resumed(95)}, "active", 100},
		"paused before it ever ran":         {events{created, paused, resumed(3)}, "active", 10},
		"resumed although it runs":          {events{created, ran(0, 1), resumed(95)}, "active", 10},
		"stopped":                           {events{created, ran(0, 1), stopped}, "stopped", 10},
		"nothing brings it back":            {events{created, stopped, resumed(9), paused, resumed(9), created}, "stopped", 0},
		"stopped while paused":              {events{created, paused, stopped}, "stopped", 0},
		"stopped, and a run under way":      {events{created, stopped, ran(0, 1)}, "stopped", 10},
	} {
		var state schema.JobState
		for _, event := range test.events {
			state = state.After(event)
		}
		assert.Equal(t, schema.JobState{Status: test.status, Interval: 10, NextRun: at(test.next)}, state, name)
	}
	for _, event := range (events{ran(0, 1), paused, resumed(1), stopped}) {
		assert.Zero(t, schema.JobState{}.After(event), "%T of a job that does not exist", event)
	}
}

// The next run is on the job's grid, after the last one, and no slot between.
func TestTheNextRunIsTheNextSlot(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		created := schema.NewTime(time.Unix(1_750_000_000, 0))
		interval := rapid.IntRange(1, schema.MaxPollingInterval).Draw(t, "interval")
		state := schema.JobState{}.After(schema.PollingJobCreated{Interval: interval, CreatedAt: created})
		step, now := time.Duration(interval)*time.Second, created
		for range 5 {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(1000*time.Hour)).Draw(t, "passed")))
			if state.NextRun.After(now) {
				continue
			}
			state = state.After(schema.PollingJobRan{Slot: state.NextRun, RanAt: now})
			require.True(t, state.NextRun.After(now))
			require.Zero(t, state.NextRun.Sub(created.Time)%step)
			require.LessOrEqual(t, state.NextRun.Sub(now.Time), step)
		}
	})
}

// Whatever time the events of a job name, its next run is one that an event can
// name: else one job would keep the scheduler from running all others.
func TestTheNextRunIsATimeThatEventsMayHold(t *testing.T) {
	t.Parallel()
	first, last := mustTime(t, "1000-01-01T00:00:00Z"), mustTime(t, "9999-12-31T23:59:59.999999Z")
	state := schema.JobState{}.After(schema.PollingJobCreated{Interval: 60, CreatedAt: first})
	far := state.After(schema.PollingJobPaused{}).After(schema.PollingJobResumed{ResumedAt: last})
	assert.Equal(t, last, far.NextRun, "9,000 years later there is no next slot")
	rapid.Check(t, func(t *rapid.T) {
		state := schema.JobState{}.After(schema.PollingJobCreated{
			Interval: rapid.IntRange(1, schema.MaxPollingInterval).Draw(t, "interval"), CreatedAt: times().Draw(t, "created")})
		for range 5 {
			at, slot := times().Draw(t, "at"), state.NextRun
			if rapid.Bool().Draw(t, "another slot") {
				slot = times().Draw(t, "slot")
			}
			state = state.After(schema.PollingJobRan{Slot: slot, RanAt: at})
			require.NoError(t, schema.PollingJobRan{JobID: "j", RanAt: at, Slot: state.NextRun}.Validate())
			state = state.After(schema.PollingJobPaused{}).After(schema.PollingJobResumed{ResumedAt: at})
			require.NoError(t, schema.PollingJobRan{JobID: "j", RanAt: at, Slot: state.NextRun}.Validate())
		}
	})
}

func TestJobOfRequest(t *testing.T) {
	t.Parallel()
	for request, job := range map[string]string{
		schema.JobRequestID("poll_abc12345", "41d46eb5-35c7-8461-abc5-870d69627de6"): "poll_abc12345",
		schema.JobRequestID("made.elsewhere", "1"):                                   "made.elsewhere",
		"41d46eb5-35c7-8461-abc5-870d69627de6":                                       "",
		"":                                                                           "",
	} {
		assert.Equal(t, job, schema.JobOfRequest(request), request)
	}
}
