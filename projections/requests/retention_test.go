package requests_test

import (
	"context"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/postgrestest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/store/postgres"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/projections/requests"
	"github.com/pricemill/pricemill/schema"
)

// newDatabase opens a database that holds nothing yet: SQLite, or, with
// PRICEMILL_TEST_SERVICES set, a schema of PostgreSQL.
func newDatabase(t *testing.T) *store.Store {
	t.Helper()
	if os.Getenv("PRICEMILL_TEST_SERVICES") == "" {
		return pipelinetest.OpenStore(t, filepath.Join(t.TempDir(), "db"))
	}
	opened, err := postgres.Open(t.Context(), postgres.Config{URL: postgrestest.Schema(t), MaxConns: 8})
	require.NoError(t, err)
	db, err := store.Open(t.Context(), pipelinetest.Clocked(opened))
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, db.Close()) })
	return db
}

// world is two read models of which retention deletes, and how they are fed.
type world struct {
	rig    *pipelinetest.Rig
	parts  []pipeline.Projection
	stages map[string]*pipelinetest.Stage
	clock  schema.Time
	keep   *projections.Retention
	told   map[string]int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{rig: pipelinetest.On(t, newDatabase(t)), stages: map[string]*pipelinetest.Stage{}, told: map[string]int{}}
	for _, module := range pipeline.Projections() {
		p, err := module.New(pipeline.Env{})
		require.NoError(t, err)
		if _, ok := p.(projections.Forgetful); !ok {
			continue // of another module that a package needs
		}
		spec, err := projections.Open(t.Context(), w.rig.DB, p)
		require.NoError(t, err)
		w.parts = append(w.parts, p)
		w.stages[p.Name()] = w.rig.Start(t, spec)
		t.Cleanup(func() { w.stages[p.Name()].Close(t) })
	}
	w.keep = &projections.Retention{Store: w.rig.DB, Projections: w.parts, Log: slog.New(slog.DiscardHandler),
		Keep: map[string]time.Duration{requests.Name: 10 * time.Second, jobs.Name: 10 * time.Second},
		Now:  func() time.Time { return w.clock.Time }, Deleted: func(name string, rows int) { w.told[name] += rows }}
	return w
}

// feed delivers what each read model takes of some records.
func (w *world) feed(t *testing.T, log []pipeline.Record) {
	t.Helper()
	for _, p := range w.parts {
		if taken := taken(p.Consumes(), log); len(taken) > 0 {
			require.NoError(t, w.stages[p.Name()].Deliver(taken...))
		}
	}
}

func taken(types []schema.EventType, log []pipeline.Record) (taken []pipeline.Record) {
	for _, r := range log {
		if slices.Contains(types, r.Event.Payload.EventType()) {
			taken = append(taken, r)
		}
	}
	return taken
}

// prove compares each table with what the whole log gives, and returns the proofs.
func (w *world) prove(t *testing.T, log []pipeline.Record, forgetting bool) (equal bool, proofs []projections.Proof) {
	t.Helper()
	equal = true
	for _, p := range w.parts {
		scratch, err := projections.TakeScratch(t.Context(), w.rig.DB, w.parts)
		require.NoError(t, err)
		g, spec, err := scratch.Create(t.Context(), p)
		require.NoError(t, err)
		fill := w.rig.Start(t, engine.StageSpec{Name: spec.Name, Consumes: spec.Consumes, Handler: spec.Handler})
		require.NoError(t, fill.Deliver(taken(p.Consumes(), log)...))
		fill.Close(t)
		live, err := w.rig.DB.Snapshot(t.Context())
		require.NoError(t, err)
		for _, table := range p.TableNames() {
			fresh, err := w.rig.DB.Snapshot(t.Context())
			require.NoError(t, err)
			condition := ""
			if forgetting {
				condition = p.(projections.Forgetful).Forgotten(table)
			}
			proof, err := projections.Prove(t.Context(), live, fresh, table, condition, pipeline.Generation{Projection: p.Name(), Number: 1, Active: true}, g, 5)
			require.NoError(t, err)
			fresh.Close()
			equal = equal && proof.Equal() && (proof.Hash == proof.FreshHash)
			proofs = append(proofs, proof)
		}
		live.Close()
		require.NoError(t, scratch.Release(t.Context()))
	}
	return equal, proofs
}

