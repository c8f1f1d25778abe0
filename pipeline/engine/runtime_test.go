package engine

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/schema"
)

// brokenBroker has subscribers that refuse, or that end by themselves.
type brokenBroker struct {
	log.Broker
	refuse error
}

func (b brokenBroker) Subscriber(log.SubscriberConfig) (message.Subscriber, error) { return b, nil }

func (b brokenBroker) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	ended := make(chan *message.Message)
	close(ended)
	return ended, b.refuse
}

func (b brokenBroker) Close() error { return nil }

// idleRunner does nothing until it is told to stop.
type idleRunner struct{ Recorder }

func (*idleRunner) Run(ctx context.Context, _ pipeline.Emitter) error { <-ctx.Done(); return nil }

// A runtime whose stages cannot run says so, instead of idling next to them.
func TestRunEndsWithItsRouter(t *testing.T) {
	t.Parallel()
	refused := errors.New("no partitions for you")
	for name, broker := range map[string]brokenBroker{"refused": {refuse: refused}, "ended": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := NewRig(t, &Recorder{})
			runtime, err := New(Config{Store: r.DB, Broker: broker, Topics: r.Stage.topics, Log: slog.New(slog.DiscardHandler),
				Stages: []StageSpec{{Name: "idle", Consumes: []schema.EventType{schema.PriceObserved{}.EventType()}, Handler: &idleRunner{}}}})
			require.NoError(t, err)
			err = runtime.Run(t.Context(), func() {})
			require.Error(t, err)
			if broker.refuse != nil {
				assert.ErrorIs(t, err, refused)
			}
		})
	}
}
