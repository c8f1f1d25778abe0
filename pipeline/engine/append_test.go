package engine

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/internal/logtest"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// forgetful keeps what is sent, but says so only at the third attempt.
type forgetful struct {
	*logtest.Memory
	attempts int
}

func (b *forgetful) Send(ctx context.Context, batches []log.PartitionBatch) []error {
	errs := b.Memory.Send(ctx, batches)
	if b.attempts++; b.attempts < 3 {
		errs[len(errs)-1] = errors.New("no answer")
	}
	return errs
}

func TestAppendGoesOnUntilAllIsAcknowledged(t *testing.T) {
	t.Parallel()
	r := NewRig(t, &Recorder{})
	broker := &forgetful{Memory: r.Broker}
	var events []schema.Event
	for i := range 8 {
		events = append(events, schema.Event{ID: fmt.Sprint(i), Source: "test", Payload: PriceNo(fmt.Sprintf("S%d", i%2), i)})
	}
	require.NoError(t, NewAppender(broker, r.Stage.topics).Append(t.Context(), events))
	assert.Equal(t, 3, broker.attempts)
	assert.Len(t, r.LogOf(0), 4, "what was acknowledged is not sent again")
	require.Len(t, r.LogOf(1), 3*4)
	for i, record := range r.LogOf(1) {
		event, err := schema.DecodeEvent(record.Headers, record.Value)
		require.NoError(t, err)
		assert.Equal(t, fmt.Sprint(i%4*2+1), event.ID, "in their order")
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	broker.attempts = 0
	require.ErrorIs(t, NewAppender(broker, r.Stage.topics).Append(ctx, events[:1]), context.Canceled)
	// More than one batch can hold.
	large := make([]schema.Event, 2*log.BatchRecords+1)
	for i := range large {
		large[i] = schema.Event{ID: fmt.Sprint(i), Source: "test", Payload: PriceNo("S2", i)}
	}
	require.NoError(t, NewAppender(r.Broker, r.Stage.topics).Append(t.Context(), large))
	assert.Len(t, r.LogOf(2), len(large))

	events[0].Source = ""
	err := NewAppender(broker, r.Stage.topics).Append(t.Context(), events[:1])
	assert.True(t, pipeline.IsPermanent(err))
}
