package cmd_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/store"
)

// BenchmarkChain puts 50,000 answers into raw-quotes and waits until the last
// average is committed, on the embedded default.
func BenchmarkChain(b *testing.B) {
	const n = 50_000
	answers := makeAnswers(rand.New(rand.NewPCG(1, 1)), n, time.Now())
	for b.Loop() {
		p, db := startBench(b)
		began := time.Now()
		feed(b, p.env, answers)
		awaitAverages(b, db, n)
		b.ReportMetric(n/time.Since(began).Seconds(), "ticks/s")
		require.NoError(b, db.Close())
		require.Zero(b, p.stop())
	}
}

// BenchmarkChainAt1000 puts 1,000 answers a second into raw-quotes for five
// seconds, and reports the time from each to its committed average.
func BenchmarkChainAt1000(b *testing.B) {
	const n, every = 5000, 5 // five answers each five milliseconds
	answers := makeAnswers(rand.New(rand.NewPCG(1, 1)), n, time.Now())
	for b.Loop() {
		p, db := startBench(b)
		broker, partitions, err := reach(p.env)
		require.NoError(b, err)
		sent := make([]time.Time, n)
		latencies := make([]time.Duration, 0, n)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for seen := 0; seen < n; {
				count := appliedAverages(b, db)
				now := time.Now()
				for ; seen < count; seen++ {
					latencies = append(latencies, now.Sub(sent[seen]))
				}
				pause(500 * time.Microsecond)
			}
		}()
		ticker := time.NewTicker(every * time.Millisecond)
		for from := 0; from < n; from += every {
			<-ticker.C
			now := time.Now()
			for i := range every {
				sent[from+i] = now
			}
			for _, err := range broker.Send(context.Background(), batchesOf(b, answers[from:from+every], partitions)) {
				require.NoError(b, err)
			}
		}
		ticker.Stop()
		<-done
		slices.Sort(latencies)
		b.ReportMetric(float64(latencies[n/2].Microseconds())/1000, "p50-ms")
		b.ReportMetric(float64(latencies[n*99/100].Microseconds())/1000, "p99-ms")
		require.NoError(b, broker.Close())
		require.NoError(b, db.Close())
		require.Zero(b, p.stop())
	}
}

func startBench(b *testing.B) (*program, *store.Store) {
	b.Helper()
	p := start(b, nil)
	p.eventually("/readyz", 200)
	return p, openTables(b, p.env)
}

func appliedAverages(t testing.TB, db *store.Store) int {
	var count int
	require.NoError(t, db.Get(context.Background(), &count,
		`SELECT COALESCE(SUM(next_offset), 0) FROM positions WHERE stage = 'moving-averages.g1'`))
	return count
}

func awaitAverages(b *testing.B, db *store.Store, n int) {
	b.Helper()
	for appliedAverages(b, db) < n {
		pause(time.Millisecond)
	}
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
