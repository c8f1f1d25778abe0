package cmd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// rebuildVariable has the tests of rebuilds take their long form, with so many
// events: `make test-rebuild` sets it.
const rebuildVariable = "PRICEMILL_TEST_REBUILD"

func rebuildSize(short, long int) int {
	if os.Getenv(rebuildVariable) != "" {
		return long
	}
	return short
}

// fillPrices appends n prices straight to the log: of each symbol one a second, in
// the order of time.
func fillPrices(t testing.TB, env environment, n int) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	broker, err := dial(t.Context(), env)
	require.NoError(t, err)
	defer func() { assert.NoError(t, broker.Close()) }()
	ranges, err := broker.Offsets(t.Context(), schema.PriceEvents)
	require.NoError(t, err)
	partitions := int32(len(ranges))
	// CatchUp waits for the stages that it finds in the database.
	require.Eventually(t, func() bool {
		var n int32
		err := db.Get(t.Context(), &n, `SELECT COUNT(*) FROM positions WHERE topic = $1
			AND stage IN ('processed-prices.g1', 'latest-prices.g1', 'moving-averages.g1')`, schema.PriceEvents)
		return err == nil && n == 3*partitions
	}, time.Minute, 10*time.Millisecond, "the stages have come for their partitions")
	began := time.Now()
	start := time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC)
	random := rand.New(rand.NewPCG(7, 7))
	const chunk = 2000
	for from := 0; from < n; from += chunk {
		batches := make([]log.PartitionBatch, partitions)
		for p := range batches {
			batches[p].TopicPartition = pipeline.TopicPartition{Topic: schema.PriceEvents, Partition: int32(p)}
		}
		for i := from; i < min(n, from+chunk); i++ {
			at := schema.NewTime(start.Add(time.Duration(i/fedSymbols)*time.Second + time.Duration(i)*time.Microsecond))
			price := schema.PriceObserved{Symbol: schema.Symbol("S" + strconv.Itoa(i%fedSymbols)), Source: "simulated",
				Price: schema.MustDecimal(fmt.Sprintf("%d.%02d", 1+random.IntN(1000), random.IntN(100))), Timestamp: at, ReceivedAt: at,
				RawResponseID: strconv.Itoa(i)}
			headers, value, err := schema.Event{ID: "filled-" + strconv.Itoa(i), Source: "test", Payload: price}.Encode()
			require.NoError(t, err)
			b := &batches[kafka.Partition([]byte(price.Key()), partitions)]
			b.Records = append(b.Records, log.OutgoingRecord{Key: []byte(price.Key()), Headers: headers, Value: value})
		}
		batches = slices.DeleteFunc(batches, func(b log.PartitionBatch) bool { return len(b.Records) == 0 })
		require.NoError(t, errors.Join(broker.Send(t.Context(), batches)...))
	}
	require.NoError(t, engine.CatchUp(t.Context(), db, broker, nil, nil))
	t.Logf("%d prices in the log, and in all tables, after %v", n, time.Since(began))
}

// rebuild runs "pricemill rebuild" and returns what it said last.
func rebuild(t testing.TB, env environment, args ...string) (last projections.Rebuild, status int) {
	t.Helper()
	status, stdout, stderr := run(t, env, append([]string{"rebuild"}, args...)...)
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last), "status %d: %s\n%s", status, stdout, stderr)
	return last, status
}

// commandRebuild runs a command to a rebuild.
func commandRebuild(t testing.TB, env environment, args ...string) projections.Rebuild {
	t.Helper()
	status, stdout, stderr := run(t, env, append(append([]string{"rebuild"}, args...), "-o", "json")...)
	require.Zero(t, status, "%v: %s", args, stderr)
	var r projections.Rebuild
	require.NoError(t, json.Unmarshal([]byte(stdout), &r), stdout)
	return r
}

