//go:build failpoints

package outbox

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/failpoint"
)

// TestFailpointOfTheRelay loses the log's acknowledgement: what was sent is sent again,
// under its numbers, and consumers drop it.
func TestFailpointOfTheRelay(t *testing.T) {
	// As pipelinetest.Fail does, which this package cannot import.
	t.Setenv(failpoint.Variable, "")
	injected := errors.New("injected")
	r := newRig(t)
	relay := NewRelay(r.DB, r.Broker, r.known, "me", slog.New(slog.DiscardHandler))
	held, err := relay.takeLease(t.Context())
	require.NoError(t, err)
	require.True(t, held)
	r.emit(1, 3)
	disarm, err := failpoint.Arm(failpoint.RelayAcked, failpoint.Hits{First: 1}, func(context.Context, int) error { return injected })
	require.NoError(t, err)
	defer disarm()

	_, err = relay.round(t.Context())
	require.ErrorIs(t, err, injected)
	_, err = relay.round(t.Context())
	require.NoError(t, err)
	require.NoError(t, relay.Trouble())
	require.NoError(t, relay.checkpoint())
	pending, err := r.DB.Pending(t.Context())
	require.NoError(t, err)
	assert.Empty(t, pending)

	log := r.logOf(1)
	var numbers []int64
	for _, record := range log {
		link, _, err := chain.LinkOf(record.Headers)
		require.NoError(t, err)
		numbers = append(numbers, link.Seq)
	}
	assert.Equal(t, []int64{1, 2, 3, 1, 2, 3}, numbers)
}
