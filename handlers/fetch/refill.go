package fetch

import (
	"context"
	"fmt"

	"github.com/pricemill/pricemill/handlers/failingjobs"
	"github.com/pricemill/pricemill/handlers/provider/declared"
	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

var _ pipeline.Refiller = (*handler)(nil)

// RefillsFrom implements pipeline.Refiller.
func (*handler) RefillsFrom() []schema.EventType {
	return []schema.EventType{schema.QuoteFetched{}.EventType(), schema.QuoteFailed{}.EventType()}
}

// Refill implements pipeline.Refiller: a request that has its outcome in the log waits no
// longer, so that no provider is asked twice. Of the definitions that answers are read by, those
// that the providers still have are kept again; the texts of others are lost.
func (h *handler) Refill(ctx context.Context, tx *pipeline.Tx, in []pipeline.Record) error {
	var ids []string
	var failed []failingjobs.Outcome
	definitions := map[string]string{}
	for i := range in {
		switch outcome := in[i].Event.Payload.(type) {
		case schema.QuoteFetched:
			if outcome.RequestID != "" { // else a stream or a file has brought it
				ids = append(ids, outcome.RequestID)
			}
			if version, text := h.definition(outcome.Provider); version != "" && version == declared.Kept(outcome.Definition) {
				definitions[version] = text
			}
		case schema.QuoteFailed:
			ids = append(ids, outcome.RequestID)
			failed = append(failed, failureOf(outcome))
		}
	}
	if _, err := store.SelectIn[string](ctx, tx, `DELETE FROM fetch_queue WHERE request_id IN (?) RETURNING request_id`, ids); err != nil {
		return fmt.Errorf("removing requests that have an outcome: %w", err)
	}
	if err := declared.Keep(ctx, tx, definitions); err != nil {
		return err
	}
	return failingjobs.Note(ctx, tx, h.log, failed)
}
