package cmd_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/projections"
	"github.com/pricemill/pricemill/projections/jobs"
	"github.com/pricemill/pricemill/projections/requests"
)

// A client that asked for a price can ask what became of the request, by REST and on the command
// line: for the price and where it is from, or why there is none.
func TestWhatBecameOfARequest(t *testing.T) {
	t.Parallel()
	p := start(t, environment{"SIMULATED_FAULTS": "NOPE=unknown"})
	p.eventually("/readyz", http.StatusOK)
	type outcome struct {
		Status, Code  string
		Price         *json.Number
		FactID        string `json:"fact_id"`
		RawResponseID string `json:"raw_response_id"`
		Record        struct{ Topic string }
	}
	ask := func(symbol string, status int) (string, outcome) {
		answer := p.eventually("/api/v1/prices/latest?max_age=0&symbol="+symbol, status)
		id := answer.header.Get("Pricemill-Request")
		require.NotEmpty(t, id)
		var found outcome
		require.NoError(t, json.Unmarshal([]byte(p.eventually("/api/v1/requests/"+id, http.StatusOK).body), &found))
		return id, found
	}
	id, done := ask("ACME", http.StatusOK)
	assert.Equal(t, "done", done.Status)
	assert.Equal(t, "price-events", done.Record.Topic)
	require.NotNil(t, done.Price)
	assert.NotEmpty(t, done.FactID)
	assert.NotEmpty(t, done.RawResponseID)
	status, stdout, stderr := run(t, environment{}, "request", id, "--url", p.url)
	require.Zero(t, status, stderr)
	assert.Regexp(t, `^STATUS +SYMBOL +PROVIDER +REQUESTED +PRICE +TIMESTAMP +REASON\ndone +ACME +simulated `, stdout)

	id, none := ask("NOPE", http.StatusNotFound)
	assert.Equal(t, "failed", none.Status)
	assert.Equal(t, "unknown_symbol", none.Code)
	assert.Nil(t, none.Price)
	status, stdout, stderr = run(t, environment{}, "request", id, "--url", p.url)
	require.Zero(t, status, stderr)
	assert.Contains(t, stdout, "unknown_symbol: ")
	status, _, stderr = run(t, environment{}, "request", "none", "--url", p.url)
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "There is no fetch request")
}

// What retention deletes is no difference to verify, nor to a rebuild.
func TestVerifyAndRebuildAfterRetention(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	p.eventually("/api/v1/prices/latest?max_age=0&symbol=ACME", http.StatusOK)
	job := p.post("/api/v1/prices/poll", `{"symbols":["ACME"],"interval":60}`).field(t, "job_id").(string)
	p.eventually("/api/v1/prices/poll/"+job, http.StatusOK)
	db := openTables(t, p.env)
	defer func() { require.NoError(t, db.Close()) }()
	require.Eventually(t, func() bool { // the job has run once
		var made int
		require.NoError(t, db.Get(t.Context(), &made, `SELECT COUNT(*) FROM requests`))
		return made >= 2
	}, 20*time.Second, 20*time.Millisecond)
	require.Equal(t, http.StatusAccepted, p.do(http.MethodDelete, "/api/v1/prices/poll/"+job, "").status)
	awaitDrained(t, p.env)
	retention := projections.Retention{Store: db, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Now().Add(time.Hour) },
		Keep: map[string]time.Duration{requests.Name: time.Minute, jobs.Name: time.Minute}}
	for _, module := range pipeline.Projections() {
		if module.Name == requests.Name || module.Name == jobs.Name {
			projection, err := module.New(pipeline.Env{})
			require.NoError(t, err)
			retention.Projections = append(retention.Projections, projection)
		}
	}
	require.Eventually(t, func() bool { // the first run of the job may still be under way
		require.NoError(t, retention.Sweep(t.Context()))
		var left int
		require.NoError(t, db.Get(t.Context(), &left, `SELECT (SELECT COUNT(*) FROM requests) + (SELECT COUNT(*) FROM polling_jobs)`))
		return left == 0
	}, 20*time.Second, 50*time.Millisecond)
	require.Equal(t, http.StatusNotFound, p.get("/api/v1/prices/poll/"+job).status)

	found := proven(t, p.env).finding(t, "projection "+requests.Name)
	assert.GreaterOrEqual(t, found.Counts["rows past retention"], int64(2))
	for _, name := range []string{requests.Name, jobs.Name} {
		status, stdout, stderr := run(t, p.env, "rebuild", name, "--promote", "if-equal")
		require.Zero(t, status, "%s%s", stdout, stderr)
	}
	p.eventually("/readyz", http.StatusOK)
}
