package engine

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkDeliver is the whole way of a batch through a stage that gives an event for
// each record: decode, plan, transaction, outbox.
func BenchmarkDeliver(b *testing.B) {
	const n = 500
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		r := NewRig(b, &picky{refuses: ""})
		for range n {
			r.Append(1, 0, nil)
		}
		r.assign()
		b.StartTimer()
		require.NoError(b, r.Deliver(b.Context(), r.LogOf(1)...))
	}
}
