package cmd_test

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/schema"
)

// readiness is the answer of /readyz, its checks by name.
func (p *program) readiness() (status int, checks map[string]string) {
	p.t.Helper()
	answer := p.get("/readyz")
	var body struct {
		Checks []struct{ Name, State, Reason string }
	}
	require.NoError(p.t, json.Unmarshal([]byte(answer.body), &body), answer.body)
	checks = map[string]string{}
	for _, c := range body.Checks {
		checks[c.Name] = strings.TrimSuffix(c.State+": "+c.Reason, ": ")
	}
	return answer.status, checks
}

// haltAStage puts a record of another database in front of normalize.
func haltAStage(t testing.TB, env environment) {
	t.Helper()
	errs := connect(t, env).Send(t.Context(), []log.PartitionBatch{{
		TopicPartition: pipeline.TopicPartition{Topic: schema.StoredQuotes, Partition: 1},
		Records: []log.OutgoingRecord{{Key: []byte("k"), Value: []byte("{}"), Headers: []schema.Header{
			{Key: "ce_outboxid", Value: []byte("another")}, {Key: "ce_outboxseq", Value: []byte("7")}}}}}})
	require.NoError(t, errs[0])
}

// TestReadinessIsOfARole: a halt is a failure of a process that runs the stage. One
// with the role api alone reads as before: it is ready, and warns of the halt, and
// of the stages that no process runs.
func TestReadinessIsOfARole(t *testing.T) {
	t.Parallel()
	p := start(t, newSharedStack(t, nil))
	p.eventually("/readyz", http.StatusOK)
	p.eventually("/api/v1/prices/latest?symbol=AAPL", http.StatusOK)
	known := p.eventually("/api/v1/prices/moving-average?symbol=AAPL", http.StatusOK)
	haltAStage(t, p.env)
	p.eventually("/readyz", http.StatusServiceUnavailable)
	const halted = "stage normalize on stored-quotes/1"
	_, checks := p.readiness()
	assert.Contains(t, checks[halted], "failed: halted: ")
	assert.NotContains(t, checks, "workers", "this process does everything")
	p.stopped()

	api := start(t, p.env.with(environment{"ROLES": "api"}))
	status, checks := api.readiness()
	assert.Equal(t, http.StatusOK, status, checks)
	assert.Contains(t, checks[halted], "warning: halted: ")
	assert.Equal(t, known.body, api.get("/api/v1/prices/moving-average?symbol=AAPL").body)
	require.Eventually(t, func() bool { // leases of processes that have stopped run out
		status, checks = api.readiness()
		return strings.Contains(checks["workers"], "the relay") && strings.Contains(checks["workers"], "stage fetch")
	}, 30*time.Second, 20*time.Millisecond)
	assert.Equal(t, http.StatusOK, status)
	for _, name := range []string{"stage normalize", "stage schedule", "stage latest-prices.g1", "stage moving-averages.g1"} {
		assert.Contains(t, checks["workers"], name)
	}
	status, stdout, stderr := run(t, environment{"HTTP_ADDR": addressOf(api.url)}, "health")
	assert.Zero(t, status)
	assert.Equal(t, "ready\n", stdout)
	assert.Contains(t, stderr, "warning: "+halted)
	assert.Contains(t, stderr, "warning: workers: no process runs ")
	api.stopped()

	// Without the role api, a process fails for what it runs.
	worker := start(t, p.env.with(environment{"ROLES": "projections,relay"}))
	worker.eventually("/readyz", http.StatusOK)
	require.Eventually(t, func() bool {
		_, checks = worker.readiness()
		return strings.Contains(checks["workers"], "stage fetch")
	}, 30*time.Second, 20*time.Millisecond)
	assert.Contains(t, checks[halted], "warning: halted: ")
	assert.NotContains(t, checks["workers"], "latest-prices")
	assert.NotContains(t, checks["workers"], "the relay")
}

// TestARebuildIsCancelled: the generation is gone before its stage, which fails in
// between at each batch. No reader depends on it.
func TestARebuildIsCancelled(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	fillPrices(t, p.env, 500)
	stop := make(chan struct{})
	var feeding sync.WaitGroup
	feeding.Go(func() {
		feedAt(t, p.env, makeAnswers(rand.New(rand.NewPCG(1, 1)), 20_000, time.Now()), 200, stop)
	})
	defer func() { close(stop); feeding.Wait() }()
	for range 3 {
		id := p.startRebuild(`{"projection":"moving-averages","promote":"manual"}`)
		ready := p.reaches(id, projections.RebuildReady)
		require.Eventually(t, func() bool {
			_, checks := p.readiness()
			return checks["stage moving-averages.g"+strconv.Itoa(ready.Generation)] == "ok"
		}, 20*time.Second, 5*time.Millisecond)
		assert.Less(t, p.do(http.MethodDelete, "/api/v1/rebuilds/"+id, "").status, 300)
		for until := time.Now().Add(2 * time.Second); time.Now().Before(until); {
			status, checks := p.readiness()
			require.Equal(t, http.StatusOK, status, checks)
		}
	}
}