// startRebuild orders a rebuild by REST.
func (p *program) startRebuild(body string) string {
	p.t.Helper()
	got := p.post("/api/v1/rebuilds", body)
	require.Equal(p.t, http.StatusAccepted, got.status, got.body)
	return got.field(p.t, "id").(string)
}

// reaches waits until a rebuild is in a state.
func (p *program) reaches(id string, state projections.RebuildState) projections.Rebuild {
	p.t.Helper()
	var r projections.Rebuild
	require.Eventually(p.t, func() bool {
		got := p.get("/api/v1/rebuilds/" + id)
		return got.status == http.StatusOK && json.Unmarshal([]byte(got.body), &r) == nil && r.State == state
	}, time.Duration(rebuildSize(5, 30))*time.Minute, 20*time.Millisecond, "%s becomes %s: %+v", id, state, &r)
	return r
}

// hammer asks for averages until it is stopped: none may be refused, or empty, or
// older than one before it of the same symbol. It returns how long answers took.
func (p *program) hammer(stop <-chan struct{}) []time.Duration {
	newest := map[int]string{}
	var took []time.Duration
	for i := 0; ; i++ {
		select {
		case <-stop:
			return took
		default:
		}
		symbol := i % 20
		began := time.Now()
		got := p.get("/api/v1/prices/moving-average?provider=simulated&symbol=S" + strconv.Itoa(symbol))
		took = append(took, time.Since(began))
		var average struct{ Timestamp string }
		if !assert.Equal(p.t, http.StatusOK, got.status, got.body) || !assert.NoError(p.t, json.Unmarshal([]byte(got.body), &average)) {
			return took
		}
		at, err := schema.ParseTime(average.Timestamp)
		if !assert.NoError(p.t, err) {
			return took
		}
		if text := at.Format("2006-01-02T15:04:05.000000"); text < newest[symbol] {
			assert.Fail(p.t, "an older value", "S%d: %s behind %s", symbol, text, newest[symbol])
		} else {
			newest[symbol] = text
		}
	}
}

// percentile99 is what one in a hundred took longer than.
func percentile99(took []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(took))
	if len(sorted) == 0 {
		return 0
	}
	return sorted[len(sorted)*99/100]
}

// watched hammers with some readers while f runs, and returns what answers took.
func (p *program) watched(f func()) []time.Duration {
	stop := make(chan struct{})
	var mu sync.Mutex
	var all []time.Duration
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			took := p.hammer(stop)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	f()
	close(stop)
	readers.Wait()
	return all
}

