package cmd_test

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
)

// verdict is what verify prints as JSON.
type verdict struct {
	OK      bool                `json:"ok"`
	Checks  []*pipeline.Finding `json:"checks"`
	Lost    int64               `json:"lost"`
	Doubled int64               `json:"doubled"`
	Seconds float64             `json:"seconds"`
}

// verify runs "pricemill verify" beside whatever runs.
func verify(t testing.TB, env environment, args ...string) (verdict, int) {
	t.Helper()
	status, stdout, stderr := run(t, env, append([]string{"verify", "-o", "json"}, args...)...)
	var v verdict
	require.NoError(t, json.Unmarshal([]byte(stdout), &v), "status %d\n%s\n%s", status, stdout, stderr)
	return v, status
}

// proven runs verify, and wants everything to hold.
func proven(t testing.TB, env environment) verdict {
	t.Helper()
	v, status := verify(t, env)
	if status != 0 || !v.OK || v.Lost != 0 || v.Doubled != 0 {
		text, err := json.MarshalIndent(v, "", "  ")
		require.NoError(t, err)
		require.Fail(t, "verify found differences", "status %d: %s", status, text)
	}
	return v
}

func TestVerifyHolds(t *testing.T) {
	t.Parallel()
	p := start(t, nil)
	p.eventually("/readyz", http.StatusOK)
	require.Equal(t, http.StatusOK, p.get("/api/v1/prices/latest?symbol=ASKED").status)
	answers := makeAnswers(rand.New(rand.NewPCG(1, 1)), 20000, time.Now())
	feed(t, p.env, answers)
	awaitDrained(t, p.env)
	v := proven(t, p.env)
	t.Log(v.Seconds)
	_, stdout, stderr := run(t, p.env, "verify")
	t.Log(stdout, stderr)
}

// BenchmarkVerify proves 100,000 answers, with all that follows from them, beside
// a running service.
func BenchmarkVerify(b *testing.B) {
	const n = 100_000
	p := start(b, environment{"MOVING_AVERAGE_WINDOW": "5,20"})
	feed(b, p.env, makeAnswers(rand.New(rand.NewPCG(1, 1)), n, time.Now()))
	awaitDrained(b, p.env)
	for b.Loop() {
		proven(b, p.env)
	}
	b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds(), "answers/s")
}
