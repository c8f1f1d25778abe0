package cmd_test

import (
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/schema"
)

// TestRefillOfARestoredDatabase puts a backup in the place of the database, one with events in its
// outbox that were sent since, and brings it to the end of the log, with a kill on the way. Every
// row is as it was before the loss, nothing was written to the log, and work continues.
func TestRefillOfARestoredDatabase(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	env := newKafkaStack(t, environment{"MOVING_AVERAGE_WINDOW": "5,20", "MIN_POLL_INTERVAL": "1s", "DEFAULT_PROVIDER": "csv", "PLUGINS": "candles,ema"})
	answers := makeAnswers(random, 1500, time.Date(2025, 6, 15, 14, 0, 0, 0, time.UTC))
	p := start(t, env)
	p.eventually("/readyz", http.StatusOK)
	id := p.newJob(`{"symbols":["AAPL","MSFT"],"interval":1,"provider":"simulated"}`)
	p.runs(id, 1)
	p.feed(answers[:700])
	ingestedCorrections(t, p)
	p.stopped()
	p = start(t, env.with(environment{"ROLES": "api,handlers,projections"}))
	feed(t, env, answers[700:900])
	require.Eventually(t, func() bool { return counted(t, env)["outbox"] >= 200 }, time.Minute, 50*time.Millisecond)
	p.stopped()
	restore := copyDatabase(t, env)

	p = start(t, env)
	p.eventually("/readyz", http.StatusOK)
	p.feed(answers[900:])
	p.feed(answers[800:1000]) // a stream repeats itself
	runs := p.job(id).Counts.Runs
	p.runs(id, runs+2)
	require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?provider=simulated&symbol=ASKED").status, "a request of a client")
	p.get("/api/v1/prices/latest?provider=csv&symbol=REFUSED")
	p.command(http.MethodPost, id+"/pause")
	awaitDrained(t, env)
	p.stopped()
	proven(t, env)
	before, ends := keptOf(t, env), endsOfAll(t, env)
	restore()
	assert.NotEqual(t, before["processed_prices"], keptOf(t, env)["processed_prices"], "the backup lacks prices")

	killRefillOf(t, env, "database --restored", 2+random.IntN(8), time.Duration(random.IntN(60))*time.Millisecond)
	for _, args := range [][]string{{"serve"}, {"verify"}, {"refill", "database"}, {"stages", "list"}} {
		status, _, stderr := run(t, env, args...)
		assert.Equal(t, 1, status, args)
		assert.Contains(t, stderr, "was restored, and is being brought to the end of the log", args)
	}
	status, stdout, stderr := run(t, env, "refill", "database", "--restored")
	require.Zero(t, status, stdout+stderr)
	assert.Contains(t, stdout, "the database holds all that the log has, and can be used")
	assert.NotContains(t, stdout, "\noutbox ", "the log has all")
	sameRows(t, before, keptOf(t, env))
	assert.Equal(t, ends, endsOfAll(t, env), "nothing was written to the log")
	proven(t, env)
	status, stdout, stderr = run(t, env, "refill", "database", "--restored")
	require.Zero(t, status, "another run: %s", stdout+stderr)
	sameRows(t, before, keptOf(t, env))

	p = start(t, env)
	p.eventually("/readyz", http.StatusOK)
	p.feed(answers[:300])
	p.command(http.MethodPost, id+"/resume")
	p.runs(id, runs+4)
	p.command(http.MethodPost, id+"/pause")
	awaitDrained(t, env)
	p.stopped()
	proven(t, env)
}

// TestRefillOfARestoredDatabaseIsRefused where it would not be exact; then "stages skip" continues.
func TestRefillOfARestoredDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	env := newKafkaStack(t, nil)
	refused := func(sentence string) {
		t.Helper()
		status, stdout, stderr := run(t, env, "refill", "database", "--restored")
		assert.Equal(t, 1, status, stdout)
		assert.Contains(t, stderr, sentence)
	}
	p := start(t, env)
	p.feed(oneEach(0, 10))
	refused("a service consumes the log: stop it first")
	p.stopped()
	restore := copyDatabase(t, env)
	p = start(t, env)
	p.feed(oneEach(10, 10))
	p.stopped()
	restore()
	p = start(t, env)
	p.halts("was it restored from a copy?", "pricemill stages skip")
	p.stopped()
	refused("start the service, and run")
	p = start(t, env.with(environment{}))
	status, _, stderr := run(t, env, "verify", "--wait", "0s")
	assert.NotContains(t, stderr, "brought to the end of the log", "a refused refill leaves the database usable: status %d", status)
	p.resolveWith("skip")
	expect(t, env, 20*partitionsInTests, 20*partitionsInTests)
	p.stopped()
	recreateTopic(t, env, schema.QuoteOutcomes)
	refused("was created again since the backup was made")
	status, _, stderr = run(t, env, "stages", "list")
	assert.Zero(t, status, "it is usable: %s", stderr)
	loseDatabase(t, env)
	refused("is empty: restore the backup first")
}