// TestRebuildWhileTheServiceWorks: readers notice nothing of a rebuild, nor of the
// swaps that follow, while prices come in; and what serves is what the log says.
func TestRebuildWhileTheServiceWorks(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	events, swaps, rate := 5*feedRate, rebuildSize(5, 50), feedRate/5
	if text := os.Getenv(rebuildVariable); text != "" {
		var err error
		events, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	if onServices() {
		rate = feedRate
	}
	fillPrices(t, p.env, events)
	stop := make(chan struct{})
	fed := make(chan int, 1)
	answers := makeAnswersAt(rate, rand.New(rand.NewPCG(2, 2)), rate*rebuildSize(60, 1800), time.Now())
	go func() { fed <- feedAt(t, p.env, answers, rate, stop) }()
	before := p.watched(func() { pause(time.Duration(rebuildSize(1, 20)) * time.Second) })

	began := time.Now()
	var id string
	var built projections.Rebuild
	during := p.watched(func() {
		id = p.startRebuild(`{"projection":"moving-averages","promote":"if-equal"}`)
		built = p.reaches(id, projections.RebuildPromoted)
	})
	t.Logf("%d records rebuilt, proven and swapped in %v", built.Total, time.Since(began))
	assert.True(t, built.Proof.Equal)
	assert.Equal(t, built.Total, built.Done)
	swapping := p.watched(func() {
		for i := range swaps {
			command := []string{"rollback", "promote"}[i%2]
			got := p.post("/api/v1/rebuilds/"+id+"/"+command, "")
			require.Equal(t, http.StatusOK, got.status, "%s: %s", command, got.body)
		}
	})
	t.Logf("p99 of %d, %d and %d answers: %v before, %v during the rebuild, %v during %d swaps", len(before), len(during), len(swapping),
		percentile99(before), percentile99(during), percentile99(swapping), swaps)
	close(stop)
	t.Logf("%d prices came in meanwhile", <-fed)
	awaitDrained(t, p.env)
	p.eventually("/readyz", http.StatusOK)
	v, status := verify(t, p.env, "--projection", "moving-averages")
	assert.Zero(t, status, "%s", v)
	assertEqualGenerations(t, p.env)
}

// assertEqualGenerations: the generations of the averages hold the same.
func assertEqualGenerations(t testing.TB, env environment) {
	t.Helper()
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	var numbers []int
	require.NoError(t, db.Select(t.Context(), &numbers, `SELECT number FROM generations WHERE projection = 'moving-averages' AND active = 0 AND scratch = 0`))
	for _, number := range numbers {
		for _, table := range []string{"moving_averages", "moving_average_windows"} {
			view, err := db.Snapshot(t.Context())
			require.NoError(t, err)
			other, err := db.Snapshot(t.Context())
			require.NoError(t, err)
			proof, err := projections.Prove(t.Context(), view, other, table, "", pipeline.Generation{Active: true}, pipeline.Generation{Number: number}, 5)
			assert.NoError(t, err)
			assert.True(t, proof.Equal(), "%s of generation %d: %v", table, number, proof.First)
			view.Close()
			other.Close()
		}
	}
}

// TestRebuildOfAChangedFold: other settings are another fold. What was built by the
// old one serves until an operator promotes, and again after a rollback.
func TestRebuildOfAChangedFold(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.feed(oneEach(0, 20))
	p.stopped()
	env := p.env.with(environment{"MOVING_AVERAGE_WINDOW": "5,20", "REBUILD_PROMOTE": "manual"})
	p = start(t, env)
	p.eventually("/readyz", http.StatusOK)
	var all struct{ Items []projections.Rebuild }
	require.NoError(t, json.Unmarshal([]byte(p.get("/api/v1/rebuilds").body), &all))
	require.Len(t, all.Items, 1)
	id := all.Items[0].ID
	r := p.reaches(id, projections.RebuildReady)
	assert.False(t, r.Proof.Equal)
	assert.Equal(t, int64(80), r.Proof.Tables[0].Missing, "the averages of 20 prices")
	assert.Len(t, r.Proof.Differences, 20)

	// What comes now is not in what serves, and that is said.
	p.get("/api/v1/prices/latest?symbol=NEW")
	average := "/api/v1/prices/moving-average?symbol=S0&provider=simulated"
	require.Eventually(t, func() bool { return p.get(average).header.Get("Age") != "" }, 20*time.Second, 20*time.Millisecond)
	assert.Contains(t, p.get("/readyz").body, `"projection moving-averages","state":"warning","reason":"generation 1 serves, which was built by \"v4 windows=[5]\"`)
	p.eventually("/readyz", http.StatusOK)

	kept := func() (n int) {
		db := openTables(t, env)
		defer func() { assert.NoError(t, db.Close()) }()
		require.NoError(t, db.Get(t.Context(), &n, `SELECT COUNT(DISTINCT window_size) FROM moving_averages`))
		return n
	}
	assert.Equal(t, 1, kept())
	assert.Equal(t, projections.RebuildPromoted, commandRebuild(t, env, "promote", id).State)
	assert.Equal(t, 2, kept())
	require.Eventually(t, func() bool { return p.get(average).header.Get("Age") == "" }, 20*time.Second, 20*time.Millisecond)
	refused := p.post("/api/v1/rebuilds/"+id+"/rollback", "")
	assert.Equal(t, http.StatusConflict, refused.status)
	assert.Contains(t, refused.body, "lacks 1 records: it is behind what serves now")
	assert.Equal(t, projections.RebuildRolledBack, commandRebuild(t, env, "rollback", id, "--stale").State)
	assert.Equal(t, 1, kept())
	assert.Equal(t, projections.RebuildPromoted, commandRebuild(t, env, "promote", id).State)
	assert.Equal(t, 2, kept())
	status, _, stderr := run(t, env, "generations", "drop", "moving-averages", "1")
	assert.Zero(t, status, stderr)
	awaitDrained(t, env)
	proven(t, env)
}

// TestRebuildAfterADelete: what an operator deleted comes back.
func TestRebuildAfterADelete(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	fillPrices(t, p.env, 2000)
	before, status := rebuild(t, p.env, "moving-averages", "--promote", "if-equal")
	require.Zero(t, status)
	db := openTables(t, p.env)
	defer func() { assert.NoError(t, db.Close()) }()
	require.NoError(t, db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(t.Context(), `DELETE FROM moving_averages`)
		return err
	}))
	refused, status := rebuild(t, p.env, "moving-averages", "--promote", "if-equal")
	assert.Equal(t, 1, status)
	assert.Equal(t, int64(2000), refused.Proof.Tables[0].Missing)
	commandRebuild(t, p.env, "cancel", refused.ID)
	after, status := rebuild(t, p.env, "moving-averages", "--promote", "auto")
	assert.Zero(t, status)
	assert.Equal(t, projections.RebuildPromoted, after.State)
	assert.Equal(t, before.Proof.Tables[0].FreshHash, after.Proof.Tables[0].FreshHash)
	assert.Equal(t, before.Proof.Tables[1].FreshHash, after.Proof.Tables[1].FreshHash)
	proven(t, p.env)
}