// draw gives events of jobs and requests, in the order of their times.
func draw(random *mrand.Rand) []schema.Payload {
	pick := func(all ...string) string { return all[random.IntN(len(all))] }
	var log []schema.Payload
	for second := range 60 {
		job := fmt.Sprintf("poll_%d", random.IntN(6))
		id := fmt.Sprintf("r%d", random.IntN(15))
		if random.IntN(2) == 0 {
			id = schema.JobRequestID(job, id)
		}
		switch pick("created", "created", "stopped", "paused", "ran", "asked", "asked", "price", "price", "failed", "unchanged") {
		case "created":
			log = append(log, schema.PollingJobCreated{JobID: job, Symbols: []schema.Symbol{"A"}, Interval: 60, Provider: "p", CreatedAt: at(second)})
		case "stopped":
			log = append(log, schema.PollingJobStopped{JobID: job, StoppedAt: at(second)})
		case "paused":
			log = append(log, schema.PollingJobPaused{JobID: job, PausedAt: at(second)})
		case "ran":
			log = append(log, schema.PollingJobRan{JobID: job, Slot: at(second), RanAt: at(second)})
		case "asked":
			log = append(log, schema.FetchRequested{Quote: quote(id, "A"), RequestedAt: at(second), Deadline: at(second + 2)})
		case "price":
			p := observed(id, "1")
			p.Timestamp, p.ReceivedAt = at(second), at(second)
			log = append(log, p)
		case "failed":
			f := failed(id, schema.CodeTimeout)
			f.FailedAt = at(second)
			log = append(log, f)
		case "unchanged":
			u := unchanged(id, "A", "1")
			u.ReceivedAt = at(second)
			log = append(log, u)
		}
	}
	return log
}

// Whatever is deleted, in whatever order the topics are read, and even if an outcome comes
// after its request was deleted: what is left is what the log says, and verify and rebuild
// say so.
func TestRetentionLeavesWhatTheLogSays(t *testing.T) {
	t.Parallel()
	hidden := 0
	for range 12 {
		seed := mrand.Uint64()
		random := mrand.New(mrand.NewPCG(seed, 0))
		w := newWorld(t)
		log := w.rig.AppendAll(t, draw(random)...)
		byTopic := map[schema.Topic][]pipeline.Record{}
		for i, next := range log {
			byTopic[next.Topic] = append(byTopic[next.Topic], next)
			w.clock = schema.NewTime(next.Event.Payload.OccurredAt().Time)
			for topic, waiting := range byTopic {
				if random.IntN(12) == 0 || i == len(log)-1 {
					w.feed(t, waiting)
					delete(byTopic, topic)
				}
			}
			if random.IntN(6) == 0 {
				require.NoError(t, w.keep.Sweep(t.Context()))
			}
		}
		for range 2 {
			require.NoError(t, w.keep.Sweep(t.Context()))
			equal, proofs := w.prove(t, log, true)
			require.True(t, equal, "seed %d: %+v", seed, proofs)
			for _, proof := range proofs {
				hidden += int(proof.Forgotten)
			}
			w.clock = w.clock.Add(time.Minute)
		}
		naive, _ := w.prove(t, log, false)
		assert.False(t, naive, "something was deleted")
		var left int
		require.NoError(t, w.rig.DB.Get(t.Context(), &left, `SELECT (SELECT COUNT(*) FROM requests) + (SELECT COUNT(*) FROM polling_jobs WHERE status = 'stopped')`))
		assert.NotZero(t, w.told[requests.Name])
		writes := w.rig.DB.Writes()
		w.clock = w.clock.Add(-time.Minute)
		require.NoError(t, w.keep.Sweep(t.Context()))
		assert.Equal(t, writes, w.rig.DB.Writes(), "where nothing is old, nothing is written")
	}
	assert.NotZero(t, hidden)
}

