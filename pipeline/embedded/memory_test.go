package embedded

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkMemoryOfABatch measures what a batch costs in memory for as long as the
// process lives: the broker keeps where each one lies.
func BenchmarkMemoryOfABatch(b *testing.B) {
	off := false
	broker, err := Open(b.Context(), Config{Dir: b.TempDir(), SyncWrites: &off})
	require.NoError(b, err)
	defer func() { require.NoError(b, broker.Close()) }()
	client := connect(b, broker.address)
	require.NoError(b, createTopic(b.Context(), client))
	live := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for i := range 5000 { // until buffers are as large as they get
		require.NoError(b, produce(b.Context(), client, i))
	}
	before := live()
	for i := 0; b.Loop(); i++ {
		require.NoError(b, produce(b.Context(), client, i))
	}
	b.ReportMetric(float64(live()-before)/float64(b.N), "live-B/batch")
}
