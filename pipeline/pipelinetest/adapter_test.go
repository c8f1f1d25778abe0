package pipelinetest_test

import (
	"encoding/json"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

var priceType, unchangedType = schema.PriceObserved{}.EventType(), schema.QuoteUnchanged{}.EventType()

// startPlain runs a plain Watermill handler function in the chain.
func startPlain(t *testing.T, rig *pipelinetest.Rig, f message.HandlerFunc) *pipelinetest.Stage {
	t.Helper()
	stage := rig.Start(t, engine.StageSpec{Name: "plain", Consumes: []schema.EventType{priceType},
		Produces: []schema.EventType{unchangedType}, Handler: pipeline.Watermill(f, unchangedType)})
	t.Cleanup(func() { stage.Close(t) })
	return stage
}

// unchangedOf is what any Watermill program could write: it knows JSON and metadata.
func unchangedOf(msg *message.Message) (*message.Message, error) {
	var in struct {
		Symbol, Source string
		Price          json.Number
		Timestamp      string
	}
	if err := json.Unmarshal(msg.Payload, &in); err != nil {
		return nil, err
	}
	out, err := json.Marshal(map[string]any{"provider": in.Source, "symbol": in.Symbol, "raw_response_id": "1", "price": in.Price,
		"timestamp": in.Timestamp, "received_at": in.Timestamp})
	return message.NewMessage("any", out), err
}

func TestAPlainWatermillHandlerInTheChain(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	var calls atomic.Int32
	stage := startPlain(t, rig, func(msg *message.Message) ([]*message.Message, error) {
		calls.Add(1)
		assert.Equal(t, "p/A", msg.Metadata.Get(pipeline.MetadataKey))
		assert.Equal(t, "price-events", msg.Metadata.Get(pipeline.MetadataTopic))
		assert.Equal(t, string(priceType), msg.Metadata.Get(pipeline.MetadataEventType))
		out, err := unchangedOf(msg)
		return message.Messages{out, out}, err
	})
	stage.Undo(2)
	require.NoError(t, stage.Deliver(rig.AppendAll(t, price(1), price(2))...))
	events := rig.Events(t, schema.QuoteOutcomes)
	require.Len(t, events, 4, "two of each, once, although the batch was rolled back twice")
	assert.EqualValues(t, 3*2, calls.Load())
	ids := map[string]bool{}
	for i, e := range events {
		ids[e.ID] = true
		assert.Equal(t, "pricemill/plain", e.Source)
		assert.Equal(t, price(1+i/2).Price, e.Payload.(schema.QuoteUnchanged).Price)
	}
	assert.Len(t, ids, 4)
	stage.Restart(t)
	require.NoError(t, stage.Deliver(rig.AppendAll(t, price(3))...))
	assert.Len(t, rig.Events(t, schema.QuoteOutcomes), 2)
}

// Whatever a plain handler does wrong, its record is a dead letter with a reason and
// the others of the batch are applied.
func TestAPlainWatermillHandlerThatFails(t *testing.T) {
	t.Parallel()
	answer := func(eventType, payload string) func(*message.Message) ([]*message.Message, error) {
		return func(*message.Message) ([]*message.Message, error) {
			msg := message.NewMessage("1", []byte(payload))
			msg.Metadata.Set(pipeline.MetadataEventType, eventType)
			return message.Messages{msg}, nil
		}
	}
	for name, test := range map[string]struct {
		bad  message.HandlerFunc
		want string
	}{
		"an error":         {func(*message.Message) ([]*message.Message, error) { return nil, errors.New("unlucky") }, "the handler function: unlucky"},
		"a panic":          {func(*message.Message) ([]*message.Message, error) { panic("oh") }, "panic: oh"},
		"nil":              {func(*message.Message) ([]*message.Message, error) { return message.Messages{nil}, nil }, "nil"},
		"garbage":          {answer("", "\xff{"), "no JSON"},
		"not the event":    {answer("", `{"symbol":"A"}`), "no event"},
		"an unknown event": {answer("no.such.v1", `{}`), "unknown event type"},
		"an undeclared event": {answer(string(priceType),
			`{"symbol":"A","price":1,"timestamp":"2025-06-15T14:30:00Z","source":"p","received_at":"2025-06-15T14:30:00Z"}`), "does not declare"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rig := pipelinetest.New(t)
			stage := startPlain(t, rig, func(msg *message.Message) ([]*message.Message, error) {
				var in struct{ Price json.Number }
				if err := json.Unmarshal(msg.Payload, &in); err != nil {
					return nil, err
				}
				if in.Price == "13" {
					return test.bad(msg)
				}
				out, err := unchangedOf(msg)
				return message.Messages{out}, err
			})
			require.ErrorContains(t, stage.Deliver(rig.AppendAll(t, price(1), price(13), price(2))...), test.want)
			assert.Len(t, rig.Events(t, schema.QuoteOutcomes), 2)
		})
	}
}

func TestAPlainWatermillHandlerIsTriedAgain(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	var calls atomic.Int32
	stage := startPlain(t, rig, func(msg *message.Message) ([]*message.Message, error) {
		if calls.Add(1) < 3 {
			return nil, pipeline.RetryAfter(time.Nanosecond, errors.New("not now"))
		}
		out, err := unchangedOf(msg)
		return message.Messages{out}, err
	})
	require.NoError(t, stage.Deliver(rig.AppendAll(t, price(1))...))
	assert.Len(t, rig.Events(t, schema.QuoteOutcomes), 1)
}
