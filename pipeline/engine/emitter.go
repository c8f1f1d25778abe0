package engine

import (
	"context"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/outbox"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/pipeline/tracing"
	"github.com/pricemill/pricemill/schema"
)

// emitter implements pipeline.Emitter.
type emitter struct {
	*Appender
	*store.Store
	outbox outbox.Writer
	tracer *tracing.Tracer // nil for none
}

func (e *emitter) Emit(ctx context.Context, f func(tx *pipeline.Tx) ([]schema.Event, error)) ([]pipeline.Token, error) {
	var tokens []pipeline.Token
	var spans published
	err := runTx(ctx, e.Store, &pipeline.Tx{}, func(tx *pipeline.Tx) error {
		events, err := f(tx)
		if err != nil {
			return err
		}
		spans.end(errRolledBack) // of a run before this one
		events, spans = publish(ctx, e.tracer, events)
		tokens, err = e.outbox.Append(ctx, tx.Tx, events)
		return err
	})
	spans.end(err)
	if err != nil {
		return nil, err
	}
	return tokens, nil
}