// TestRebuildWithoutAService: the command does the work itself.
func TestRebuildWithoutAService(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	fillPrices(t, p.env, 1000)
	p.stopped()
	r, status := rebuild(t, p.env, "moving-averages", "--promote", "if-equal")
	assert.Zero(t, status)
	assert.Equal(t, projections.RebuildPromoted, r.State)
	assert.Equal(t, int64(1000), r.Done)
	status, stdout, stderr := run(t, p.env, "generations", "list", "-o", "json")
	require.Zero(t, status, stderr)
	assert.Contains(t, stdout, `"number": 2`)
	for _, args := range []string{"rebuild nope", "rebuild moving-averages --promote never", "rebuild moving-averages --rate -1", "generations drop moving-averages x"} {
		status, _, _ := run(t, p.env, strings.Fields(args)...)
		assert.Equal(t, 2, status, args)
	}
	for _, args := range []string{"rebuild promote rebuild_none", "generations drop moving-averages 2", "generations drop moving-averages 7"} {
		status, _, stderr := run(t, p.env, strings.Fields(args)...)
		assert.Equal(t, 1, status, "%s: %s", args, stderr)
	}
	p = start(t, p.env)
	p.eventually("/readyz", http.StatusOK)
	proven(t, p.env)
}

// TestRebuildMeetsPoison: a record that the service skipped stops a rebuild,
// which names it, unless it is to skip it as well. All projections are built
// again.
func TestRebuildMeetsPoison(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	live(t, p)
	r, status := rebuild(t, p.env, "moving-averages", "--promote", "auto")
	assert.Equal(t, 1, status)
	assert.Equal(t, projections.RebuildFailed, r.State)
	assert.Regexp(t, `a record that cannot be applied at offset \d+ of price-events/\d`, r.Error)
	for _, name := range []string{"moving-averages", "latest-prices", "processed-prices", "requests", "polling-jobs"} {
		r, status = rebuild(t, p.env, name, "--promote", "if-equal", "--skip-poison", "--rate", "100000")
		assert.Zero(t, status, "%+v", r.Proof)
		assert.Equal(t, projections.RebuildPromoted, r.State)
	}
	assert.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=ASKED&max_age=0").status)
	awaitDrained(t, p.env)
	p.eventually("/readyz", http.StatusOK)
	proven(t, p.env)
}