// A command that is repeated after its job was deleted starts nothing.
func TestADeletedJobDoesNotStartAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	created := schema.PollingJobCreated{JobID: "poll_a", Symbols: []schema.Symbol{"A"}, Interval: 60, Provider: "p", CreatedAt: at(0)}
	price := observed(schema.JobRequestID("poll_a", "1"), "1")
	w.feed(t, w.rig.AppendAll(t, created, price, schema.PollingJobStopped{JobID: "poll_a", StoppedAt: at(5)}))
	reader := jobs.Reader{DB: w.rig.DB}
	w.clock = at(15)
	require.NoError(t, w.keep.Sweep(t.Context()))
	job, err := reader.Get(t.Context(), "poll_a")
	require.NoError(t, err, "ten seconds are not over")
	assert.EqualValues(t, 1, job.Prices)

	w.clock = at(16)
	require.NoError(t, w.keep.Sweep(t.Context()))
	require.NoError(t, w.keep.Sweep(t.Context())) // what belongs to a job goes after it
	again := created
	again.CreatedAt = at(20)
	w.feed(t, w.rig.AppendAll(t, again, schema.PollingJobResumed{JobID: "poll_a", ResumedAt: at(21)}))
	_, err = reader.Get(t.Context(), "poll_a")
	require.ErrorIs(t, err, jobs.ErrForgotten)
	require.ErrorIs(t, err, projections.ErrNotFound)
	_, err = reader.Get(t.Context(), "poll_b")
	require.ErrorIs(t, err, projections.ErrNotFound)
	require.NotErrorIs(t, err, jobs.ErrForgotten)
	for _, table := range []string{"polling_jobs", "job_counts", "requests"} {
		var rows int
		require.NoError(t, w.rig.DB.Get(t.Context(), &rows, `SELECT COUNT(*) FROM `+table))
		assert.Zero(t, rows, table)
	}
}

// Forever is 0, and many rows go in small transactions.
func TestRetentionGoesInBatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	payloads := make([]schema.Payload, 1200)
	for i := range payloads {
		payloads[i] = requested(fmt.Sprintf("r%d", i))
	}
	w.feed(t, w.rig.AppendAll(t, payloads...))
	w.clock = at(1000)
	w.keep.Keep = nil
	require.NoError(t, w.keep.Sweep(t.Context()))
	rows := func() (n int) {
		require.NoError(t, w.rig.DB.Get(t.Context(), &n, `SELECT COUNT(*) FROM requests`))
		return n
	}
	assert.Equal(t, 1200, rows())
	w.keep.Keep = map[string]time.Duration{requests.Name: time.Hour}
	w.clock = at(3600)
	require.NoError(t, w.keep.Sweep(t.Context()))
	assert.Equal(t, 1200, rows(), "not quite old")
	w.clock = at(3602)
	before := w.rig.DB.Writes()
	require.NoError(t, w.keep.Sweep(t.Context()))
	assert.Zero(t, rows())
	assert.Equal(t, 1200, w.told[requests.Name])
	assert.GreaterOrEqual(t, w.rig.DB.Writes()-before, int64(3), "transactions")
}

func TestGet(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	log := f.AppendAll(t, requested("pending"), requested("priced"), observed("priced", "1.50"), rejected("rejected", schema.CodeBadPrice))
	require.NoError(t, f.stage.Deliver(log...))
	reader := requests.Reader{DB: f.DB}
	pending, err := reader.Get(t.Context(), "pending")
	require.NoError(t, err)
	assert.Equal(t, requests.Detail{Request: requests.Request{RequestID: "pending", Provider: "p", Symbol: "A", State: requests.Pending},
		AskedAt: at(1), Deadline: at(2)}, pending)
	priced, err := reader.Get(t.Context(), "priced")
	require.NoError(t, err)
	assert.Equal(t, at(1), priced.AskedAt)
	assert.Equal(t, at(4), priced.SettledAt)
	assert.Equal(t, log[2].Event.ID, priced.FactID)
	assert.Equal(t, &requests.Place{Topic: schema.PriceEvents, Partition: log[2].Partition, Offset: log[2].Offset}, priced.Outcome)
	other, err := reader.Get(t.Context(), "rejected")
	require.NoError(t, err)
	assert.Equal(t, "1", other.RawResponseID)
	assert.True(t, other.Deadline.IsZero(), "only the outcome is known")
	assert.Equal(t, at(6), other.AskedAt)
	assert.Equal(t, schema.QuoteOutcomes, other.Outcome.Topic)
	_, err = reader.Get(t.Context(), "none")
	require.ErrorIs(t, err, projections.ErrNotFound)
	require.NoError(t, reader.WaitCaughtUp(t.Context()))
	require.NoError(t, f.DB.Close())
	_, err = reader.Get(context.Background(), "pending")
	require.ErrorIs(t, err, projections.ErrUnavailable)
}
