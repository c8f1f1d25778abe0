package engine

import (
	"context"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/outbox"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// emitter implements pipeline.Emitter.
type emitter struct {
	*Appender
	*store.Store
	outbox outbox.Writer
}

func (e *emitter) Emit(ctx context.Context, f func(tx *pipeline.Tx) ([]schema.Event, error)) ([]pipeline.Token, error) {
	var tokens []pipeline.Token
	err := runTx(ctx, e.Store, &pipeline.Tx{}, func(tx *pipeline.Tx) error {
		events, err := f(tx)
		if err != nil {
			return err
		}
		tokens, err = e.outbox.Append(ctx, tx.Tx, events)
		return err
	})
	if err != nil {
		return nil, err
	}
	return tokens, nil
}