// TestRebuildRate measures the fill of a rebuild in a service that has nothing else
// to do, next to what "pricemill bench rebuild" measures. It is for `make
// test-rebuild`: next to other tests its figures say nothing.
func TestRebuildRate(t *testing.T) {
	if os.Getenv(rebuildVariable) == "" {
		t.Skip("it measures: make test-rebuild")
	}
	const events = 200_000
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	fillPrices(t, p.env, events)
	began := time.Now()
	id := p.startRebuild(`{"projection":"moving-averages"}`)
	p.logs.await(t, "a rebuild begins")
	filling := time.Now()
	require.Eventually(t, func() bool {
		return p.get("/api/v1/rebuilds/"+id).field(t, "state") != string(projections.RebuildRunning)
	}, 5*time.Minute, 10*time.Millisecond)
	filled := time.Since(filling)
	p.reaches(id, projections.RebuildReady)
	all := time.Since(began)
	p.stopped()
	status, stdout, stderr := run(t, p.env, "bench", "rebuild", "--beside-data", "--events", strconv.Itoa(events), "-o", "json")
	require.Zero(t, status, stderr)
	var bench struct {
		PerSecond float64 `json:"events_per_second"`
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &bench))
	rate := events / filled.Seconds()
	t.Logf("filled at %.0f records/s, proven and ready after %v; bench rebuild: %.0f/s; ratio %.2f", rate, all, bench.PerSecond, rate/bench.PerSecond)
}

// TestRebuildIsKilled kills the service at random moments of a rebuild: it continues,
// and what serves meanwhile stays as it is.
func TestRebuildIsKilled(t *testing.T) {
	t.Parallel()
	env := newStack(t, nil)
	process, l := spawn(t, env)
	l.await(t, running)
	events := rebuildSize(10*feedRate, 200_000)
	fillPrices(t, env, events)
	db := openTables(t, env)
	defer func() { assert.NoError(t, db.Close()) }()
	served := func() (sum string) {
		require.NoError(t, db.Get(t.Context(), &sum, `SELECT COUNT(*) || ' ' || SUM(id % 1000003) FROM moving_averages`))
		return sum
	}
	want := served()
	p := &program{t: t, env: env, url: l.await(t, "listening")["url"].(string)}
	id := p.startRebuild(fmt.Sprintf(`{"projection":"moving-averages","promote":"if-equal","rate_limit":%d}`, events/4))
	require.Eventually(t, func() bool {
		r := p.rebuild(id)
		return r.Rate > 0 && r.SecondsLeft != nil && slices.ContainsFunc(r.Partitions, func(p projections.RebuildPartition) bool { return p.SecondsLeft != nil })
	}, time.Minute, 20*time.Millisecond, "it says how long it takes")
	random := rand.New(rand.NewPCG(seed(t), 1))
	filled := func() (n int) {
		err := db.Get(t.Context(), &n, `SELECT COALESCE(SUM(next_offset), 0) FROM positions WHERE stage = 'scratch/moving-averages.g2'`)
		require.True(t, err == nil || errors.Is(err, context.Canceled))
		return n
	}
	kills := rebuildSize(3, 10)
	for i := range kills {
		at := (events*i + random.IntN(events)) / (kills + 1)
		require.Eventually(t, func() bool { return filled() >= at }, time.Minute, time.Millisecond, "%d are filled", at)
		require.NoError(t, process.Process.Kill())
		var exit *exec.ExitError
		require.ErrorAs(t, process.Wait(), &exit)
		assert.Equal(t, want, served())
		t.Logf("kill %d at %d of %d", i+1, filled(), events)
		process, l = spawn(t, env)
		l.await(t, running)
		p.url = l.await(t, "listening")["url"].(string)
	}
	r := p.reaches(id, projections.RebuildPromoted)
	assert.True(t, r.Proof.Equal)
	assert.Equal(t, want, served())
	assert.Equal(t, 2, r.Generation)
}
