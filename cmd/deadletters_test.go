package cmd_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// wrongForNow panics at each record until it is fixed, and counts what it takes.
type wrongForNow struct {
	mended atomic.Bool
	taken  atomic.Int64
}

var forNow = &wrongForNow{}

func (h *wrongForNow) Handle(_ context.Context, tx *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	if !h.mended.Load() {
		panic("oh")
	}
	tx.OnCommit(func() { h.taken.Add(int64(len(in))) })
	return nil, nil
}

// makeDeadLetters writes n records to a topic that no stage can read, and waits until
// each of the stages has that many dead letters.
func makeDeadLetters(t *testing.T, p *program, topic schema.Topic, n int, stages ...string) {
	t.Helper()
	sendUnreadable(t, p, topic, n)
	for _, stage := range stages {
		p.awaitLetters(stage, n)
	}
}

// sendUnreadable writes n records to a topic that no stage can read.
func sendUnreadable(t testing.TB, p *program, topic schema.Topic, n int) {
	t.Helper()
	records := make([]log.OutgoingRecord, n)
	for i := range records {
		records[i] = log.OutgoingRecord{Key: []byte("k"), Value: []byte("no event"), Timestamp: time.Now()}
	}
	errs := connect(t, p.env).Send(t.Context(), []log.PartitionBatch{{
		TopicPartition: pipeline.TopicPartition{Topic: topic, Partition: 1}, Records: records}})
	require.NoError(t, errors.Join(errs...))
}

// deadLettersOf returns the dead letters of a stage; none where the service does not answer.
func (p *program) deadLettersOf(stage string) []store.DeadLetterSummary {
	p.t.Helper()
	var body struct{ Items []store.DeadLetterSummary }
	answer := p.get("/api/v1/dead-letters?limit=1000&stage=" + stage)
	if answer.status != http.StatusOK || json.Unmarshal([]byte(answer.body), &body) != nil {
		return nil
	}
	return body.Items
}

// awaitLetters returns the dead letters of a stage once there are n.
func (p *program) awaitLetters(stage string, n int) []store.DeadLetterSummary {
	p.t.Helper()
	var letters []store.DeadLetterSummary
	require.Eventually(p.t, func() bool {
		letters = p.deadLettersOf(stage)
		return len(letters) == n
	}, time.Minute, 50*time.Millisecond, stage)
	return letters
}

// letterCheck is the check of the dead letters in /readyz.
func (p *program) letterCheck() string {
	p.t.Helper()
	answer := p.get("/readyz")
	require.Equal(p.t, http.StatusOK, answer.status, "dead letters are no reason not to serve: %s", answer.body)
	var body struct {
		Checks []struct{ Name, State, Reason string }
	}
	require.NoError(p.t, json.Unmarshal([]byte(answer.body), &body))
	for _, c := range body.Checks {
		if c.Name == "dead letters" {
			return strings.TrimSpace(c.State + " " + c.Reason)
		}
	}
	return ""
}

