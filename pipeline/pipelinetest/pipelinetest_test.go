package pipelinetest_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/engine"
	"github.com/pricemill/pricemill/pipeline/pipelinetest"
	"github.com/pricemill/pricemill/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers each price with an unchanged quote, and refuses prices of 13.
type echo struct {
	prepared, handled atomic.Int32
}

func (e *echo) Prepare(_ context.Context, in []pipeline.Record) error {
	e.prepared.Add(1)
	for i := range in {
		in[i].Prepared = "ready"
	}
	return nil
}

func (e *echo) Handle(_ context.Context, _ *pipeline.Tx, in []pipeline.Record) ([]schema.Event, error) {
	e.handled.Add(1)
	var events []schema.Event
	for i := range in {
		p := in[i].Event.Payload.(schema.PriceObserved)
		if in[i].Prepared != "ready" {
			return nil, pipeline.Permanent(errors.New("not prepared"))
		}
		if p.Price.String() == "13" {
			return nil, pipeline.Permanent(errors.New("unlucky"))
		}
		events = append(events, in[i].Derive(schema.QuoteUnchanged{Quote: schema.Quote{Provider: p.Source, Symbol: p.Symbol},
			RawResponseID: "1", Price: p.Price, Timestamp: p.Timestamp, ReceivedAt: p.ReceivedAt}))
	}
	return events, nil
}

// Run would be a Runner's; the rig does not call it.
func (e *echo) Run(context.Context, pipeline.Emitter) error { panic("no one asked for it") }

func price(n int) schema.PriceObserved {
	at := schema.NewTime(time.Unix(int64(n), 0))
	return schema.PriceObserved{Symbol: "A", Source: "p", Price: schema.MustDecimal(fmt.Sprint(n)), Timestamp: at, ReceivedAt: at}
}

func start(t *testing.T, rig *pipelinetest.Rig, h pipeline.Handler) *pipelinetest.Stage {
	t.Helper()
	stage := rig.Start(t, engine.StageSpec{Name: "echo", Consumes: []schema.EventType{schema.PriceObserved{}.EventType()},
		Produces: []schema.EventType{schema.QuoteUnchanged{}.EventType()}, Handler: h})
	t.Cleanup(func() { stage.Close(t) })
	return stage
}

func TestAStageIsFedByHand(t *testing.T) {
	t.Parallel()
	rig, h := pipelinetest.New(t), &echo{}
	stage := start(t, rig, h)
	log := rig.AppendAll(t, price(1), price(2), price(3))
	require.NoError(t, stage.Deliver())
	require.NoError(t, stage.Deliver(log[:2]...))
	assert.Len(t, rig.Events(t, schema.QuoteOutcomes), 2)

	stage.Restart(t)
	stage.Undo(3)
	require.NoError(t, stage.Deliver(log...))
	events := rig.Events(t, schema.QuoteOutcomes)
	require.Len(t, events, 1, "what was applied before is not applied again, and what was undone is published once")
	assert.Equal(t, schema.MustDecimal("3"), events[0].Payload.(schema.QuoteUnchanged).Price)
	assert.EqualValues(t, 1+4, h.handled.Load())
	assert.EqualValues(t, 2, h.prepared.Load())
}

func TestDeadLettersAreAnError(t *testing.T) {
	t.Parallel()
	rig := pipelinetest.New(t)
	stage := start(t, rig, &echo{})
	err := stage.Deliver(rig.AppendAll(t, price(1), price(13), price(2))...)
	require.ErrorContains(t, err, "offset 1: unlucky")
	assert.Len(t, rig.Events(t, schema.QuoteOutcomes), 2, "the others were applied")
	require.NoError(t, stage.Deliver(rig.AppendAll(t, price(4))...))
}
