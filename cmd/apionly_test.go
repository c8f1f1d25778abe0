package cmd_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestTheAPIAlone: a process that only answers requests says at once or after a
// bounded time what it cannot know without workers, takes commands, and answers
// from what workers in other processes commit.
func TestTheAPIAlone(t *testing.T) {
	t.Parallel()
	env := newSharedStack(t, environment{"FETCH_TIMEOUT": "2s"})
	api := spawnAPI(t, env)
	assert.Equal(t, http.StatusOK, api.get("/readyz").status, "it is ready for what it does")

	// No worker runs.
	const unanswered = "the workers are behind, or none is running"
	assert.Equal(t, http.StatusNotFound, api.get("/api/v1/prices/moving-average?symbol=AAPL").status)
	refused := api.get("/api/v1/prices/latest?symbol=AAPL")
	assert.Equal(t, http.StatusGatewayTimeout, refused.status, refused.body)
	assert.Contains(t, refused.field(t, "detail"), unanswered)
	accepted := api.post("/api/v1/prices/poll", `{"symbols":["MSFT"],"interval":3600}`)
	require.Equal(t, http.StatusAccepted, accepted.status, accepted.body)

	// A worker runs: what was accepted is done, and what is asked is fetched.
	w := newWorker(t, "the worker", env)
	w.start()
	average := api.eventually("/api/v1/prices/moving-average?symbol=MSFT&window=5", http.StatusOK)
	assert.Equal(t, json.Number("5"), average.field(t, "window_size"))
	look := newObserver(t, env)
	require.Eventually(t, func() bool {
		var ran string
		return look.db.Get(t.Context(), &ran, `SELECT job_id FROM polling_jobs WHERE last_run IS NOT NULL`) == nil &&
			ran == accepted.field(t, "job_id")
	}, 20*time.Second, 10*time.Millisecond)
	fresh := api.eventually("/api/v1/prices/latest?symbol=TSLA&max_age=0", http.StatusOK)
	assert.Equal(t, "TSLA", fresh.field(t, "symbol"))

	// The worker is killed: what is known is still answered. The read models follow one
	// by one, so the one that is asked then may not have the price yet.
	require.Eventually(t, func() bool {
		var rows int
		return look.db.Get(t.Context(), &rows, `SELECT COUNT(*) FROM latest_prices WHERE symbol = 'TSLA'`) == nil && rows == 1
	}, 20*time.Second, 10*time.Millisecond)
	w.kill()
	assert.Equal(t, average.body, api.get("/api/v1/prices/moving-average?symbol=MSFT&window=5").body)
	assert.Equal(t, fresh.body, api.get("/api/v1/prices/latest?symbol=TSLA&max_age=3600").body)
	stale := api.get("/api/v1/prices/latest?symbol=TSLA&max_age=0&stale=allow")
	assert.Equal(t, http.StatusOK, stale.status, stale.body)
	assert.Equal(t, fresh.body, stale.body)
	assert.NotEmpty(t, stale.header.Get("Age"))
	refused = api.get("/api/v1/prices/latest?symbol=TSLA&max_age=0")
	assert.Equal(t, http.StatusGatewayTimeout, refused.status, refused.body)
	assert.Contains(t, refused.field(t, "detail"), unanswered)
	assert.Equal(t, http.StatusOK, api.get("/readyz").status)
}