// A plugin that panics at each record says so, in the log and on /readyz; once it is
// fixed, its records are retried, each once, and everything is accounted for.
func TestDeadLettersAreRetried(t *testing.T) {
	t.Parallel()
	const stage = "wrong-for-now"
	quotes, _ := readSession(t)
	n := len(quotes)
	p := start(t, environment{"PLUGINS": stage})
	p.eventually("/readyz", http.StatusOK)
	require.Equal(t, "ok", p.letterCheck())
	ingested(t, p.env, "--no-wait", "--provider", "coinbase", recordedSession)
	letters := p.awaitLetters(stage, n)
	require.Equal(t, fmt.Sprintf("warning %d records were not applied (%s %d): see pricemill dead-letters list", n, stage, n), p.letterCheck())
	said := 0
	for _, line := range p.logs.atLevel("WARN") {
		if strings.Contains(fmt.Sprint(line), "dead-letters list --stage "+stage) {
			said++
			assert.Contains(t, fmt.Sprint(line), "panic: oh")
		}
	}
	assert.Positive(t, said)
	assert.LessOrEqual(t, said, 2, "once a minute")

	status, stdout, stderr := run(t, p.env, "dead-letters", "list", "--stage", stage, "--limit", "1000")
	require.Zero(t, status, stderr)
	assert.Equal(t, n, strings.Count(stdout, "panic: oh\n"), "the first line of the reason")
	assert.NotContains(t, stdout, "goroutine")
	status, stdout, _ = run(t, p.env, "dead-letters", "show", fmt.Sprint(letters[0].ID))
	require.Zero(t, status)
	assert.Contains(t, stdout, "goroutine", "and all of it")

	for _, args := range [][]string{{}, {"x"}, {"1", "--all"}, {"--all", "--stage", stage}, {"--stage", "wrong-fornow"}} {
		for _, action := range []string{"retry", "discard"} {
			status, _, _ = run(t, p.env, append([]string{"dead-letters", action, "--yes"}, args...)...)
			assert.Equal(t, 2, status, "%s %v", action, args)
		}
	}
	status, _, _ = run(t, p.env, "dead-letters", "list", "--stage", "wrong-fornow")
	assert.Equal(t, 2, status)
	for _, action := range []string{"retry", "discard"} {
		status, stdout, stderr = run(t, p.env, "dead-letters", action, "--stage", stage)
		assert.Equal(t, 1, status)
		assert.Contains(t, stdout, fmt.Sprint(n))
		assert.Contains(t, stderr, "nothing was changed: --yes does it")
	}
	require.Len(t, p.awaitLetters(stage, n), n)

	// It fails again, and says so.
	first := fmt.Sprint(letters[0].ID)
	status, _, stderr = run(t, p.env, "dead-letters", "retry", first, "--yes")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "1 of 1 dead letters were not applied, the last one because: panic: oh")
	answer := p.post("/api/v1/dead-letters/"+first+"/retry", "")
	assert.Equal(t, http.StatusConflict, answer.status, answer.body)

	forNow.mended.Store(true)
	answer = p.post("/api/v1/dead-letters/"+first+"/retry", "")
	require.Equal(t, http.StatusOK, answer.status, answer.body)
	assert.Contains(t, answer.body, `"applied":1`)
	// It counts once a transaction is committed, which is when others see what it did.
	taken := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool { return forNow.taken.Load() >= int64(n) }, 10*time.Second, time.Millisecond)
		assert.Equal(t, int64(n), forNow.taken.Load(), "each record once")
	}
	taken(1)
	assert.Equal(t, http.StatusNotFound, p.post("/api/v1/dead-letters/"+first+"/retry", "").status)
	status, stdout, stderr = run(t, p.env, "dead-letters", "retry", "--stage", stage, "--yes", "-o", "json")
	require.Zero(t, status, stderr)
	var order store.LetterRetry
	require.NoError(t, json.Unmarshal([]byte(stdout), &order))
	assert.Equal(t, int64(n-1), order.Applied)
	taken(n)
	assert.Equal(t, "ok", p.letterCheck())
	awaitDrained(t, p.env)
	status, stdout, stderr = run(t, p.env, "verify")
	assert.Zero(t, status, "%s%s", stdout, stderr)
}

// What cannot be applied is discarded, and stays accounted for; a projection that
// folds in the order of the log names the rebuild.
func TestDeadLettersAreDiscarded(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	makeDeadLetters(t, p, schema.PriceEvents, 2, "moving-averages.g1", "processed-prices.g1", "latest-prices.g1", "requests.g1")
	makeDeadLetters(t, p, schema.StoredQuotes, 3, "normalize")
	folded := p.awaitLetters("moving-averages.g1", 2)
	answer := p.post(fmt.Sprintf("/api/v1/dead-letters/%d/retry", folded[0].ID), "")
	assert.Equal(t, http.StatusConflict, answer.status)
	assert.Contains(t, answer.body, "pricemill rebuild moving-averages --promote auto")
	status, stdout, stderr := run(t, p.env, "dead-letters", "retry", "--all", "--yes")
	assert.Equal(t, 1, status)
	assert.Regexp(t, `\n0 +9 +2 +0 +0\n`, stdout, "applied, failed, refused")
	assert.Contains(t, stderr, "11 of 11 dead letters were not applied")

	status, stdout, stderr = run(t, p.env, "dead-letters", "discard", fmt.Sprint(folded[0].ID), "--yes")
	require.Zero(t, status, stderr)
	assert.Equal(t, "1 discarded\n", stdout)
	status, _, stderr = run(t, p.env, "dead-letters", "discard", fmt.Sprint(folded[0].ID), "--yes")
	assert.Equal(t, 1, status)
	assert.Contains(t, stderr, "there is no dead letter")
	status, stdout, _ = run(t, p.env, "dead-letters", "show", fmt.Sprint(folded[0].ID))
	assert.Zero(t, status)
	assert.Contains(t, stdout, "discarded at")
	status, stdout, stderr = run(t, p.env, "dead-letters", "discard", "--stage", "normalize", "--yes")
	require.Zero(t, status, stderr)
	assert.Equal(t, "3 discarded\n", stdout)
	assert.Equal(t, "warning 7 records were not applied (latest-prices.g1 2, moving-averages.g1 1, processed-prices.g1 2, requests.g1 2): see pricemill dead-letters list",
		p.letterCheck())
	answer = p.do(http.MethodDelete, "/api/v1/dead-letters", "")
	assert.Contains(t, answer.body, `"letters":7`)
	answer = p.do(http.MethodDelete, "/api/v1/dead-letters?confirm=yes", "")
	assert.Equal(t, `{"discarded":7}`, strings.TrimSpace(answer.body))
	assert.Equal(t, "ok", p.letterCheck())
	status, stdout, stderr = run(t, p.env, "verify")
	assert.Zero(t, status, "%s%s", stdout, stderr)
}
