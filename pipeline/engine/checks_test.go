package engine

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/outbox"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// forgetfulBroker limits the retention of topics, or does not say, or does not
// answer at all.
type forgetfulBroker struct {
	log.Broker
	limited map[schema.Topic]string
	err     error
	away    error
}

func (b forgetfulBroker) Topics(ctx context.Context, _ []schema.Topic) (map[schema.Topic]log.TopicInfo, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		return nil, errors.New("asked without a limit")
	}
	return nil, b.away
}

func (b forgetfulBroker) LimitedRetention(ctx context.Context, topics []schema.Topic) (map[schema.Topic]string, error) {
	if _, bounded := ctx.Deadline(); !bounded || !slices.Contains(topics, schema.PriceEvents) {
		return nil, errors.New("asked without a limit, or not of all topics")
	}
	return b.limited, b.err
}

func TestChecksOfTheBroker(t *testing.T) {
	t.Parallel()
	well := Check{"broker", CheckOK, ""}
	away := errors.New("connection refused")
	for name, test := range map[string]struct {
		broker forgetfulBroker
		relays bool
		want   []Check
	}{
		"kept": {forgetfulBroker{}, false, []Check{well, {"topics", CheckOK, ""}}},
		"limited": {forgetfulBroker{limited: map[schema.Topic]string{schema.PriceEvents: "a day"}}, false,
			[]Check{well, {"topic price-events", CheckWarning, "a day"}}},
		"silent": {forgetfulBroker{err: errors.New("not allowed")}, true, []Check{well, {"topics", CheckWarning, "not allowed"}}},
		// Who only answers does without it; who works cannot.
		"away, for the API": {forgetfulBroker{away: away}, false, []Check{{"broker", CheckWarning, "connection refused"}}},
		"away, for a relay": {forgetfulBroker{away: away}, true, []Check{{"broker", CheckFailed, "connection refused"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := NewRig(t, &Recorder{})
			runtime, err := New(Config{Store: r.DB, Broker: test.broker, Topics: r.Stage.topics, Relay: test.relays,
				Log: slog.New(slog.DiscardHandler)})
			require.NoError(t, err)
			want := append([]Check{{"database", CheckOK, ""}, {"dead letters", CheckOK, ""}}, test.want...)
			if test.relays {
				want = append([]Check{{"relay", CheckOK, ""}}, want...)
			}
			assert.Equal(t, want, runtime.Checks(t.Context()))
		})
	}
}

// TestChecksOfAConsumer: a stage that cannot consume is in trouble until it can.
func TestChecksOfAConsumer(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.assign()
	require.NoError(t, r.Stage.Trouble())
	r.Stage.consuming(errors.New("connection refused"))
	require.EqualError(t, r.Stage.Trouble(), "consumer: connection refused")
	r.Stage.consuming(nil)
	require.NoError(t, r.Stage.Trouble())
}

// TestChecksAreOfThisProcess: a halt is a failure of a process that runs the stage,
// if readers depend on it. A process that runs other stages only warns of it.
func TestChecksAreOfThisProcess(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	r.Append(1, 5, nil) // the first four are missing
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
	require.NotEmpty(t, r.position(1).Halted)
	const halted = "stage test on price-events/1"
	elsewhere := StageSpec{Name: "elsewhere", Consumes: r.Stage.spec.Consumes, Handler: &Recorder{}}
	states := func(serving []string, failure error, stages ...StageSpec) (map[string]CheckState, string) {
		runtime, err := New(Config{Store: r.DB, Broker: r.Broker, Topics: r.Stage.topics, Stages: stages, Log: slog.New(slog.DiscardHandler),
			Serving: func(context.Context) ([]string, error) { return serving, failure }})
		require.NoError(t, err)
		found, workers := map[string]CheckState{}, ""
		for _, c := range runtime.Checks(t.Context()) {
			found[c.Name] = c.State
			if c.Name == "workers" {
				workers = c.Detail
			}
		}
		return found, workers
	}
	both := []string{"test", "elsewhere"}

	found, workers := states(both, nil)
	assert.Equal(t, CheckWarning, found[halted], "the role api alone")
	assert.Equal(t, CheckWarning, found["workers"])
	assert.Contains(t, workers, "no process runs stage test, stage elsewhere, the relay:")
	found, workers = states(both, nil, r.Stage.spec)
	assert.Equal(t, CheckFailed, found[halted], "it runs the stage")
	assert.Contains(t, workers, "no process runs stage elsewhere, the relay:")
	found, _ = states(both, nil, elsewhere)
	assert.Equal(t, CheckWarning, found[halted], "it runs another stage")
	found, _ = states([]string{"elsewhere"}, nil, r.Stage.spec)
	assert.Equal(t, CheckWarning, found[halted], "no reader depends on it")
	found, _ = states(nil, errors.New("connection refused"), r.Stage.spec)
	assert.Equal(t, CheckFailed, found[halted], "which stages serve is not known")
	assert.NotContains(t, found, "workers")

	// Another process relays, and runs one of the two.
	worker, err := New(Config{Store: r.DB, Broker: r.Broker, Topics: r.Stage.topics, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	worker.stages = []*Stage{r.Stage}
	held, err := r.DB.AcquireLease(t.Context(), outbox.LeaseName, "the worker", time.Hour)
	require.NoError(t, err)
	require.True(t, held)
	ctx, stop := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() { worker.announce(ctx); close(stopped) }()
	require.Eventually(t, func() bool {
		found, workers = states(both, nil)
		return strings.HasPrefix(workers, "no process runs stage elsewhere:")
	}, 20*time.Second, 5*time.Millisecond)
	found, _ = states([]string{"test"}, nil)
	assert.Equal(t, CheckOK, found["workers"])
	stop()
	<-stopped
	require.NoError(t, r.DB.RenewLeases(t.Context(), runningOwner, []string{runningPrefix + "test"}, -time.Second))
	_, workers = states(both, nil)
	assert.Contains(t, workers, "stage test", "its last process died, and its lease has run out")
}

// TestChecksOfADamagedDatabase: positions can be read, and another table cannot.
func TestChecksOfADamagedDatabase(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	require.NoError(t, r.DB.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
			INSERT INTO effects SELECT i, printf('%0200d', i), '1' FROM n`)
		return err
	}))
	other, err := sqlx.Open("sqlite", r.path)
	require.NoError(t, err)
	_, err = other.Exec("PRAGMA wal_checkpoint(TRUNCATE)")
	require.NoError(t, err)
	require.NoError(t, other.Close())
	info, err := os.Stat(r.path)
	require.NoError(t, err)
	file, err := os.OpenFile(r.path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = file.WriteAt(make([]byte, 4096), (info.Size()/4096-20)*4096)
	require.NoError(t, err)
	require.NoError(t, file.Close())
	runtime, err := New(Config{Store: r.DB, Broker: r.Broker, Topics: r.Stage.topics, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	var checks []Check
	require.Eventually(t, func() bool { // a look may take longer than an answer waits
		checks = runtime.Checks(t.Context())
		return checks[0].State == CheckFailed
	}, 20*time.Second, 10*time.Millisecond)
	assert.Equal(t, "database", checks[0].Name)
	assert.Contains(t, checks[0].Detail, "is damaged: stop the service and restore")
}

// TestChecksOfAPartitionThatFails: a consumer that fails at one partition without end
// is trouble, though the others continue. One error is none. Time is virtual.
func TestChecksOfAPartitionThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRig(t, &Recorder{})
		r.fill(1, 2)
		r.assign()
		fails := func(part int32) {
			r.Stage.consuming(&log.PartitionError{TopicPartition: pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: part}, Err: errors.New("CRC didn't match")})
		}
		for range 3 {
			fails(1)
			require.NoError(t, r.Stage.Trouble())
			time.Sleep(2 * time.Second)
		}
		fails(1)
		require.EqualError(t, r.Stage.Trouble(), "consuming price-events/1: CRC didn't match (for 6s)")
		r.Stage.consuming(nil) // a session begins again, and the partition fails again
		require.Error(t, r.Stage.Trouble())
		require.NoError(t, r.Deliver(t.Context(), r.LogOf(1)...))
		require.NoError(t, r.Stage.Trouble(), "its records come")

		fails(2)
		time.Sleep(stuckAfter)
		fails(2)
		require.Error(t, r.Stage.Trouble())
		time.Sleep(stuckMemory)
		require.NoError(t, r.Stage.Trouble(), "no error since, and no record")
		fails(2)
		require.NoError(t, r.Stage.Trouble(), "that was another time")

		for range 2 {
			for part := range int32(Partitions) {
				fails(part)
			}
			time.Sleep(stuckAfter)
		}
		troubles := strings.Split(r.Stage.Trouble().Error(), "\n")
		assert.Len(t, troubles, Partitions)
		assert.IsIncreasing(t, troubles)
	})
}

func TestChecksOfALateRelay(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		trouble error
		lag     time.Duration
		want    Check
	}{
		{nil, 0, Check{Name: "relay", State: CheckOK}},
		{nil, relayLate - time.Second, Check{Name: "relay", State: CheckOK}},
		{nil, relayLate, Check{"relay", CheckWarning, "events have waited in the outbox for 1m0s"}},
		{nil, relayFailed - time.Second, Check{"relay", CheckWarning, "events have waited in the outbox for 9m59s"}},
		{nil, relayFailed, Check{"relay", CheckFailed, "events have waited in the outbox for 10m0s"}},
		{assert.AnError, relayLate, Check{"relay", CheckFailed, assert.AnError.Error()}},
	} {
		assert.Equal(t, test.want, checkRelay(test.trouble, test.lag))
	}
}
