package normalize

import (
	"context"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/audit"
)

var _ audit.Audited = (*handler)(nil)

// Audit implements audit.Audited: from each stored answer follows something. It
// holds at least one price, each of which is observed or unchanged, or it is
// rejected. How many prices it holds is for its provider to say, and may be said
// otherwise by another version of it.
func (h *handler) Audit(_ context.Context, view *audit.View) (audit.Auditor, error) {
	return audit.EachApplied(func(_ context.Context, r *pipeline.Record, events int) error {
		if events == 0 {
			view.Missing("nothing follows from the answer at offset %d of %s", r.Offset, r.TopicPartition)
		}
		return nil
	}), nil
}
