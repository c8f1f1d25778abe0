//go:build failpoints

package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/chain"
	"github.com/pricemill/pricemill/pipeline/failpoint"
	"github.com/pricemill/pricemill/schema"
)

// TestFailpointOfTheRelay loses the log's acknowledgement: what was sent is sent again,
// under its numbers, and consumers drop it.
func TestFailpointOfTheRelay(t *testing.T) {
	// As pipelinetest.Fail does, which this package cannot import.
	t.Setenv(failpoint.Variable, "")
	injected := errors.New("injected")
	handler := &Recorder{}
	r := NewRig(t, handler)
	relay := newRelay(r.DB, r.Broker, r.Stage.outbox.topology, "me", slog.New(slog.DiscardHandler))
	held, err := relay.takeLease(t.Context())
	require.NoError(t, err)
	require.True(t, held)
	emit := &emitter{Store: r.DB, outbox: r.Stage.outbox, wake: relay.Wake}
	_, err = emit.Emit(t.Context(), func(*pipeline.Tx) ([]schema.Event, error) {
		var events []schema.Event
		for i := range 3 {
			events = append(events, schema.Event{ID: fmt.Sprint(i), Source: "test", Payload: PriceNo("S1", i)})
		}
		return events, nil
	})
	require.NoError(t, err)
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

	log := r.LogOf(1)
	var numbers []int64
	for _, record := range log {
		link, _, err := chain.LinkOf(record.Headers)
		require.NoError(t, err)
		numbers = append(numbers, link.Seq)
	}
	assert.Equal(t, []int64{1, 2, 3, 1, 2, 3}, numbers)
	r.assign()
	require.NoError(t, r.Deliver(t.Context(), log...))
	assert.Len(t, r.effects(), 3)
}
