package cmd_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	jobFails     = "polling job fails; the next line about it is when it has recovered"
	jobRecovered = "polling job recovered"
)

// told returns the lines that have a message.
func (l *logs) told(message string) (lines []map[string]any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.lines {
		if line["msg"] == message {
			lines = append(lines, line)
		}
	}
	return lines
}

// TestAFailingJobIsLoggedOnce: one warning when it begins to fail, none a minute, none
// after a restart, and one line when it has recovered. Of one job the provider has no
// key, of another the symbol is not known, which only its answer tells.
func TestAFailingJobIsLoggedOnce(t *testing.T) {
	t.Parallel()
	env := newStack(t, environment{"MIN_POLL_INTERVAL": "1s", "SIMULATED_FAULTS": "NOPE=unknown", "FETCH_TIMEOUT": "30s"})
	p := start(t, env)
	p.eventually("/readyz", http.StatusOK)
	noKey := p.newJob(`{"symbols":["AAPL","MSFT"],"interval":1,"provider":"finnhub"}`)
	unknown := p.newJob(`{"symbols":["NOPE","AAPL"],"interval":1}`)
	healthy := p.newJob(`{"symbols":["AAPL"],"interval":1}`)
	runs := func(p *program, failures int) {
		require.Eventually(t, func() bool {
			return p.job(noKey).Counts.Failures >= failures && p.job(unknown).Counts.Failures >= failures/2 && p.job(healthy).Counts.Runs > 2
		}, time.Minute, 20*time.Millisecond)
	}
	runs(p, 6)
	warned := map[any]map[string]any{}
	for _, line := range p.logs.told(jobFails) {
		assert.Nil(t, warned[line["job"]], "told twice: %v", line)
		assert.Equal(t, "WARN", line["level"])
		warned[line["job"]] = line
	}
	require.Len(t, warned, 2)
	assert.Equal(t, "finnhub", warned[noKey]["provider"])
	assert.Equal(t, "not_configured", warned[noKey]["code"])
	assert.Contains(t, warned[noKey]["reason"], "FINNHUB_API_KEY")
	assert.Equal(t, "unknown_symbol", warned[unknown]["code"])
	assert.Equal(t, "NOPE", warned[unknown]["symbol"])
	assert.Empty(t, p.logs.told(jobRecovered))
	failures := p.job(noKey).Counts.Failures
	require.Zero(t, p.stop())

	p = start(t, p.env)
	runs(p, failures+6)
	assert.Empty(t, p.logs.told(jobFails), "told before the restart")
	require.Zero(t, p.stop())

	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"c":185.75,"t":1750000000}`)) // to a client that reads
	}))
	defer service.Close()
	p = start(t, p.env.with(environment{"FINNHUB_API_KEY": "key", "FINNHUB_BASE_URL": service.URL}))
	line := p.logs.await(t, jobRecovered)
	assert.Equal(t, noKey, line["job"])
	assert.Equal(t, "finnhub", line["provider"])
	before := p.job(noKey).Counts.Runs
	require.Eventually(t, func() bool { return p.job(noKey).Counts.Runs > before+2 }, time.Minute, 20*time.Millisecond)
	assert.Len(t, p.logs.told(jobRecovered), 1)
	assert.Empty(t, p.logs.told(jobFails))
}
